"""``$name`` in configuration files: which names there are, who wins, and what is left alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.config import LoadedConfig, from_mapping, load, parse_global
from windtunnel.config.expand import Names, expand_document
from windtunnel.environments.base import Environment
from windtunnel.errors import ConfigError
from windtunnel.model import RunResult, Status, utc_now
from windtunnel.options import expand
from windtunnel.tunables import TunableGroups


def described(description: str, **more: Any) -> dict[str, Any]:
    return {
        "experiment": "demo",
        "description": description,
        "objectives": {"x": "min"},
        "environment": {"class": "MockEnv"},
        **more,
    }


def in_environment(config: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return described("", environment={"class": "MockEnv", "config": config}, **more)


def names(system: Mapping[str, str] | None = None, **given_names: object) -> Names:
    return Names(given=given_names, written={}, builtin={}, system=system or {})


def test_the_first_who_knows_a_name_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", "system")
    monkeypatch.setenv("config_dir", "system")
    file = {"PLACE": "file"}

    def text(**options: Any) -> str:
        return from_mapping(described("$PLACE"), **options).config.description

    assert text() == "system"
    assert from_mapping(described("${PLACE}!", globals=file)).config.description == "file!"
    given_too = from_mapping(described("$PLACE", globals=file), globals={"PLACE": "given"})
    assert given_too.config.description == "given"
    assert from_mapping(described("$config_dir"), directory="/etc").config.description == "/etc"


def test_built_in_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "e.toml").write_text(
        'experiment = "run-$tag"\nstorage = "sqlite:///$config_dir/$experiment_id.db"\n'
        'objectives.x = "min"\nenvironment.class = "MockEnv"\nglobals.tag = "a"\n'
    )
    monkeypatch.chdir(tmp_path)

    loaded = load("e.toml", globals={"tag": "b"})

    assert loaded.config.experiment == "run-b"
    assert loaded.config.storage == f"sqlite:///{tmp_path}/run-b.db"
    assert loaded.globals == {"config_dir": str(tmp_path), "experiment_id": "run-b", "tag": "b"}


def test_a_value_that_is_one_name_takes_its_type() -> None:
    data = in_environment(
        {"const_args": {"rows": "$n", "label": "n=$n", "fast": "${fast}"}},
        trials="$n",
        optimizer={"name": "random", "start_with_defaults": "$fast"},
        timeouts={"run": "$n"},
        globals={"n": 5, "fast": False, "also": "$n", "text": "$n/$fast"},
    )

    loaded = from_mapping(data)

    config = loaded.config
    assert (config.trials, config.optimizer.start_with_defaults) == (5, False)
    assert config.environment.config["const_args"] == {"rows": 5, "label": "n=5", "fast": False}
    assert config.globals == {"n": 5, "fast": False, "also": 5, "text": "5/false"}
    assert loaded.globals["also"] == 5


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$$x", "$x"),
        ("$$", "$"),
        ("$$$x", "$1"),
        ("$5 a $ b ${ ${x", "$5 a $ b ${ ${x"),
        ("${x}y$x.z", "1y1.z"),
    ],
)
def test_dollars(text: str, expanded: str) -> None:
    assert expand_document({"a": text}, names(x=1)) == {"a": expanded}


def test_scripts_and_patterns_are_left_as_written() -> None:
    steps = {"setup": ["echo $HOME $$"], "run": ["$nobody"], "abort": ["$x"], "teardown": ["${x}"]}
    scripts = {**steps, "any_pattern": "^$end$"}
    config = {**scripts, "children": [{"class": "A", "config": {**scripts, "file": "$x"}}], "file": "$x"}

    expanded = from_mapping(in_environment(config, globals={"x": "y"})).config.environment.config

    assert expanded == {
        **scripts,
        "children": [{"class": "A", "config": {**scripts, "file": "y"}}],
        "file": "y",
    }
    # Elsewhere the same keys are ordinary ones.
    limited = from_mapping(described("", timeouts={"run": "$t"}, globals={"t": "3s"}))
    assert limited.config.timeouts.run is not None
    assert limited.config.timeouts.run.total_seconds() == 3


def test_commands_that_start_and_stop_hosts_are_for_the_shell() -> None:
    commands = {"start_command": "power on $HOST $$", "stop_command": "$x", "reboot_command": "$x"}
    hosts = [{"name": "a", "address": "$x", "power": {**commands, "boot_id_path": "$x"}}]
    file = {"path": "$x", "power": commands}

    for written, meant in (
        (hosts, [{**hosts[0], "address": 1, "power": {**commands, "boot_id_path": 1}}]),
        (file, {"path": 1, "power": commands}),
    ):
        assert expand_document({"hosts": written}, names(x=1)) == {"hosts": meant}


def test_what_only_a_trial_knows_is_left_for_it() -> None:
    config = {
        "const_args": {"rows": 5, "path": "$config_dir/$trial_id"},
        "required_args": ["needed"],
        "file": "$host/$size/$rows/$needed/$experiment_id",
        "children": [{"class": "A", "config": {"const_args": {"inner": 1}, "file": "$inner-$rows"}}],
        "other": "$inner",
    }
    tunables = {"g": {"params": {"size": {"type": "int", "range": [1, 8], "default": 2}}}}

    expanded = from_mapping(
        in_environment(config, tunables=tunables), directory="/d"
    ).config.environment.config

    assert expanded["const_args"] == {"rows": 5, "path": "/d/$trial_id"}
    assert expanded["file"] == "$host/$size/$rows/$needed/demo"
    assert expanded["children"][0]["config"]["file"] == "$inner-$rows"
    assert expanded["other"] == "$inner"


def test_tunables_may_be_ready_made() -> None:
    groups = TunableGroups({"g": {"params": {"size": {"type": "int", "range": [1, 8], "default": 2}}}})

    config = from_mapping(
        in_environment({"file": "$size", "more": ("$n",)}, tunables=groups, globals={"n": 1})
    ).config

    assert config.tunables is groups
    assert config.environment.config == {"file": "$size", "more": [1]}


def test_a_global_overrides_a_const_arg_but_not_a_tunable() -> None:
    config = {"const_args": {"rows": 5}, "file": "$rows $size"}
    tunables = {"g": {"params": {"size": {"type": "int", "range": [1, 8], "default": 2}}}}

    loaded = from_mapping(in_environment(config, tunables=tunables), globals={"rows": 7, "size": 3})

    assert loaded.config.environment.config["file"] == "7 $size"


def test_a_const_arg_may_take_the_system_s_variable_of_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WT_TOKEN", "a$b$$c")
    monkeypatch.delenv("WT_MISSING", raising=False)
    loaded = from_mapping(in_environment({"const_args": {"WT_TOKEN": "$WT_TOKEN"}}))

    # Doubled, for the environment expands once more.
    assert loaded.config.environment.config["const_args"] == {"WT_TOKEN": "a$$b$$$$c"}
    with pytest.raises(ConfigError, match=r"\$WT_MISSING is not defined"):
        from_mapping(in_environment({"const_args": {"WT_MISSING": "$WT_MISSING"}}))


class Noted(Environment):
    async def _run(self) -> RunResult:
        return RunResult(Status.SUCCEEDED, utc_now(), {})


async def test_an_environment_gets_what_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WT_SECRET", "$trial_id $$ $x")
    data = in_environment({"const_args": {"secret": "$WT_SECRET", "mixed": "$$1 $$x $WT_SECRET/$trial_id"}})
    loaded = from_mapping(data, globals={"x": "expanded"}, directory="/")
    environment = Noted(
        name="noted", config=loaded.config.environment.config, global_config=dict(loaded.globals)
    )

    assert await environment.setup(environment.tunable_params, {"trial_id": 3})

    assert environment.parameters == {"secret": "$trial_id $$ $x", "mixed": "$1 $x $trial_id $$ $x/3"}


def test_a_name_nobody_knows_is_told_with_the_nearest_and_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROWZ", "1")

    with pytest.raises(ConfigError) as caught:
        from_mapping(in_environment({"const_args": {"a": ["$rowz"]}}, globals={"rows": 5}))

    assert caught.value.path == ("environment", "config", "const_args", "a", 0)
    message = "$rowz is not defined; give it with -g rowz=VALUE; did you mean 'rows'?"
    assert caught.value.message == message
    with pytest.raises(ConfigError) as caught:
        from_mapping(described("$zzz"))
    assert (
        caught.value.message
        == "$zzz is not defined; give it with -g zzz=VALUE; known: config_dir, experiment_id"
    )


def test_trial_names_have_no_meaning_outside_the_environment() -> None:
    with pytest.raises(
        ConfigError, match=r"storage: \$trial_id is only known to a trial; use it inside environment"
    ):
        from_mapping(described("", storage="sqlite:///$trial_id.db"))


def test_globals_that_go_in_a_circle_are_told() -> None:
    with pytest.raises(ConfigError) as caught:
        from_mapping(described("$a", globals={"z": 1, "a": "$b", "b": "-$c", "c": "$a"}))

    assert str(caught.value) == "globals.a: the globals name each other in a circle: a → b → c → a"


def test_a_mistake_in_a_global_is_told_where_it_is_written() -> None:
    with pytest.raises(ConfigError) as caught:
        from_mapping(described("$a", globals={"a": "$nobody"}))

    assert caught.value.path == ("globals", "a")


def test_values_are_not_expanded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WT_VALUE", "$HOME $$ ${x}")

    def text(loaded: LoadedConfig) -> str:
        return loaded.config.description

    assert text(from_mapping(described("$WT_VALUE"))) == "$HOME $$ ${x}"
    assert text(from_mapping(described("<$g>", globals={"g": "$WT_VALUE"}))) == "<$HOME $$ ${x}>"
    assert text(from_mapping(described("<$g>"), globals={"g": "$WT_VALUE"})) == "<$WT_VALUE>"


def test_nothing_of_the_system_s_environment_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WT_PASSWORD", "hunter2")

    loaded = from_mapping(described("no secrets"))

    assert "hunter2" not in repr(loaded)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=1", ("a", 1)),
        ("a=-3", ("a", -3)),
        ("a=1.5", ("a", 1.5)),
        ("a=1e3", ("a", 1000.0)),
        ("a=true", ("a", True)),
        ("a=false", ("a", False)),
        ("a=", ("a", "")),
        ("a=b=c", ("a", "b=c")),
        ("a=007", ("a", "007")),
        ("a=1_000", ("a", "1_000")),
        ("a=nan", ("a", "nan")),
        ("a=" + "9" * 5000, ("a", "9" * 5000)),
        ("_B2= x ", ("_B2", " x ")),
    ],
)
def test_globals_from_the_command_line(text: str, expected: tuple[str, object]) -> None:
    name, value = parse_global(text)

    assert (name, value) == expected
    assert type(value) is type(expected[1])


@pytest.mark.parametrize("text", ["", "a", "=1", "a b=1", "1a=1", "a-b=1", "ä=1"])
def test_a_global_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected a global as NAME=VALUE, found"):
        parse_global(text)


@given(st.text())
def test_text_with_its_dollars_doubled_comes_out_as_it_went_in(text: str) -> None:
    assert expand_document({"a": text.replace("$", "$$")}, names()) == {"a": text}


parts = st.lists(
    st.sampled_from(["$ ", "$$", "$x.", "${x}", "$trial_id.", "${trial_id}", "{", "}", "a", " "])
)


@given(parts, st.text(alphabet="$x{}a"))
def test_expanding_in_two_steps_is_expanding_at_once(pieces: list[str], value: str) -> None:
    text = "".join(pieces)
    data = {"environment": {"class": "A", "config": {"const_args": {"p": text}}}}

    half = expand_document(data, names(x=value))["environment"]["config"]["const_args"]["p"]

    assert expand(half, {"trial_id": 7}) == expand(text, {"x": value, "trial_id": 7})
