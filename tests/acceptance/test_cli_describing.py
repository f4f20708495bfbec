"""``validate``, ``show-config`` and ``schema``, and the options that put a description together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.inprocess import Call, make_call

BASE = """\
tunables: {g: {params: {x: {type: int, range: [1, 8], default: 2}}}}
environment:
  class: MockEnv
  config:
    const_args: {rows: $rows, home: "at $WHERE/data", key: "${file:key.txt}", password: literal}
"""
TOP = """\
include: base.yaml
experiment: of-$rows
objectives: {score: min}
trials: ${n:-3}
storage: postgresql://me:hunter1@db/x
globals: {rows: 10}
"""


@pytest.fixture
def call(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.setenv("WHERE", "hunter2")
    for name, text in {"e.yaml": TOP, "base.yaml": BASE, "key.txt": "hunter3\n"}.items():
        (tmp_path / name).write_text(text)
    return make_call(tmp_path, capsys, monkeypatch)


def test_validate_says_that_a_file_is_fine(call: Call) -> None:
    done = call("validate", "e.yaml")
    assert (done.code, done.err) == (0, "")
    assert done.out == "e.yaml is fine: 3 trials of of-10 on this machine\n  MockEnv :: 'MockEnv'\n"
    assert call("validate", "e.yaml", "--json").data == {"file": "e.yaml", "valid": True, "mistakes": []}


def test_validate_tells_every_mistake(call: Call, tmp_path: Path) -> None:
    (tmp_path / "e.yaml").write_text(TOP + "trails: 3\nretries: often\n")
    (tmp_path / "base.yaml").write_text(BASE.replace("$rows", "$rowz"))
    done = call("validate", "e.yaml")
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines() == [
        "e.yaml:7:1: unknown key 'trails'; did you mean 'trials'?",
        "e.yaml:8:1: retries: expected a mapping, found 'often'",
        "base.yaml:5:18: $rowz is not defined; give it with -g rowz=VALUE; did you mean 'rows'?",
        "3 mistakes in e.yaml",
    ]
    data = call("validate", "e.yaml", "--json").data
    assert not data["valid"]
    assert data["mistakes"][2] == {
        "file": "base.yaml",
        "line": 5,
        "column": 18,
        "key": "environment.config.const_args.rows",
        "message": "$rowz is not defined; give it with -g rowz=VALUE; did you mean 'rows'?",
    }


def test_validate_tells_of_a_file_that_cannot_be_read(call: Call, tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("a: [\n")
    (mistake,) = call("validate", "e.yaml", "--json").data["mistakes"]
    assert (mistake["file"], mistake["line"]) == ("base.yaml", 2)
    assert call("validate", "gone.yaml").err.startswith("gone.yaml: there is no such file")


def test_validate_finds_modules_beside_the_file(call: Call, tmp_path: Path) -> None:
    (tmp_path / "beside_check.py").write_text("def bench(params):\n    return {'score': 1}\n")
    described = {"class": "FunctionEnv", "config": {"function": "beside_check:bench"}}
    top = {"experiment": "e", "objectives": {"score": "min"}, "environment": described}
    (tmp_path / "e.json").write_text(json.dumps(top))
    assert call("validate", "e.json").code == 0


def test_show_config_tells_where_values_come_from(call: Call, tmp_path: Path) -> None:
    (tmp_path / "lab.toml").write_text("n = 4\n")
    done = call(
        "show-config", "e.yaml", "-g", "rows=500", "--globals", "lab.toml", "--storage", "sqlite:///a.db"
    )
    assert done.code == 0
    lines = {line.split("  #")[0].strip(): line.partition("# ")[2] for line in done.out.splitlines()}
    assert lines["experiment: of-500"] == "e.yaml:2, $rows from -g"
    assert lines["trials: 4"] == "e.yaml:4, $n from lab.toml:1"
    assert lines["range: [1, 8]"] == "base.yaml:1"
    assert lines['home: "at ${WHERE}/data"'] == "base.yaml:5, $WHERE from environment"
    assert lines['key: "${file:key.txt}"'] == "base.yaml:5, ${file:key.txt} from file"
    assert lines['password: "***"'] == "base.yaml:5"
    assert lines['storage: "sqlite:///a.db"'] == "--storage"
    assert lines["rows: 500"].startswith(("-g", "base.yaml:5, $rows from -g"))
    assert lines["repeats: 1"] == "default"


def test_show_config_shows_no_secret(call: Call) -> None:
    for option in ((), ("--json",)):
        done = call("show-config", "e.yaml", *option)
        assert done.code == 0
        assert "hunter" not in done.out + done.err
        assert "literal" not in done.out
    entries = {entry["key"]: entry for entry in call("show-config", "e.yaml", "--json").data}
    assert entries["storage"]["value"] == "postgresql://me:***@db/x"
    assert entries["environment.config.const_args.rows"] == {
        "key": "environment.config.const_args.rows",
        "path": ["environment", "config", "const_args", "rows"],
        "value": 10,
        "from": "base.yaml",
        "line": 5,
        "column": 18,
        "names": [{"name": "$rows", "source": "e.yaml:6"}],
    }
    assert entries["trials"]["names"] == [{"name": "$n", "source": "default"}]


def test_what_show_config_prints_is_a_description_again(call: Call, tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(BASE.replace("password: literal", "note: literal"))
    (tmp_path / "again.yaml").write_text(call("show-config", "e.yaml", "--storage", "sqlite:///a.db").out)
    assert call("validate", "again.yaml").out.startswith("again.yaml is fine: 3 trials of of-10")


def test_run_takes_the_same_options(call: Call, tmp_path: Path) -> None:
    (tmp_path / "common").mkdir()
    (tmp_path / "base.yaml").rename(tmp_path / "common" / "base.yaml")
    (tmp_path / "lab.yaml").write_text("n: 2\n")
    arguments = ("--storage", "sqlite:///e.db", "--config-path", "common", "--globals", "lab.yaml", "--json")
    done = call("run", "e.yaml", *arguments)
    assert done.code == 0, done.err
    assert len(done.data["trials"]) == 2


def test_schema_is_json(call: Call) -> None:
    schema = call("schema").data
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert schema["properties"]["trials"]["description"]
