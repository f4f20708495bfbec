"""Files that include others: what is put together, where mistakes in it are, and what is an error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from windtunnel.config import LoadedConfig, load
from windtunnel.config.stored import dump, restore
from windtunnel.errors import ConfigError
from windtunnel.objectives import directions

BASE = """\
experiment: base
objectives: {score: min}
trials: 10
tunables: {g: {params: {x: {type: int, range: [1, 8], default: 2}}}}
environment: {class: MockEnv, config: {mock_env_seed: 3, const_args: {rows: 10}}}
"""


def written(folder: Path, files: Mapping[str, str]) -> Path:
    """The files of an experiment; the path of the first."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder / next(iter(files))


def loaded(folder: Path, files: Mapping[str, str], **more: Any) -> LoadedConfig:
    return load(written(folder, files), **more)


def refused(folder: Path, files: Mapping[str, str], **more: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        loaded(folder, files, **more)
    return str(caught.value).replace(f"{folder}/", "")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("e.yaml", "include: base.yaml\nexperiment: mine\ntunables: {g: {params: {x: {default: 4}}}}\n"),
        (
            "e.json5",
            "{include: ['base.yaml'], experiment: 'mine', tunables: {g: {params: {x: {default: 4}}}}}",
        ),
        ("e.toml", 'include = "base.yaml"\nexperiment = "mine"\n[tunables.g.params.x]\ndefault = 4\n'),
    ],
)
def test_what_is_written_beside_an_include_wins(tmp_path: Path, name: str, text: str) -> None:
    config = loaded(tmp_path, {name: text, "base.yaml": BASE}).config

    assert (config.experiment, config.trials, directions(config.objectives)) == ("mine", 10, {"score": "min"})
    assert config.tunables.tunable("x").range == (1, 8)
    assert dict(config.tunables) == {"x": 4}


def test_of_several_files_the_later_wins_and_lists_are_replaced(tmp_path: Path) -> None:
    config = loaded(
        tmp_path,
        {
            "e.yaml": "include: [base.yaml, more.toml]\nexperiment: mine\n",
            "base.yaml": BASE + "pruner: [{name: worst}]\n",
            "more.toml": 'trials = 20\npruner = [{name="median"}]\nenvironment.config.const_args.size = 3\n',
        },
    ).config

    assert config.trials == 20
    assert [rule.name for rule in config.pruner] == ["median"]
    assert config.environment.config["const_args"] == {"rows": 10, "size": 3}


def test_sections_and_children_include_what_stands_there(tmp_path: Path) -> None:
    environment = {"class": "CompositeEnv", "config": {"children": [{"include": "env/mock.json"}]}}
    top = {
        "experiment": "e",
        "objectives": {"score": "min"},
        "tunables": {"include": "space.yaml"},
        "globals": {"include": "names.json5", "rows": 7},
        "environment": environment,
    }
    files = {
        "e.json": json.dumps(top),
        "space.yaml": "g: {params: {x: {type: int, range: [1, 8], default: 2}}}\n",
        "names.json5": "{rows: 1, size: 2}",
        "env/mock.json": '{"class": "MockEnv", "include": "options.yaml"}',
        "env/options.yaml": "config: {const_args: {rows: $rows, size: $size}}\n",
    }
    config = loaded(tmp_path, files).config

    assert dict(config.tunables) == {"x": 2}
    assert config.environment.config["children"] == [
        {"class": "MockEnv", "config": {"const_args": {"rows": 7, "size": 2}}}
    ]


def test_a_key_called_include_elsewhere_is_just_a_key(tmp_path: Path) -> None:
    text = BASE.replace("rows: 10", "include: nothing.yaml")
    assert loaded(tmp_path, {"e.yaml": text}).config.environment.config["const_args"] == {
        "include": "nothing.yaml"
    }


def test_files_are_looked_for_beside_then_in_the_folders_given_then_in_those_written(tmp_path: Path) -> None:
    def trials(number: int) -> str:
        return f"trials: {number}\n"

    files = {
        "e.yaml": f"include: part.yaml\nconfig_path: [written]\n{BASE.replace('trials: 10', '')}",
        "written/part.yaml": trials(1),
    }
    given = tmp_path / "given"
    given.mkdir()
    assert loaded(tmp_path, files, config_path=[given]).config.trials == 1
    (given / "part.yaml").write_text(trials(2))
    assert loaded(tmp_path, files, config_path=[given]).config.trials == 2
    (tmp_path / "part.yaml").write_text(trials(3))
    assert loaded(tmp_path, files, config_path=[given]).config.trials == 3


def test_the_folders_of_a_file_count_for_what_it_includes(tmp_path: Path) -> None:
    files = {
        "e.yaml": f"include: sub/a.yaml\nconfig_path: common\n{BASE}",
        "sub/a.yaml": "include: b.yaml\n",
        "common/b.yaml": "description: found\n",
    }
    assert loaded(tmp_path, files).config.description == "found"


def test_the_name_of_an_included_file_may_hold_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "e.yaml": f"include: $config_dir/${{kind:-small}}.yaml\n{BASE.replace('trials: 10', '')}",
        "small.yaml": "trials: 1\n",
        "big.yaml": "trials: 9\n",
        "huge.yaml": "trials: 99\n",
    }
    assert loaded(tmp_path, files).config.trials == 1
    monkeypatch.setenv("kind", "huge")
    assert loaded(tmp_path, files).config.trials == 99
    assert loaded(tmp_path, files, globals={"kind": "big"}).config.trials == 9


def test_every_layer_of_names_wins_over_those_below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The documented order: -g, files of globals, the file's, included ones, the environment, the default."""
    names = ("a", "b", "c", "d", "e", "f")
    files = {
        "e.yaml": "include: base.yaml\nglobals: {a: 3, b: 3, c: 3}\ndescription: "
        + " ".join(f"${{{name}:-6}}" for name in names),
        "base.yaml": BASE + "globals: {a: 4, b: 4, c: 4, d: 4}\n",
    }
    for name in names[:5]:
        monkeypatch.setenv(name, "5")
    more = written(tmp_path, {"names.toml": "a = 2\nb = 2\n"})
    config = loaded(tmp_path, files, globals={"a": 1}, globals_files=[more]).config
    assert config.description == "1 2 3 4 5 6"
    assert config.globals == {"a": 1, "b": 2, "c": 3, "d": 4}


def test_a_file_of_globals_may_use_names_and_the_later_one_wins(tmp_path: Path) -> None:
    one = written(tmp_path, {"one.yaml": "rows: 1\nsize: ${rows}k\n"})
    two = written(tmp_path, {"two.json5": "{rows: 2}"})
    config = loaded(tmp_path, {"e.yaml": BASE + "description: $size\n"}, globals_files=[one, two]).config
    assert config.description == "2k"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (
            {"e.yaml": f"{BASE}include: part.yml\n", "part.yaml": "trials: 2\n"},
            "e.yaml:6:1: include: there is no file 'part.yml' in",
        ),
        (
            {"e.yaml": f"{BASE}include: part.yml\n", "part.yaml": "trials: 2\n"},
            "; did you mean 'part.yaml'?",
        ),
        (
            {
                "e.yaml": f"include: [a.yaml]\n{BASE}",
                "a.yaml": "include: b.toml\n",
                "b.toml": 'include = "e.yaml"\n',
            },
            "b.toml:1:1: include: the files include each other in a circle: e.yaml → a.yaml → b.toml →",
        ),
        ({"e.yaml": f"include: e.yaml\n{BASE}"}, "in a circle: e.yaml → e.yaml"),
        (
            {"e.yaml": f"include: 3\n{BASE}"},
            "e.yaml:1:1: include: expected the path of a file or a list of them",
        ),
        ({"e.yaml": f"include: $nowhere/x.yaml\n{BASE}"}, "e.yaml:1:1: include: $nowhere is not defined"),
        ({"e.yaml": f"config_path: gone\n{BASE}"}, "e.yaml:1:1: config_path: there is no folder"),
        ({"e.yaml": f"include: a.yaml\n{BASE}", "a.yaml": "trials: [\n"}, "a.yaml:2:"),
        (
            {"e.yaml": f"include: a.yaml\n{BASE}", "a.yaml": "retires: 3\n"},
            "a.yaml:1:1: unknown key 're",
        ),
        (
            {"e.yaml": f"include: a.json\n{BASE}", "a.json": '{"timeouts":\n{"run": "never"}}'},
            "a.json:2:2: run: expected a duration",
        ),
        (
            {"e.yaml": f"include: a.toml\n{BASE}", "a.toml": '[environment.config.const_args]\nx = "$y"\n'},
            "a.toml:2:1: x: $y is not defined",
        ),
    ],
)
def test_a_mistake_is_told_where_it_was_written(tmp_path: Path, files: dict[str, str], said: str) -> None:
    assert said in refused(tmp_path, files)


def test_a_file_of_globals_that_is_wrong_is_told_with_its_line(tmp_path: Path) -> None:
    names = written(tmp_path, {"names.yaml": "rows: 1\nsizes: [1]\n"})
    assert refused(tmp_path, {"e.yaml": BASE}, globals_files=[names]).startswith(
        "names.yaml:2:1: sizes: expected a string, a number"
    )


def test_every_mistake_comes_with_the_first(tmp_path: Path) -> None:
    text = BASE.replace("trials: 10", "trials: many\nconcurency: 2\nrepeats: 0").replace(
        "rows: 10", "rows: $nix"
    )
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, {"e.yaml": text})
    told = {(one.line, one.message.partition(";")[0]) for one in caught.value.all}
    assert told == {
        (3, "expected an integer, found 'many'"),
        (4, "unknown key 'concurency'"),
        (5, "expected at least 1, found 0"),
        (7, "$nix is not defined"),
    }


def test_a_name_that_is_not_known_is_one_mistake_not_two(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, {"e.yaml": BASE.replace("trials: 10", "trials: $many")})
    (mistake,) = caught.value.all
    assert mistake.message.startswith("$many is not defined; give it with -g many=VALUE")


def test_an_editor_may_be_told_of_the_schema(tmp_path: Path) -> None:
    data = {"$schema": "schema.json", "experiment": "e", "objectives": {"score": "min"}}
    text = json.dumps({**data, "environment": {"class": "MockEnv"}})
    assert loaded(tmp_path, {"e.json": text}).config.experiment == "e"


def test_what_is_stored_stands_alone(tmp_path: Path) -> None:
    files = {
        "e.yaml": "include: base.yaml\nexperiment: mine\ndescription: $note of $size\n",
        "base.yaml": BASE,
    }
    names = written(tmp_path, {"names.yaml": "note: big\nsize: 3\n"})
    text = dump(loaded(tmp_path, files, globals_files=[names], globals={"size": 4}))
    for file in tmp_path.iterdir():
        file.unlink()

    again = restore(text, experiment_id="mine").config
    assert (again.trials, again.description) == (10, "big of 4")


# Defaults and files


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${rows:-500}", 500),
        ("${rows:-true}", True),
        ("${rows:-}", ""),
        ("${rows:-a b}", "a b"),
        ("n=${rows:-007}", "n=007"),
        ("${given:-500}", 3),
        ("${empty:-500}", 500),
        ("$${rows:-500}", "${rows:-500}"),
    ],
)
def test_a_default_stands_for_what_is_not_given(tmp_path: Path, text: str, value: object) -> None:
    environment = {"class": "MockEnv", "config": {"tunable_params": [], "mock_env_metrics": [text]}}
    top = {"experiment": "e", "objectives": {"score": "min"}, "environment": environment}
    config = loaded(tmp_path, {"e.json": json.dumps(top)}, globals={"given": 3, "empty": ""}).config
    assert config.environment.config["mock_env_metrics"] == [value]


def test_what_a_file_holds_is_read_by_name(tmp_path: Path) -> None:
    files = {
        "e.yaml": BASE.replace("rows: 10", "password: '${file:secret.txt}', url: 'x:${file:secret.txt}@y'"),
        "secret.txt": "hunter$2\n",
    }
    one = loaded(tmp_path, files)
    arguments = one.config.environment.config["const_args"]
    assert arguments == {"password": "hunter$$2", "url": "x:hunter$$2@y"}, "it is expanded once more there"
    assert "hunter" not in dump(one)
    assert restore(dump(one), experiment_id="base").config == one.config

    said = refused(tmp_path, {**files, "e.yaml": files["e.yaml"].replace("secret.txt", "gone.txt")})
    assert (
        said == "e.yaml:5:71: password: cannot read the file of ${file:gone.txt}: No such file or directory"
    )


@pytest.mark.parametrize("reference", ["$SECRET", "${file:secret.txt}"])
def test_a_mistake_does_not_tell_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str
) -> None:
    monkeypatch.setenv("SECRET", "hunter'2")
    files = {"e.yaml": BASE.replace("trials: 10", f"trials: {reference}"), "secret.txt": "hunter'2"}
    said = refused(tmp_path, files)
    assert "hunter" not in said
    assert f"expected an integer, found '{reference}'" in said.replace('"', "'")
