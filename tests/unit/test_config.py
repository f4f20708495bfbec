"""The description of an experiment: what it may say, and what is said about a mistake in it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from windtunnel.config import from_mapping, load
from windtunnel.errors import ConfigError, TunableError
from windtunnel.model import Timeouts
from windtunnel.objectives import Objective
from windtunnel.tunables import TunableGroups

EXAMPLE = r"""
experiment: sqlite-pragmas              # id; running the file again resumes it
objectives: {ops_per_s: max}
trials: 24                              # exactly so many (repeats counted), never more
repeats: 2                              # per configuration
concurrency: 2
timeouts: {setup: 30s, run: 60s, teardown: 10s}
storage: sqlite:///windtunnel.db        # the default
optimizer: {name: random, seed: 1, start_with_defaults: true}
tunables:
  pragmas:
    cost: 1
    params:
      cache_kib:    {type: int, range: [64, 65536], log: true, default: 2048}
      journal_mode: {type: categorical, values: [delete, wal], default: delete}
environment:
  class: LocalEnv                       # short name, dotted path, or CompositeEnv with children
  name: sqlite
  config:
    tunable_params: [pragmas]
    const_args: {rows: 20000}
    shell_env_params: [cache_kib, journal_mode, rows]
    setup: ["mkdir -p data"]
    run: ["python3 $config_dir/bench.py"]
    teardown: ["rm -rf data"]
    telemetry_stdout_pattern: '^telemetry (?P<metric>\w+)=(?P<value>\S+)$'
    results_stdout_pattern: '^(?P<metric>\w+): (?P<value>\S+)$'
    read_results_file: results.csv
"""

SMALL: dict[str, Any] = {
    "experiment": "demo",
    "objectives": {"qps": "max"},
    "timeouts": {"setup": "5s", "teardown": "2s"},
    "optimizer": {"name": "grid"},
    "tunables": {"cache": {"cost": 1, "params": {"size": {"type": "int", "range": [1, 8], "default": 2}}}},
    "environment": {
        "class": "CompositeEnv",
        "config": {"children": [{"class": "MockEnv", "config": {"noise": 0.5}}, {"class": "LocalEnv"}]},
    },
}


def test_the_example_loads(tmp_path: Path) -> None:
    path = tmp_path / "example.yaml"
    path.write_text(EXAMPLE)

    loaded = load(path)

    config = loaded.config
    assert (config.experiment, config.trials, config.repeats, config.concurrency) == (
        "sqlite-pragmas",
        24,
        2,
        2,
    )
    assert config.objectives == {"ops_per_s": Objective(direction="max")}
    assert config.timeouts.as_timeouts() == Timeouts(
        setup=timedelta(seconds=30), run=timedelta(seconds=60), teardown=timedelta(seconds=10)
    )
    assert config.storage == "sqlite:///windtunnel.db"
    assert (config.optimizer.name, config.optimizer.seed, config.optimizer.options) == ("random", 1, {})
    assert dict(config.tunables) == {"cache_kib": 2048, "journal_mode": "delete"}
    assert (config.environment.class_name, config.environment.name) == ("LocalEnv", "sqlite")
    assert config.environment.config == YAML(typ="safe", pure=True).load(EXAMPLE)["environment"]["config"]
    assert loaded.globals == {"config_dir": str(tmp_path), "experiment_id": "sqlite-pragmas"}


def test_what_is_not_said_has_its_default() -> None:
    config = from_mapping(
        {"experiment": "demo", "objectives": {"b": "min", "a": "max"}, "environment": {"class": "MockEnv"}}
    ).config

    assert (config.description, config.trials, config.repeats, config.concurrency) == ("", 100, 1, 1)
    assert list(config.objectives) == ["b", "a"]
    assert config.timeouts.as_timeouts() == Timeouts()
    assert config.lease == timedelta(seconds=30)
    assert config.storage == "sqlite:///windtunnel.db"
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.seed, optimizer.start_with_defaults) == (None, None, True)
    assert dict(config.tunables) == {}
    assert (config.environment.name, config.environment.config) == ("MockEnv", {})


def test_an_optimizer_is_a_name_or_a_mapping_with_its_own_options() -> None:
    assert from_mapping({**SMALL, "optimizer": "one-shot"}).config.optimizer.name == "one-shot"
    optimizer = from_mapping({**SMALL, "optimizer": {"name": "grid", "points": 5}}).config.optimizer
    assert (optimizer.name, optimizer.options) == ("grid", {"points": 5})


def test_no_limit_is_null() -> None:
    timeouts = from_mapping(
        {**SMALL, "timeouts": {"setup": None, "run": "1.5h", "trial": 90}}
    ).config.timeouts

    assert timeouts.as_timeouts() == Timeouts(
        setup=None, run=timedelta(minutes=90), trial=timedelta(seconds=90)
    )


def to_toml(value: Mapping[str, Any], prefix: str = "") -> str:
    """Every value on a line of its own, under its dotted key; a list of mappings as tables at the end."""
    lines, tables = [], []
    for key, inner in value.items():
        name = f"{prefix}{key}"
        if isinstance(inner, Mapping):
            inner_lines = to_toml(inner, f"{name}.").splitlines(keepends=True)
            cut = next((i for i, line in enumerate(inner_lines) if line.startswith("[[")), len(inner_lines))
            lines += inner_lines[:cut]
            tables += inner_lines[cut:]
        elif isinstance(inner, list) and inner and isinstance(inner[0], Mapping):
            tables += [f"[[{name}]]\n{to_toml(item)}" for item in inner]
        else:
            lines.append(f"{name} = {json.dumps(inner)}\n")
    return "".join([*lines, *tables])


def to_yaml(data: Mapping[str, Any]) -> str:
    writer, text = YAML(typ="safe", pure=True), StringIO()
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # declared by its default
    writer.dump(dict(data), text)
    return text.getvalue()


WRITERS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "wrong.yaml": to_yaml,
    "wrong.json5": lambda data: "// first\n" + json.dumps(data, indent=2),
    "wrong.toml": to_toml,
}

MISSING = object()
FIRST = ("environment", "config", "children", 0)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(
    ("path", "value", "marker", "said"),
    [
        (("trails",), 5, "trails", "unknown key 'trails'; did you mean 'trials'?"),
        (("timeouts", "steup"), "5s", "steup", "unknown key 'steup'; did you mean 'setup'?"),
        (("timeouts", "xyzzy"), "5s", "xyzzy", "known: experiment, run, setup, status, teardown, trial"),
        (("environment", "clazz"), "X", "clazz", "unknown key 'clazz'; did you mean 'class'?"),
        (("environment", "options"), 1, "options", "unknown key 'options'; known: class, config, name"),
        ((*FIRST, "confg"), 1, "confg", "unknown key 'confg'; did you mean 'config'?"),
        ((*FIRST, "name"), 7, "7", "expected a string, found 7"),
        (("tunables", "cache", "params", "size", "rnage"), 1, "rnage", "did you mean 'range'?"),
        (("tunables", "cache", "cots"), 1, "cots", "did you mean 'cost'?"),
        (("tunables", "cache", "params", "size", "when"), {"sise": 1}, "sise", "did you mean 'size'?"),
        (("tunables", "cache", "params", "size", "when"), {"size": 2}, "when", "must not form a circle"),
        (("constraints",), "size < 3", "constraints", "expected a list, found 'size < 3'"),
        (("constraints",), ["size < 3", "sise > 1"], "sise", "no tunable 'sise'; did you mean 'size'?"),
        (("constraints",), ["size < 3", "size > 2"], "size > 2", "the defaults violate the constraint"),
        (("constraints",), [3], "3", "expected a string, found 3"),
        (("trials",), "24", "trials", "expected an integer, found '24'"),
        (("trials",), 24.0, "trials", "expected an integer, found 24.0"),
        (("trials",), True, "trials", "expected an integer, found true"),
        (("trials",), 0, "trials", "expected at least 1, found 0"),
        (("repeats",), 10**9, "repeats", "expected at most 10000, found 1000000000"),
        (("concurrency",), 10**9, "concurrency", "expected at most 100000, found 1000000000"),
        (("repeats",), -1, "repeats", "expected at least 1, found -1"),
        (("concurrency",), [1], "concurrency", "expected an integer, found [1]"),
        (("lease",), "30x", "lease", "expected a duration such as 30s, 5m or 1.5h, found '30x'"),
        (("lease",), "100ms", "lease", "expected at least 1s, found 0.1s"),
        (("timeouts", "teardown"), "soon", "teardown", "expected a duration such as 30s"),
        (("timeouts", "run"), False, "run", "expected a duration such as 30s, 5m or 1.5h, found false"),
        (("objectives", "qps"), "maximum", "qps", "expected 'min' or 'max', found 'maximum'"),
        (("objectives", "qps"), "mix", "qps", "found 'mix'; did you mean 'min'?"),
        (("objectives", "qps"), 3, "qps", "expected a mapping, found 3"),
        (("objectives", "qps"), {"goal": "up"}, "goal", "expected 'min' or 'max', found 'up'"),
        (("objectives", "qps"), {"min": 0}, "qps", "missing key 'goal'"),
        (("objectives", "qps"), {"goal": "min", "wieght": 1}, "wieght", "did you mean 'weight'?"),
        (("objectives", "qps"), {"goal": "min", "weight": 0}, "weight", "expected a value above 0, found 0"),
        (("objectives", "qps"), {"goal": "min", "max": "x"}, "max", "expected a number, found 'x'"),
        (("objectives", "qps"), {"goal": "min", "min": 2, "max": 1}, "qps", "found 2 and 1"),
        (("objectives",), ["qps"], "objectives", "expected a mapping, found ['qps']"),
        (
            ("storage",),
            "bench.db",
            "storage",
            "expected the URL of a database, such as sqlite:///windtunnel.db",
        ),
        (("optimizer", "seed"), "1", "seed", "expected an integer, found '1'"),
        (("optimizer", "start_with_defaults"), "yes", "start_with", "expected true or false, found 'yes'"),
        (("optimizer",), 3, "optimizer", "expected a mapping, found 3"),
        (("tunables",), [1], "tunables", "expected a mapping of groups, found [1]"),
        (("environment",), "MockEnv", "environment", "expected a mapping, found 'MockEnv'"),
        (("environment", "config"), [1], "config", "expected a mapping, found [1]"),
        (
            ("environment", "config", "children"),
            "x",
            "children",
            "expected a list of environments, found 'x'",
        ),
        (("globals",), [1], "globals", "expected a mapping of names to values, found [1]"),
        (("globals", "rows"), [1], "rows", "expected a string, a number, true or false, found [1]"),
        (
            ("globals", "ro-ws"),
            1,
            "ro-ws",
            "expected a name of letters, digits and underscores, found 'ro-ws'",
        ),
        (("experiment",), "", "experiment", "expected at least 1 character(s), found ''"),
        (("experiment",), " x", "experiment", "expected printable characters without spaces around them"),
        (("experiment",), "x" * 256, "experiment", "expected at most 255 characters"),
        (("description",), "at $nowhere", "nowhere", "$nowhere is not defined"),
        # What is missing is told at its nearest parent; that of the whole file is where the file begins.
        (("objectives",), MISSING, "", "missing key 'objectives'"),
        (("environment", "class"), MISSING, "environment", "missing key 'class'"),
    ],
)
def test_a_mistake_is_told_with_its_line_and_the_way_out(
    tmp_path: Path, name: str, path: tuple[str | int, ...], value: object, marker: str, said: str
) -> None:
    data = copy.deepcopy(SMALL)
    *parents, key = path
    parent: Any = data
    for step in parents:
        parent = parent.setdefault(step, {}) if isinstance(step, str) else parent[step]
    if value is MISSING:
        del parent[key]
    else:
        parent[key] = value
    file = tmp_path / name
    text = WRITERS[name](data)
    file.write_text(text)

    with pytest.raises(ConfigError) as caught:
        load(file)

    lines = text.splitlines()
    first = 2 if name == "wrong.json5" and not marker else 1
    line = next(i for i, written in enumerate(lines[first - 1 :], first) if marker in written)
    assert str(caught.value).startswith(f"{file}:{line}:")
    assert said in str(caught.value)


def test_an_objective_needs_a_name() -> None:
    with pytest.raises(ConfigError, match="expected at least 1 character"):
        from_mapping({**SMALL, "objectives": {"": "min"}})


def test_a_mapping_built_in_code_has_the_path_for_a_line() -> None:
    with pytest.raises(ConfigError) as caught:
        from_mapping({**SMALL, "timeouts": {"run": "never"}})
    assert str(caught.value).startswith("timeouts.run: expected a duration")

    with pytest.raises(ConfigError, match=r"expected a mapping of options, found 'x.yaml'"):
        from_mapping("x.yaml")  # type: ignore[arg-type]  # what a caller without types may do


def test_constraints_belong_to_the_tunables_and_may_use_globals() -> None:
    mapping = {**SMALL, "globals": {"most": 5}, "constraints": ["size <= $most"]}
    config = from_mapping(mapping).config
    assert [one.text for one in config.tunables.constraints] == ["size <= 5"]
    assert not config.tunables.assign({"size": 6}).is_feasible

    space = TunableGroups(SMALL["tunables"], constraints=["size <= 7"])
    both = from_mapping({**mapping, "tunables": space}).config.tunables
    assert [one.text for one in both.constraints] == ["size <= 7", "size <= 5"]


def test_a_wrong_tunable_stays_a_tunable_error() -> None:
    with pytest.raises(TunableError) as caught:
        from_mapping(
            {**SMALL, "tunables": {"g": {"params": {"x": {"type": "int", "range": [5, 1], "default": 2}}}}}
        )

    assert caught.value.path[:4] == ("tunables", "g", "params", "x")


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "e.yaml"
    file.write_text(to_yaml({**SMALL, "trials": "$undefined"}))

    config = load(
        file, overrides={"storage": "sqlite:///$x.db", "trials": 7, "concurrency": 3, "seed": 9}
    ).config

    # Taken as they are: the shell has expanded them already.
    assert config.storage == "sqlite:///$x.db"
    assert (config.trials, config.concurrency) == (7, 3)
    assert (config.optimizer.name, config.optimizer.seed) == ("grid", 9)


@pytest.mark.parametrize(
    ("optimizer", "name"),
    [("grid", "grid"), ({"points": 3}, None), (None, None), ([{"name": "grid"}, "random"], "mixed")],
)
def test_a_seed_fits_every_form_of_optimizer(optimizer: object, name: str | None) -> None:
    data = {key: value for key, value in SMALL.items() if key != "optimizer"}
    if optimizer is not None:
        data["optimizer"] = optimizer

    config = from_mapping(data, overrides={"seed": 4, "trials": None}).config

    assert (config.optimizer.name, config.optimizer.seed, config.trials) == (name, 4, 100)


def test_a_global_that_the_file_does_not_name_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "small.json"
    environment = {"class": "MockEnv", "config": {"const_args": {"rows": 1}, "required_args": ["size"]}}
    file.write_text(json.dumps({**SMALL, "description": "on ${disk}", "environment": environment}))
    load(file, globals={"rows": 2, "size": 3, "disk": "a", "rowz": 4, "xyzzy": 5})
    assert sorted(caplog.messages) == [
        f"{file} names no global 'rowz'; did you mean 'rows'?",
        f"{file} names no global 'xyzzy'",
    ]


def test_a_wrong_override_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    file = tmp_path / "e.yaml"
    file.write_text(to_yaml({**SMALL, "trials": 5}))

    with pytest.raises(ConfigError) as caught:
        load(file, overrides={"trials": 0})
    assert str(caught.value) == "trials: expected at least 1, found 0"
    with pytest.raises(ConfigError) as caught:
        load(file, overrides={"seed": "x"})
    assert str(caught.value) == "optimizer.seed: expected an integer, found 'x'"
    with pytest.raises(ConfigError, match=r"unknown override 'trails'; did you mean 'trials'?"):
        load(file, overrides={"trails": 0})


def test_the_configuration_cannot_be_changed() -> None:
    loaded = from_mapping(SMALL)

    with pytest.raises(ValueError, match="frozen"):
        loaded.config.trials = 3  # type: ignore[misc]  # that is the point
    with pytest.raises(TypeError):
        loaded.globals["x"] = 1  # type: ignore[index]  # that is the point


def test_an_error_found_later_finds_its_line(tmp_path: Path) -> None:
    file = tmp_path / "e.json5"
    file.write_text(json.dumps(SMALL, indent=1))
    error = ConfigError("too loud", path=("config", "noise")).within("environment", "config", "children", 0)

    text = str(load(file).locate(error))

    line = next(i for i, written in enumerate(file.read_text().splitlines(), 1) if "noise" in written)
    column = file.read_text().splitlines()[line - 1].index(chr(34) + "noise") + 1
    assert text == f"{file}:{line}:{column}: noise: too loud"
    assert str(from_mapping(SMALL).locate(ConfigError("odd", path=("trials",)))) == "trials: odd"
