"""What commands refuse: with one exit code for one kind of mistake, and in the same words everywhere."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.inprocess import Call, make_call
from tests.mlos_trees import MOCK, TUNABLES, optimizer, written

EXPERIMENT: dict[str, Any] = {
    "experiment": "e",
    "objectives": {"score": "min"},
    "trials": 2,
    "tunables": {"g": {"params": {"x": {"type": "int", "range": [1, 9], "default": 2}}}},
    "environment": {"class": "MockEnv", "config": {"tunable_params": ["g"], "mock_env_seed": -1}},
}


@pytest.fixture
def call(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    described(tmp_path)
    return make_call(tmp_path, capsys, monkeypatch)


def described(folder: Path, **changes: Any) -> None:
    (folder / "e.json").write_text(json.dumps({**EXPERIMENT, **changes}, indent=1))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("run gone.json", "gone.json: there is no such file"),
        ("validate gone.json", "gone.json: there is no such file"),
        ("hosts gone.json", "gone.json: there is no such file"),
        ("run e.json --globals gone.yaml", "gone.yaml: there is no such file"),
        ("run e.json --config-path gone", "there is no folder '.*gone'"),
        ("validate e.json --config-path gone", "there is no folder '.*gone'"),
        ("run e.json --storage sqlite:///gone/x.db", "there is no folder '.*gone'"),
        ("convert gone.jsonc", "there is no file 'gone.jsonc'"),
        ("list --storage sqlite:///gone.db", "there is no database 'gone.db'"),
        ("show e --storage sqlite:///gone.db", "there is no database 'gone.db'"),
        ("import-mlos sqlite:///gone.db", "there is no database 'sqlite:///gone.db'"),
        ("copy sqlite:///gone.db sqlite:///x.db", "there is no database 'sqlite:///gone.db'"),
        ("show gone", "there is no experiment 'gone'; there are: e"),
        ("watch gone --once", "there is no experiment 'gone'"),
        ("resume gone", "there is no experiment 'gone'"),
        ("worker gone", "there is no experiment 'gone'"),
        ("export gone", "there is no experiment 'gone'"),
        ("merge e gone", "there is no experiment 'gone'"),
        ("rename gone x", "there is no experiment 'gone'"),
        ("delete gone --yes", "there is no experiment 'gone'"),
        ("enqueue gone x=1", "there is no experiment 'gone'"),
        ("show e --trial 9", "there is no trial 9"),
    ],
)
def test_what_is_named_and_not_there_makes_the_command_wrong(
    call: Call, tmp_path: Path, line: str, said: str
) -> None:
    assert call("run", "e.json").code == 0
    done = call(*line.split())
    assert done.code == 2, done.err
    assert re.search(said, done.err), done.err
    assert not (tmp_path / "gone.db").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"pruner": "medain"},
        {"pruner": {"name": "medain"}},
        {"pruner": ["worst", {"name": "medain"}]},
        {"optimizer": "rnadom"},
        {"optimizer": {"name": "rnadom"}},
        {"environment": {"class": "MockEnvv"}},
    ],
)
def test_validate_and_run_name_a_mistake_alike(call: Call, tmp_path: Path, changes: dict[str, Any]) -> None:
    described(tmp_path, **changes)
    validated, ran = call("validate", "e.json"), call("run", "e.json")
    assert validated.code == ran.code == 2
    assert f"error: {validated.err.splitlines()[0]}\n" == ran.err
    assert call("validate", "e.json").err.endswith("1 mistake in e.json\n")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("new x --template foo", "'foo' is not one of 'load', 'local', 'ssh', 'sqlite'"),
        ("run e.json --trials many", "expected an integer, found 'many'"),
        ("run e.json --metrics-port 99999", "expected at most 65535, found '99999'"),
        ("show e --newest -1", "expected at least 0, found '-1'"),
        ("watch e --every x", "expected a number, found 'x'"),
        ("hosts e.json chek", "'chek' is not one of 'list', 'check'"),
    ],
)
def test_values_of_options_are_refused_in_our_words(call: Call, line: str, said: str) -> None:
    done = call(*line.split())
    assert done.code == 2
    assert said in done.err
    assert not re.search(r"Value error|Input should|parse", done.err)


def test_one_is_no_plural(call: Call, tmp_path: Path) -> None:
    described(tmp_path, trials=1, hosts=[{"name": "a", "address": "192.0.2.1"}])
    assert "1 trial of e on 1 host\n" in call("validate", "e.json").out


def test_an_engine_that_is_not_installed_is_told_where_the_tree_names_it(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = {
        "tunables.jsonc": TUNABLES,
        "env.jsonc": MOCK,
        "opt.jsonc": optimizer("MlosCoreOptimizer", optimizer_type="SMAC", max_suggestions=2),
        "main.jsonc": {"environment": "env.jsonc", "optimizer": "opt.jsonc", "experiment_id": "lab"},
    }
    written(tmp_path, tree)
    monkeypatch.setattr("windtunnel.optimizers.registry.find_spec", lambda _name: None)
    said = r"opt\.jsonc:\d+:\d+: optimizer 'smac' needs smac, .* 'windtunnel\[smac\]'"
    converted = call("convert", "main.jsonc")
    assert converted.code == 0
    assert re.search(f"note: {said}", converted.err), converted.err
    assert re.search(f"# To be installed where it is run:\n# - {said}", converted.out), converted.out
    ran = call("mlos", "--config", "main.jsonc")
    assert ran.code == 2
    assert re.search(f"error: {said}", ran.err), ran.err
