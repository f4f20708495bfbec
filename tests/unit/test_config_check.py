"""What is said of a description before anything runs: every mistake, each at its place."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from windtunnel.config.check import Checked, check
from windtunnel.config.load import read
from windtunnel.config.scripts import broken_files

GOOD: dict[str, Any] = {
    "experiment": "e",
    "objectives": {"score": "min"},
    "tunables": {"g": {"params": {"x": {"type": "int", "range": [0, 9], "default": 3}}}},
    "environment": {"class": "MockEnv"},
}
WRONG = """\
experimnt: x
objectives: {a: best}
trials: many
optimizer: {name: grid, pionts: 3}
pruner: [{name: median, metrc: x}, nonsuch]
tunables:
  g:
    params:
      x: {type: int, range: [5, 1], default: 3}
      y: {type: int, ragne: [5, 1], default: 3}
environment:
  class: CompositeEnv
  config:
    children:
      - {class: LocalEnv, config: {runs: x, const_args: {a: $undefined}}}
      - {class: LoclaEnv}
      - {class: MockEnv, config: {fail: 3}}
"""


def checked(folder: Path, **changes: Any) -> Checked:
    file = folder / "e.json"
    file.write_text(json.dumps({**GOOD, **changes}, indent=1))
    return check(*read(file))


def told(folder: Path, **changes: Any) -> list[str]:
    return [str(one).replace(f"{folder}/", "") for one in checked(folder, **changes).mistakes]


def local(**config: Any) -> dict[str, Any]:
    return {"class": "LocalEnv", "config": {"results_stdout_pattern": "(a)(b)", **config}}


def test_every_mistake_is_told_in_the_order_of_the_lines(tmp_path: Path) -> None:
    file = tmp_path / "e.yaml"
    file.write_text(WRONG)
    found = [(one.line, one.column, one.message.split(";")[0]) for one in check(*read(file)).mistakes]
    assert found == [
        (1, 1, "unknown key 'experimnt'"),
        (2, 14, "expected 'min' or 'max', found 'best'"),
        (3, 1, "expected an integer, found 'many'"),
        (4, 25, "unknown key 'pionts'"),
        (5, 25, "unknown key 'metrc'"),
        (5, 36, "no pruner 'nonsuch'"),
        (9, 22, "tunable 'x': the range must rise, found [5, 1]"),
        (10, 22, "tunable 'y': unknown key 'ragne'"),
        (15, 36, "unknown key 'runs'"),
        (15, 58, "$undefined is not defined"),
        (16, 10, "unknown environment class 'LoclaEnv'"),
        (17, 35, "expected at most 1, found 3"),
    ]


def test_a_good_description_comes_with_its_parts(tmp_path: Path) -> None:
    found = checked(tmp_path)
    assert found.mistakes == ()
    assert found.parts is not None
    assert found.parts.example.pprint() == "MockEnv :: 'MockEnv'"


def test_what_every_optimizer_takes_is_not_looked_for_among_its_own_options(tmp_path: Path) -> None:
    common = {"seed": 1, "start_with_defaults": False, "start_with": [{"x": 4}], "adapter": "llamatune"}
    assert told(tmp_path, optimizer={"name": "grid", "points": 3, **common}) == []


def test_parts_that_do_not_fit_are_told_together(tmp_path: Path) -> None:
    pruner = {"name": "median", "metric": "other"}  # nobody says whether more or less is better
    mistakes = told(tmp_path, pruner=pruner, environment=local(shell_env_params=["nix"]))
    assert any("no parameter 'nix' to export" in one for one in mistakes)
    assert any("pruner" in one or "direction" in one for one in mistakes)
    assert len(mistakes) == 2


def test_services_that_are_missing_are_told(tmp_path: Path) -> None:
    (mistake,) = told(tmp_path, environment={**local(run=["true"]), "class": "RemoteEnv"})
    assert "RemoteEnv works on other hosts, and hosts names none that is reached over SSH" in mistake


def test_hosts_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    (mistake,) = told(tmp_path, hosts=[{"name": "a[1-3]", "address": "b[1-2]"}])
    assert "expected as many addresses as names, found 2 for 3" in mistake
    (mistake,) = told(tmp_path, hosts="gone.ini")
    assert "there is no inventory" in mistake


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (
            {"class": "MockEnv", "config": {"mock_env_metrics": ["scores"]}},
            "the environment does not report 'score'; did you mean 'scores'?",
        ),
        (
            {"class": "LocalEnv", "config": {"run": ["true"]}},
            "the environment does not report 'score'; it reports no metrics at all",
        ),
        (
            {"class": "CompositeEnv", "config": {"children": [{"class": "LocalEnv"}, {"class": "LocalEnv"}]}},
            "it reports no metrics at all",
        ),
    ],
)
def test_an_objective_that_nothing_reports_is_told(
    tmp_path: Path, environment: dict[str, Any], said: str
) -> None:
    (mistake,) = told(tmp_path, environment=environment)
    assert mistake.startswith("e.json:4:3: ")
    assert said in mistake


def test_an_objective_that_a_script_may_report_is_fine(tmp_path: Path) -> None:
    children = {"children": [{"class": "MockEnv"}, local(run=["true"])]}
    assert told(tmp_path, environment={"class": "CompositeEnv", "config": children}) == []


def test_all_children_that_do_not_fit_are_told(tmp_path: Path) -> None:
    children = [
        {"class": "MockEnv", "config": {"const_args": {"place": "x"}, "required_args": ["first"]}},
        {"class": "MockEnv", "config": {"required_args": ["place"]}},
        {"class": "CompositeEnv", "config": {"children": [{"class": "RemoteEnv", "config": {}}]}},
        {"class": "MockEnv", "config": {"required_args": ["last"]}},
    ]
    mistakes = told(tmp_path, environment={"class": "CompositeEnv", "config": {"children": children}})
    assert [re.findall("first|place|RemoteExec|last", one)[:1] for one in mistakes] == [
        ["first"],
        ["RemoteExec"],
        ["last"],
    ]


def test_scripts_that_do_not_exist_are_told_where_they_are_named(tmp_path: Path) -> None:
    (tmp_path / "plain.sh").write_text("true\n")
    run = [
        "$config_dir/plain.sh",
        "sh $config_dir/plain.sh",
        "python3 $config_dir/gone.py > $config_dir/new.txt",
    ]
    mistakes = told(tmp_path, environment=local(run=run, teardown="/nonsuch/stop --now"))
    assert [one.partition(": ")[2] for one in mistakes] == [
        "run.0: 'plain.sh' is not executable; chmod +x it, or name what runs it",
        "run.2: there is no file 'gone.py'",
        "teardown: there is no file '/nonsuch/stop'",
    ]


def test_scripts_are_looked_for_where_a_trial_finds_them(tmp_path: Path) -> None:
    for name in ("bench.sh", "brought.sh"):
        (tmp_path / name).write_text("true\n")
    config = {
        "const_args": {"tools": "/nonsuch", "place": "/none"},
        "shell_env_params": ["tools", "place"],
        "setup": ["cp $config_dir/brought.sh .", "tools=/opt"],
        "run": ["$place/gone.sh", "~/none/gone.sh", "sh ./bench.sh", "./brought.sh", "$elsewhere/x.sh"],
        "teardown": ["$tools/set-by-a-line.sh", "'$place/as-it-is.sh'"],
    }
    mistakes = told(tmp_path, environment=local(**config))
    assert [one.partition(": ")[2].replace(str(Path.home()), "~") for one in mistakes] == [
        "run.0: there is no file '/none/gone.sh'",
        "run.1: there is no file '~/none/gone.sh'",
        (
            "run.2: './bench.sh' is looked for in the trial's own folder; that beside this file is "
            "'$config_dir/bench.sh'"
        ),
    ]


def test_what_is_to_be_uploaded_must_be_there(tmp_path: Path) -> None:
    upload = [
        {"from": "gone.txt", "to": "x"},
        {"from": "e.json", "to": "y"},
        {"from": "$config_dir/z", "to": "z"},
    ]
    environment = {**local(upload=upload), "class": "RemoteEnv"}
    hosts = [{"name": "a", "address": "192.0.2.1"}]
    mistakes = told(tmp_path, environment=environment, hosts=hosts)
    assert [one.partition(": ")[2] for one in mistakes] == [
        "from: there is no file 'gone.txt'",
        "from: there is no file 'z'",
    ]


@pytest.mark.parametrize(
    "line",
    [
        "echo hello > $config_dir/out.txt",
        "cat $config_dir/made-by-setup.txt",
        "./bench --rows $rows",
        "bench --file=/nonsuch/data",
        "python3 -c 'print(1)'",
        "$config_dir/$script",
        "$config_dir/*.sh",
        'if [ -f "$config_dir/x" ]; then true; fi',
        "/bin/sh -c true && /bin/true",
    ],
)
def test_what_cannot_be_known_is_not_told(tmp_path: Path, line: str) -> None:
    assert list(broken_files(line, tmp_path)) == []


@pytest.mark.parametrize(
    "line",
    [
        "$config_dir/gone.sh",
        '"${config_dir}/gone.sh" --fast &',
        "cd /tmp && $config_dir/gone.sh",
        "ROWS=5 nohup $config_dir/gone.sh &",
        "exec python3 -u $config_dir/gone.sh",
        "true | /nonsuch/gone.sh",
    ],
)
def test_what_a_line_starts_must_be_there(tmp_path: Path, line: str) -> None:
    (problem,) = broken_files(line, tmp_path)
    assert problem.startswith("there is no file ")
    assert problem.endswith("gone.sh'")


def test_secrets_are_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    environment = {"class": "MockEnv", "config": {"mock_env_metrics": "$SECRET", "fail": "$SECRET"}}
    mistakes = told(tmp_path, environment=environment, optimizer="$SECRET")
    assert len(mistakes) == 3
    assert "hunter2" not in str(mistakes)
    assert "found '$SECRET'" in str(mistakes)
