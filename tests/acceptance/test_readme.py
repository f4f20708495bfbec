"""The README and the help stay true: every block is executed, every example parses.

What cannot be done here is replaced, and said in ``REPLACED``: servers by files, a worker that waits for ever
by one that ends, load tests and the demo by short ones. The files that commands name are the README's own
where it shows them, and stand-ins where it does not; a search has found most of its steps before.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import pytest
import typer

import windtunnel
import windtunnel.observing.prometheus  # loading it would hold the loop of a command up
from tests.inprocess import Call, Done, make_call
from tests.integration.load.server import Server, serving
from tests.integration.test_import_mlos import Lab
from tests.mlos_trees import MOCK, TUNABLES, written
from windtunnel.cli.main import make_app
from windtunnel.config import from_mapping, yaml_syntax
from windtunnel.loadgen.plan import LoadPlan
from windtunnel.loadgen.search import Tried
from windtunnel.options import parse_options

README = Path(__file__).parents[2] / "README.md"

REPLACED = {
    "postgresql://me@db/bench": "sqlite:///bench.db",
    "worker my-server": "worker my-server --until-idle --concurrency 1",
    "--rate 2000 --duration 30s": "--rate 50 --duration 300ms",
    "--users 32": "--users 2 --duration 300ms",
    "--rate 500": "--rate 50 --duration 300ms",
    # Hosts to log in to are those of tests/integration/ssh/test_load.py.
    "--generators inventory.yaml --workers 4": "--workers 2",
    "--find-max-rate": "--find-max-rate --duration 200ms",
}
ELSEWHERE = {
    "python3 -m venv .venv": ".ci/run",
    ".venv/bin/pip install -e .": ".ci/run",
    ".venv/bin/pip install -e .[test]": ".ci/run",
    ".venv/bin/pytest": ".ci/run",
    "pip install windtunnel[load]": "test_other_commands_name_what_there_is",
}
"""Commands that are not ours, and what runs them, or looks at what they name."""
APART = {"demo": "test_the_output_that_is_shown_is_that_of_the_demo"}

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


def in_a_process(folder: Path, *arguments: str) -> Done:
    command = [sys.executable, "-m", "windtunnel", *arguments]
    done = subprocess.run(command, cwd=folder, text=True, capture_output=True, timeout=50, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


def project(folder: Path, url: str = "") -> None:
    """The files that commands name; ``url`` is what load tests load."""
    text = next(block.text for block in blocks("yaml") if block.text.startswith("experiment: my-server"))
    (folder / "experiment.yaml").write_text(text)
    for name, script in SCRIPTS.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    plan = next(block.text for block in blocks("yaml") if block.text.startswith("url: "))
    plan = re.sub("^url: .*$", f"url: {url}", plan, flags=re.MULTILINE)
    plan = re.sub("^profile: .*$", "profile: [{rate: 50, to: 80, for: 300ms}]", plan, flags=re.MULTILINE)
    (folder / "shop.yaml").write_text(plan)
    (folder / "users.csv").write_text("user\nann\n")
    seen = [Tried(rate, rate < 100, valid=True, latency_ms={"p99": 9.0}) for rate in range(93, 107)]
    (folder / "search.jsonl").write_text("".join(f"{json.dumps(one._asdict())}\n" for one in seen))
    (folder / "queries.py").write_text("async def load(call):\n    assert call.number >= 0\n")
    tree = {"env.jsonc": MOCK, "tunables.jsonc": TUNABLES, "globals/lab.jsonc": {"lab": "here"}}
    written(folder, {**tree, "cli/my-bench.jsonc": {"environment": "env.jsonc", "experiment_id": "mine"}})


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    found = re.findall(r"^ *```(\w*)$", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(found[::2]) <= {"sh", "yaml", "python", "text"}
    assert set(found[1::2]) == {""}
    tested = [block for language in ("sh", "yaml", "python", "text") for block in blocks(language)]
    assert len(tested) == len(found[::2])


def test_the_output_that_is_shown_is_that_of_the_demo(tmp_path: Path) -> None:
    """But for numbers, and for what the search happens to find."""
    (shown,) = blocks("text")
    done = in_a_process(tmp_path, "demo", "--trials", "4")
    assert done.code == 0, done.err
    for told in ("trial 4 succeeded: ops_per_s=", "See more of it:", "Make it yours; copy this file with"):
        assert told in done.out
        assert told.replace("4", "48") in shown.text
    assert _rows(done.out) == _rows(shown.text)


def _rows(text: str) -> set[str]:
    """What stands at the begin of the demo's table."""
    return set(re.findall(r"^ [ *] (\w+) {2,}", text, re.MULTILINE))


def ours() -> list[str]:
    """The command lines of this program that no test of its own runs, without its name."""
    lines = [" ".join(words[1:]) for words in commands() if words[0].endswith("windtunnel")]
    assert len(lines) > 12
    return [line for line in lines if line not in APART]


def here(line: str) -> str:
    """The command line with what can be done here."""
    for text, instead in REPLACED.items():
        line = line.replace(text, instead)
    return line


@pytest.fixture
def server() -> Iterator[Server]:
    with serving("--per-second", "150") as running:
        yield running


@pytest.mark.timeout(60)
def test_every_command_works(tmp_path: Path, call: Call) -> None:
    project(tmp_path)
    lab = Lab(tmp_path / "mlos_bench.sqlite")
    lab.config(1, x="1")
    other = (tmp_path / "experiment.yaml").read_text().replace("my-server", "last-month")
    (tmp_path / "other.yaml").write_text(other)
    assert call("run", "other.yaml", "--trials", "2").code == 0
    for line in ours():
        if line.startswith("load "):
            continue
        done = call(*here(line).split(" "))
        assert done.code == 0, (line, done.err)
        assert done.out or "--output" in line


@pytest.mark.parametrize("line", [line for line in ours() if line.startswith("load ")])
def test_every_load_test_works(tmp_path: Path, server: Server, line: str) -> None:
    """A busy machine is no good for measuring, and says so with the exit code 1."""
    project(tmp_path, server.url)
    done = in_a_process(tmp_path, *here(line).replace("http://127.0.0.1:8080/", server.url).split(" "))
    assert done.code in (0, 1), done.err
    assert "Traceback" not in done.err
    assert re.search(r"^ *all |^highest rate: ", done.out, re.MULTILINE)


def test_what_is_replaced_or_run_elsewhere_stands_there() -> None:
    assert all(any(text in line for line in ours()) for text in REPLACED)
    assert set(APART.values()) <= globals().keys()


def test_every_other_command_is_run_by_what_is_said() -> None:
    others = [" ".join(words) for words in commands() if not words[0].endswith("windtunnel")]
    assert set(others) == ELSEWHERE.keys()
    ci = (README.parent / ".ci" / "run").read_text(encoding="utf-8").replace(" -q", "").replace("'", "")
    for line, place in ELSEWHERE.items():
        assert line in ci if place == ".ci/run" else place in globals(), line


def test_other_commands_name_what_there_is() -> None:
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
    root: Any = typer.main.get_command(make_app())
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
