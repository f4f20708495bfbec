"""The README and the help stay true: every block is executed, every example parses.

What cannot be done here is replaced, and said in ``REPLACED``: servers by files, a worker that waits for ever
by one that ends. The scripts that the README's experiment names are stand-ins.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import pytest
import typer

import windtunnel
import windtunnel.observing.prometheus  # loading it would hold the loop of a command up
from tests.inprocess import Call, make_call
from tests.integration.test_import_mlos import Lab
from windtunnel.cli.main import app
from windtunnel.config import from_mapping, yaml_syntax
from windtunnel.loadgen.plan import LoadPlan
from windtunnel.options import parse_options

README = Path(__file__).parents[2] / "README.md"

REPLACED = {
    "postgresql://me@db/bench": "sqlite:///bench.db",
    "worker my-server": "worker my-server --until-idle --concurrency 1",
}
ELSEWHERE = {
    "demo": "test_demo.py",
    "load": "test_load.py",
    "mlos": "test_mlos.py",
    "convert": "test_mlos.py",
}
"""Commands that need a minute, a server or a tree of files; here they are only parsed."""

SCRIPTS = {
    "start-server.sh": "sleep 60",
    "load.sh": 'echo "telemetry load=$workers"\necho "requests_per_s: $((workers * 10))"',
    "stop-server.sh": "true",
}


class Block(NamedTuple):
    """A code block of the README.

    :ivar line: where it begins.
    """

    language: str
    text: str
    line: int


def blocks(language: str) -> Iterator[Block]:
    text = README.read_text(encoding="utf-8")
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if match[1] == language:
            yield Block(match[1], match[2], text.count("\n", 0, match.start()) + 1)


def commands() -> Iterator[list[str]]:
    """The command lines of all shell blocks, without what the shell does with their output."""
    for block in blocks("sh"):
        for line in block.text.splitlines():
            for command in re.split(r"\s&&\s", re.sub(r"\s+#.*", "", line)):
                words = shlex.split(re.split(r"\s[|>]\s", command)[0])
                if words:
                    yield words


@pytest.fixture
def call(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    return make_call(tmp_path, capsys, monkeypatch)


def project(folder: Path) -> None:
    """The README's experiment with stand-ins for its scripts."""
    text = next(block.text for block in blocks("yaml") if block.text.startswith("experiment: my-server"))
    (folder / "experiment.yaml").write_text(text)
    for name, script in SCRIPTS.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    found = re.findall(r"^```(\w*)$", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(found[::2]) <= {"sh", "yaml", "python", "text"}
    assert set(found[1::2]) == {""}


@pytest.mark.timeout(60)
def test_every_command_works(tmp_path: Path, call: Call) -> None:
    project(tmp_path)
    lab = Lab(tmp_path / "mlos_bench.sqlite")
    lab.config(1, x="1")
    other = (tmp_path / "experiment.yaml").read_text().replace("my-server", "last-month")
    (tmp_path / "other.yaml").write_text(other)
    assert call("run", "other.yaml", "--trials", "2").code == 0
    ours = [words for words in commands() if words[0].endswith("windtunnel")]
    assert len(ours) > 12
    for _, *arguments in ours:
        if arguments[0] in ELSEWHERE:
            assert f'"{arguments[0]}"' in (Path(__file__).parent / ELSEWHERE[arguments[0]]).read_text()
            assert arguments[0] in dict(all_commands())
            continue
        written = " ".join(arguments)
        for text, instead in REPLACED.items():
            written = written.replace(text, instead)
        done = call(*shlex.split(written))
        assert done.code == 0, (written, done.err)


def test_other_commands_are_known() -> None:
    programs = {words[0] for words in commands() if not words[0].endswith("windtunnel")}
    assert programs == {"python3", "pip", ".venv/bin/pip", ".venv/bin/pytest"}
    extras = (README.parent / "pyproject.toml").read_text(encoding="utf-8")
    for extra in re.findall(r"windtunnel\[([\w,]+)\]|'\.\[([\w,]+)\]'", README.read_text(encoding="utf-8")):
        for name in ",".join(extra).strip(",").split(","):
            assert f"\n{name} = [" in extras, name


@pytest.mark.parametrize("block", list(blocks("yaml")), ids=lambda block: f"line {block.line}")
def test_every_description_loads(block: Block) -> None:
    """A fragment stands in an experiment that is otherwise complete."""
    data, _ = yaml_syntax.parse(block.text)
    if "url" in data:
        parse_options(LoadPlan, data)  # what 'windtunnel load' takes
        return
    base = {"experiment": "e", "objectives": {"score": "min"}, "environment": {"class": "MockEnv"}}
    loaded = from_mapping({**base, **data})
    assert set(data) <= set(type(loaded.config).model_fields) | {"include", "config_path"}


async def executed(block: Block, names: dict[str, Any]) -> dict[str, Any]:
    """What a block of Python defines; ``await`` may stand at its top."""
    code = compile(block.text, f"README line {block.line}", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(code, names)
    if result is not None:
        await result
    return names


def python_block(start: str) -> Block:
    return next(block for block in blocks("python") if start in block.text)


def test_the_python_programs_work(tmp_path: Path, call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    names = {"__name__": "__main__"}
    exec(compile(python_block("asyncio.run(main())").text, "README", "exec"), names)
    printed = capsys.readouterr().out
    assert printed.startswith("{'pool': ")
    assert "'latency_ms': " in printed


async def test_the_python_fragments_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    project(tmp_path)

    async def bench(params: dict[str, Any], emit: Any) -> dict[str, float]:
        await emit("qps", 1.0)
        return {"latency_ms": float(params["pool"])}

    space = {"db": {"params": {"pool": {"type": "int", "range": [1, 64], "default": 4}}}}
    options: Any = {
        "objectives": {"latency_ms": "min"},
        "trials": 3,
        "storage": "sqlite:///bench.db",
        "experiment_id": "demo",
    }
    async with windtunnel.open_scheduler(bench, space, **options) as scheduler:
        await executed(python_block("scheduler.events()"), {"scheduler": scheduler, "anyio": anyio})
    await executed(python_block("open_storage"), {"windtunnel": windtunnel})
    await windtunnel.run(tmp_path / "experiment.yaml", trials=2)
    async with windtunnel.open_storage("sqlite:///windtunnel.db") as storage:
        names = await executed(python_block("results_frame"), {"storage": storage})
    assert len(names["trials"]) == 2
    environment = (await executed(python_block("class Ping"), {}))["Ping"](
        name="ping", config={"const_args": {"x": 1}}
    )
    assert await environment.setup(environment.tunable_params)
    assert (await environment.run()).metrics == {"score": 1}


def test_every_python_block_is_run() -> None:
    known = ("asyncio.run(main())", "scheduler.events()", "open_storage", "results_frame", "class Ping")
    for block in blocks("python"):
        assert any(start in block.text for start in known), block


# The help


def all_commands() -> Iterator[tuple[str, Any]]:
    root: Any = typer.main.get_command(app)
    for name, command in root.commands.items():
        if hasattr(command, "commands"):
            yield from ((f"{name} {inner}", one) for inner, one in command.commands.items())
        else:
            yield name, command


@pytest.mark.parametrize(("name", "command"), list(all_commands()), ids=lambda one: str(one))
def test_every_help_has_examples_that_parse(name: str, command: Any) -> None:
    text = command.help or ""
    _, found, examples = text.partition("Example")
    assert found, f"{name} has no example"
    lines = re.findall(r"^\s*windtunnel (.*)$", examples, re.MULTILINE)
    assert lines, name
    for line in lines:
        words = shlex.split(re.split(r"\s[|>]\s", line)[0])
        assert " ".join(words).startswith(name), line
        with command.make_context(name, words[len(name.split()) :]):
            pass
