"""Files: what is read from them, what is refused, and the way back to a line."""

from __future__ import annotations

import json
import math
import os
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel import yaml

from windtunnel.config import json5_syntax, read_document, toml_syntax, yaml_syntax
from windtunnel.errors import ConfigError

YAML = """\
# a comment
experiment: demo
objectives:
  ops: max
tunables:
  cache:
    params:
      size: {type: int, range: [1, 8],
             default: 2}
environment:
  class: CompositeEnv
  config:
    children:
      - class: LocalEnv
        config: {run: [first,
                       second]}
      - class: MockEnv
"""

JSON5 = """\
// a comment
{ experiment: 'demo',
  objectives: {
    "ops": "max"},
  tunables: {
    cache: {
      params: {
        size: {type: "int", range: [1, 8],
               default: 2}}}},
  environment: {
    class: "CompositeEnv",
    config: {
      children: [
        { class: "LocalEnv",
          config: {run: ["first",
                         "second"]}},
        {class: "MockEnv"},
      ]}}}
"""

TOML = """\
# a comment
experiment = "demo"
[objectives]
ops = "max"
[tunables]
[tunables.cache]
[tunables.cache.params.size]
type = "int"
default = 2
range = [
  1,
  8,
]
[environment]
class = "CompositeEnv"
[[environment.config.children]]
class = "LocalEnv"
config = {run = ["first",
                 "second"]}
[[environment.config.children]]
class = "MockEnv"
"""

DATA = {
    "experiment": "demo",
    "objectives": {"ops": "max"},
    "tunables": {"cache": {"params": {"size": {"type": "int", "range": [1, 8], "default": 2}}}},
    "environment": {
        "class": "CompositeEnv",
        "config": {
            "children": [
                {"class": "LocalEnv", "config": {"run": ["first", "second"]}},
                {"class": "MockEnv"},
            ]
        },
    },
}

SIZE = ("tunables", "cache", "params", "size")
CHILDREN = ("environment", "config", "children")


def write(directory: Path, name: str, text: str) -> Path:
    path = directory / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(("name", "text"), [("e.yaml", YAML), ("e.json5", JSON5), ("e.toml", TOML)])
def test_the_formats_say_the_same(tmp_path: Path, name: str, text: str) -> None:
    document = read_document(write(tmp_path, name, text))

    assert document.data == DATA
    assert document.source == str(tmp_path / name)


@pytest.mark.parametrize(
    ("path", "yaml_line", "json5_line", "toml_line"),
    [
        ((), 2, 2, 1),
        (("experiment",), 2, 2, 2),
        (("objectives", "ops"), 4, 4, 4),
        (SIZE, 8, 8, 7),
        ((*SIZE, "default"), 9, 9, 9),
        ((*SIZE, "range", 1), 8, 8, 12),
        ((*CHILDREN, 0), 14, 14, 16),
        ((*CHILDREN, 0, "config", "run", 1), 16, 16, 19),
        ((*CHILDREN, 1, "class"), 17, 17, 21),
        # What is missing is told at its nearest parent.
        (("repeats",), 2, 2, 1),
        (("objectives", "missing"), 3, 3, 3),
        ((*SIZE, "log"), 8, 8, 7),
        ((*CHILDREN, 7, "class"), 13, 13, 16),
    ],
)
def test_every_path_leads_to_its_line(
    tmp_path: Path, path: tuple[str | int, ...], yaml_line: int, json5_line: int, toml_line: int
) -> None:
    documents = [
        read_document(write(tmp_path, name, text))
        for name, text in (("e.yaml", YAML), ("e.json5", JSON5), ("e.toml", TOML))
    ]

    assert [document.places().find(path).line for document in documents] == [yaml_line, json5_line, toml_line]


def test_locate_fills_in_file_and_line_once(tmp_path: Path) -> None:
    document = read_document(write(tmp_path, "e.yaml", YAML))
    error = ConfigError("too big", path=(*SIZE, "default"))

    assert str(document.locate(error)) == f"{tmp_path / 'e.yaml'}:9:14: default: too big"

    elsewhere = ConfigError("too big", path=("experiment",), source="other.yaml", line=3)
    assert str(document.locate(elsewhere)) == "other.yaml:3: experiment: too big"


@pytest.mark.parametrize(
    ("name", "text", "line", "said"),
    [
        (
            "e.yaml",
            "a: 1\nb: [1, 2\nc: 3\n",
            3,
            "not valid YAML: while parsing a flow sequence, expected ',' or ']'",
        ),
        ("e.yaml", "a: 1\n\tb: 2\n", 2, "indent with spaces"),
        ("e.yaml", "a: 1\nb: 2\na: 3\n", 3, "key 'a' stands twice, first in line 1"),
        ("e.yaml", "a: {b: 1,\n  b: 2}\n", 2, "key 'b' stands twice, first in line 1"),
        (
            "e.yaml",
            "a: 1\nb: !!python/object:os.system {}\n",
            2,
            "'!!python/object:os.system' is not supported",
        ),
        ("e.yaml", "a: !!int x\n", 1, "expected a value of type int, found 'x'"),
        ("e.yaml", "a: &x\n  b: *x\n", 2, "an alias must not stand inside its own anchor"),
        ("e.yaml", "a: &x 1\nb: &x 2\n", 2, "anchor 'x' stands twice, first in line 1"),
        ("e.yaml", "a: *x\n", 1, "found undefined alias 'x'"),
        ("e.yaml", "a: 1\n2: b\n", 2, "expected a key that is a string, found 2; quote it"),
        ("e.yaml", "a: 1\n---\nb: 2\n", 2, "expected a single document"),
        ("e.yaml", "a: 1\nb: \x07\n", 2, "character '\\x07' is not allowed"),
        ("e.yaml", "a: {<<: 3}\n", 1, "'<<' takes a mapping"),
        ("e.yaml", "\n- a\n", 2, "expected a mapping of options, found ['a']"),
        ("e.json5", "{a: 1\n b: 2}", 2, 'not valid JSON5: unexpected "b"'),
        ("e.json5", "{a: [\n1,", 2, "unexpected end of input"),
        ("e.json5", '{"a":\n[,]}', 2, 'unexpected ","'),
        ("e.json5", '{"a":\n[1,,]}', 2, 'unexpected ","'),
        ("e.json5", "{\na: @}", 2, 'unexpected "@"'),
        ("e.json5", '{\na: "x}', 2, "unexpected end of input"),
        ("e.json5", "{a: 1}\n}", 2, 'unexpected "}"'),
        ("e.json5", "{\na: '\\ud83d'}", 2, "half a surrogate pair"),
        ("e.json", '{"a": 1,\n"a": 2}', 2, "key 'a' stands twice, first in line 1"),
        ("e.jsonc", "\n[1]", 2, "expected a mapping of options, found [1]"),
        ("e.toml", "a = 1\nb 2\n", 2, "not valid TOML: expected '=' after a key"),
        ("e.toml", "a = 1\n\na = 2\n", 3, "cannot overwrite a value"),
        ("e.toml", "a = 1\nb = [1,\n", 2, "at the end of the file"),
    ],
)
def test_a_syntax_error_says_where_and_what(
    tmp_path: Path, name: str, text: str, line: int, said: str
) -> None:
    path = write(tmp_path, name, text)

    with pytest.raises(ConfigError) as caught:
        read_document(path)

    assert said in str(caught.value)
    assert str(caught.value).startswith(f"{path}:{line}:")


@pytest.mark.parametrize(
    ("name", "text"), [("e.yaml", "# nothing\n"), ("e.json5", "{}"), ("e.toml", ""), ("e.yml", " ")]
)
def test_an_empty_file_is_told(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(ConfigError, match="the file says nothing"):
        read_document(write(tmp_path, name, text))


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"a: 1\nb: caf\xe9\n")
    (tmp_path / "directory.yaml").mkdir()
    write(tmp_path, "e.ini", "a = 1")
    expected = {
        "missing.yaml": "missing.yaml: there is no such file",
        "directory.yaml": "directory.yaml: expected a file, found a directory",
        "latin.yaml": "latin.yaml:2: expected UTF-8 text, found byte 0xe9",
        "e.ini": "e.ini: unknown format '.ini'; the name of the file must end in .yaml, .yml",
    }

    for name, said in expected.items():
        with pytest.raises(ConfigError) as caught:
            read_document(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path}{os.sep}{said}")


def test_deep_nesting_is_an_error_and_not_a_crash(tmp_path: Path) -> None:
    for name, text in (("e.yaml", "a: " + "[" * 5000 + "]" * 5000), ("e.json5", "[" * 5000 + "]" * 5000)):
        with pytest.raises(ConfigError, match="nested too deeply"):
            read_document(write(tmp_path, name, text))


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    for name, text in (("e.yaml", "a: 1"), ("e.json", '{"a": 1}'), ("e.toml", "a = 1")):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
        assert read_document(tmp_path / name).data == {"a": 1}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("No", "No"),
        ("true", True),
        ("False", False),
        ("1e3", 1000.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("-.inf", -math.inf),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2024-01-02", "2024-01-02"),
        ("=", "="),
        ("~", None),
        ("", None),
        ("'1'", "1"),
        ("!!str 1", "1"),
    ],
)
def test_yaml_means_what_version_1_2_says(text: str, value: object) -> None:
    data, _ = yaml_syntax.parse(f"a: {text}\n")

    assert data == {"a": value}
    assert type(data["a"]) is type(value)


def test_yaml_anchors_and_merges_keep_their_lines() -> None:
    data, places = yaml_syntax.parse("base: &b\n  x: 1\n  y: 2\nmore:\n  <<: *b\n  y: 3\nagain: *b\n")

    assert data == {"base": {"x": 1, "y": 2}, "more": {"x": 1, "y": 3}, "again": {"x": 1, "y": 2}}
    assert places().find(("more", "x")).line == 2
    assert places().find(("more", "y")).line == 6


def test_yaml_aliases_cannot_fill_the_memory() -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40)]

    with pytest.raises(ConfigError, match="unfold to more than 100000 values"):
        yaml_syntax.parse("\n".join(lines))


def test_json5_numbers_and_strings() -> None:
    data, _ = json5_syntax.parse(
        r"{a: -Infinity, b: +.5, c: -0x10, 'd': 'x\'y\
z', _e: [1, 2,], \u0066: null, g: -3e2}"
    )

    assert data == {"a": -math.inf, "b": 0.5, "c": -16, "d": "x'yz", "_e": [1, 2], "f": None, "g": -300.0}


def test_toml_lines_are_not_fooled_by_text_that_looks_like_keys() -> None:
    text = (
        'a = """\n[b]\nc = 1\n"""\n[b]\n"c.d" = 1\nd.e = 2 # [x]\n[[b.f]]\n[[b.f]]\ng = 1\n[b.f.h]\ni = 1\n'
    )
    data, places = toml_syntax.parse(text.replace("\n", "\r\n"))

    assert data["b"]["f"][1] == {"g": 1, "h": {"i": 1}}
    lines: dict[tuple[str | int, ...], int] = {
        ("a",): 1,
        ("b",): 5,
        ("b", "c.d"): 6,
        ("b", "d", "e"): 7,
        ("b", "f", 0): 8,
        ("b", "f", 1, "g"): 10,
        ("b", "f", 1, "h", "i"): 12,
    }
    assert {path: places().find(path).line for path in lines} == lines


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(plain)
def test_json_is_read_as_the_standard_library_reads_it(data: Any) -> None:
    assert json5_syntax.parse(json.dumps(data))[0] == data


@pytest.mark.parametrize("version", ["1.1", "1.2", "1.3"])
def test_yaml_means_the_same_whatever_version_it_claims(version: str) -> None:
    data, _ = yaml_syntax.parse(f"%YAML {version}\n---\na: on\nb: 010\nc: 2020-01-01\nd: 1_000\ne: 0b1\n")

    assert data == {"a": "on", "b": 10, "c": "2020-01-01", "d": "1_000", "e": "0b1"}


@pytest.mark.parametrize("escape", ["00110000", "FFFFFFFF"])
def test_a_yaml_escape_past_the_last_character_is_refused(escape: str) -> None:
    with pytest.raises(ConfigError, match=r"an escape '\\U' names no character"):
        yaml_syntax.parse(f'a: "\\U{escape}"')


@given(plain)
def test_what_a_yaml_writer_quotes_comes_back(data: Any) -> None:
    writer, text = yaml.YAML(typ="safe", pure=True), StringIO()
    writer.default_style = '"'  # type: ignore[assignment]  # declared by its default
    writer.dump(data, text)

    assert yaml_syntax.parse(text.getvalue())[0] == data


def test_comments_and_last_commas_are_no_part_of_strings() -> None:
    text = '{"a": "// no, }", // yes, }\n"b": [1, "/* no */,]",/* yes */],\n"c": "\\"//",}'
    data, places = json5_syntax.parse(text)
    assert data == {"a": "// no, }", "b": [1, "/* no */,]"], "c": '"//'}
    assert places().find(("c",)).line == 3
