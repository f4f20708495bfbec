"""The description as it is kept for workers: the same there, and without secrets of the environment."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from windtunnel.config import LoadedConfig, from_mapping, load
from windtunnel.config.schema import OptimizerConfig
from windtunnel.config.stored import dump, dump_refusal, optimizer_of, restore, seed_of
from windtunnel.errors import ConfigError
from windtunnel.tunables import TunableGroups

DATA: dict[str, Any] = {
    "experiment": "of-$WHO",
    "objectives": {"qps": "max"},
    "trials": 20,
    "concurrency": 2,
    "storage": "postgresql://me:hunter2@db/x",
    "tunables": {"g": {"params": {"x": {"type": "int", "range": [1, 8], "default": 2}}}},
    "globals": {"rows": 10},
    "environment": {
        "class": "MockEnv",
        "config": {"const_args": {"password": "$SECRET", "rows": "$rows", "at": "$config_dir/x"}},
    },
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHO", "me")
    monkeypatch.setenv("SECRET", "s3cret")


def arguments(loaded: LoadedConfig) -> dict[str, Any]:
    return dict(loaded.config.environment.config["const_args"])


def test_a_file_comes_back_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "e.json"
    file.write_text(json.dumps(DATA))
    loaded = load(file, overrides={"trials": 7, "seed": 3, "concurrency": 5}, globals={"rows": 20})

    again = restore(dump(loaded), experiment_id="of-me", overrides={"storage": "sqlite:///x.db"})

    wanted = loaded.config.model_copy(update={"storage": "sqlite:///x.db", "concurrency": 2})
    assert again.config == wanted, "how many trials at once is each worker's own choice"
    assert again.globals == loaded.globals
    assert arguments(again) == {"password": "s3cret", "rows": 20, "at": f"{tmp_path}/x"}
    assert again.origin.source == str(file)


def test_constraints_come_back(tmp_path: Path) -> None:
    space = TunableGroups(DATA["tunables"], constraints=["x != 7"])
    loaded = from_mapping({**DATA, "tunables": space, "constraints": ["x < $rows"]}, directory=tmp_path)
    again = restore(dump(loaded), experiment_id="of-me").config.tunables
    assert [one.text for one in again.constraints] == ["x != 7", "x < 10"]
    assert again == loaded.config.tunables


def test_what_the_environment_or_the_url_keeps_secret_is_not_stored(tmp_path: Path) -> None:
    file = tmp_path / "e.json"
    file.write_text(json.dumps(DATA))
    text = dump(load(file, overrides={"storage": "postgresql://me:tiger@db/x"}))
    assert "s3cret" not in text
    assert "hunter2" not in text
    assert "tiger" not in text
    assert "$SECRET" in text


def test_the_environment_of_the_machine_that_runs_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = dump(from_mapping(DATA, directory=tmp_path))
    monkeypatch.setenv("SECRET", "another")
    monkeypatch.setenv("WHO", "somebody")
    again = restore(text, experiment_id="of-me", globals={"rows": 30})
    assert arguments(again) == {"password": "another", "rows": 30, "at": f"{tmp_path}/x"}
    assert again.config.experiment == again.globals["experiment_id"] == "of-me"

    monkeypatch.delenv("SECRET")
    with pytest.raises(
        ConfigError, match=r"description of 'of-me': .*\$SECRET is not defined; give it with -g"
    ):
        restore(text, experiment_id="of-me")


def test_an_id_is_taken_literally(tmp_path: Path) -> None:
    text = dump(from_mapping({**DATA, "experiment": "a$$b"}, directory=tmp_path))
    assert restore(text, experiment_id="a$b").config.experiment == "a$b"


def test_a_mapping_may_hold_objects_that_json_has_no_word_for(tmp_path: Path) -> None:
    space = TunableGroups(
        {"g": {"params": {"s": {"type": "categorical", "values": ["$a", "b"], "default": "$a"}}}}
    )
    timeouts = {"run": timedelta(milliseconds=1500), "teardown": timedelta(seconds=5)}
    loaded = from_mapping(
        {**DATA, "tunables": space, "timeouts": timeouts, "lease": timedelta(seconds=9)}, directory=tmp_path
    )
    again = restore(dump(loaded), experiment_id="of-me", overrides={"storage": loaded.config.storage})
    assert again.config == loaded.config
    assert again.config.tunables == space


def test_what_cannot_be_stored_is_refused_by_the_worker_only(tmp_path: Path) -> None:
    environment = {"class": "FunctionEnv", "config": {"function": print}}
    text = dump(from_mapping({**DATA, "environment": environment}, directory=tmp_path))
    with pytest.raises(ConfigError) as caught:
        restore(text, experiment_id="of-me")
    assert "'of-me' cannot be run by another process" in str(caught.value)
    assert "environment.config.function" in str(caught.value)
    assert "builtin_function_or_method" in str(caught.value)


def test_a_python_function_is_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigError, match=r"'x' runs a Python function; start another worker by calling"):
        restore(dump_refusal(OptimizerConfig(seed=3)), experiment_id="x")
    assert seed_of(dump_refusal(OptimizerConfig(seed=3))) == 3


def test_the_optimizer_that_was_chosen_is_kept(tmp_path: Path) -> None:
    loaded = from_mapping({**DATA, "optimizer": {"seed": 3}}, directory=tmp_path)
    chosen = OptimizerConfig(name="tpe", seed=3)
    text = dump(replace(loaded, config=loaded.config.model_copy(update={"optimizer": chosen})))
    assert optimizer_of(text) == restore(text, experiment_id="of-me").config.optimizer.name == "tpe"

    stored = json.loads(text)
    del stored["optimizer"]  # as it was when random was the only default
    assert restore(json.dumps(stored), experiment_id="of-me").config.optimizer.name == "random"
    assert optimizer_of(None) is None


def test_the_folder_must_exist_here_or_be_named(tmp_path: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    here.mkdir()
    text = dump(from_mapping(DATA, directory=there))
    with pytest.raises(
        ConfigError, match=r"does not exist on this machine; copy it here and name it with --co"
    ):
        restore(text, experiment_id="of-me")
    with pytest.raises(ConfigError, match=r"there is no folder '.*nowhere'"):
        restore(text, experiment_id="of-me", directory=tmp_path / "nowhere")
    again = restore(text, experiment_id="of-me", directory=here)
    assert arguments(again)["at"] == f"{here}/x"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"form": 99}'])
def test_what_a_newer_program_has_stored_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="last run by a newer windtunnel"):
        restore(text, experiment_id="x")
    assert seed_of(text) is None


def test_a_wrong_option_of_the_worker_is_not_blamed_on_the_description(tmp_path: Path) -> None:
    text = dump(from_mapping(DATA, directory=tmp_path))
    with pytest.raises(ConfigError) as caught:
        restore(text, experiment_id="of-me", overrides={"concurrency": 0})
    assert str(caught.value) == "concurrency: expected at least 1, found 0"
