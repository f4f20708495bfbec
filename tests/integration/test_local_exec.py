"""Real shells: what runs, what is kept, and that nothing outlives its session."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from windtunnel.errors import EnvironmentFailed
from windtunnel.protocols import LineHandler, LocalExec, ScriptResult
from windtunnel.services.local_exec import LocalExecService, ScriptSession
from windtunnel.testing.detectors import no_stall

Run = Callable[..., Coroutine[Any, Any, ScriptResult]]

ENDLESS = "sleep 1000 & sleep 1000 | (touch begun; sleep 1000)"
STUBBORN = (
    "trap '' TERM INT HUP; sleep 1000 & (sleep 1000 | sleep 1000) & touch begun; while :; do sleep 1; done"
)


@pytest.fixture
def marker() -> str:
    """A text that is in the environment of every process a test starts."""
    return uuid.uuid4().hex


@pytest.fixture
async def session() -> AsyncIterator[ScriptSession]:
    async with LocalExecService().session() as session:
        yield session


@pytest.fixture
def run(session: ScriptSession, tmp_path: Path, marker: str) -> Run:
    async def run(
        *lines: str, env: Mapping[str, str] | None = None, on_line: LineHandler | None = None
    ) -> ScriptResult:
        environ = {"MARKER": marker, **(env or {})}
        return await session.run(lines, env=environ, cwd=tmp_path, on_line=on_line)

    return run


def alive(marker: str) -> list[psutil.Process]:
    """The processes that carry the marker and have not ended."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("MARKER") == marker and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(10):
        while not await anyio.to_thread.run_sync(condition):
            await anyio.sleep(0.01)


def test_it_is_a_local_exec() -> None:
    assert isinstance(LocalExecService(), LocalExec)


# What runs


@pytest.mark.parametrize(
    ("line", "printed"),
    [
        ('echo "a   b"', "a   b\n"),
        ("printf '%s|' 'x y' z", "x y|z|"),
        ("echo 'a; echo X'", "a; echo X\n"),
        ("echo 'a > b.txt'", "a > b.txt\n"),
        ("echo $((1 + 2)) | tr 3 4", "4\n"),
        ("for i in 1 2\ndo echo $i\ndone", "1\n2\n"),
        ("cat <<END\n$PLACE\nEND", "here\n"),
        ("echo # 'not a quote", "\n"),
    ],
)
async def test_lines_reach_the_shell_as_written(run: Run, line: str, printed: str, tmp_path: Path) -> None:
    result = await run(line, env={"PLACE": "here"})
    assert (result.exit_status, result.stdout.text) == (0, printed)
    assert not list(tmp_path.iterdir())


async def test_lines_share_directory_variables_and_files(run: Run, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    lines = ["cd sub; x='1  2'", "exec 9>lock; export y=3", 'pwd; echo "$x"; sh -c "echo \\$y"; ls']
    assert (await run(*lines)).stdout.text == f"{tmp_path}/sub\n1  2\n3\nlock\n"


async def test_a_script_reads_nothing_from_us_and_waits_for_its_own_children_only(run: Run) -> None:
    result = await run("cat", "true & wait", "echo done")
    assert result.stdout.text == "done\n"


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
@pytest.mark.parametrize(
    ("lines", "status", "failed"),
    [
        (["true", "false", "echo no"], 1, 1),
        (["true", "exit 3", "echo no"], 3, 1),
        (["true", "if then", "echo no"], None, 1),
        (["true", "echo 'unclosed", "echo no"], None, 1),
        (["set -e", "false; echo no", "echo no"], 1, 1),
        (["exec false", "echo no"], 1, 0),
        (["true", "true", "no-such-command-here"], 127, 2),
        (["kill -KILL $$", "echo no"], -9, 0),
        (["exit 0", "echo no"], 0, None),
    ],
)
async def test_the_first_failing_line_ends_the_script(
    tmp_path: Path, shell: str, lines: Sequence[str], status: int | None, failed: int | None
) -> None:
    if not Path(shell).exists():
        pytest.skip(f"no {shell} here")
    async with LocalExecService().session(shell=shell) as session:
        result = await session.run(lines, env={}, cwd=tmp_path)
    # Shells differ in the status of a syntax error.
    assert result.exit_status > 0 if status is None else result.exit_status == status
    assert result.failed_line == failed
    assert "no\n" not in result.stdout.text


async def test_no_lines_succeed(run: Run) -> None:
    assert (await run()).exit_status == 0


@pytest.mark.parametrize(
    ("shell", "cwd", "lines"),
    [
        ("/no/such/shell", ".", ["true"]),
        ("/bin/sh", "no-such-directory", ["true"]),
        ("/bin/sh", ".", ["a\0b"]),
        ("/bin/sh", ".", ["true"] * 20_000),
    ],
)
async def test_what_cannot_start_says_so(tmp_path: Path, shell: str, cwd: str, lines: list[str]) -> None:
    before = len(os.listdir("/dev/fd"))
    async with LocalExecService(shell=shell).session() as session:
        with pytest.raises(EnvironmentFailed, match="cannot"):
            await session.run(lines, env={}, cwd=tmp_path / cwd)
    assert len(os.listdir("/dev/fd")) == before


# What is kept of the output


async def test_lines_arrive_while_the_script_runs(run: Run, tmp_path: Path) -> None:
    lines: list[str] = []

    async def on_line(line: str) -> None:
        lines.append(line)
        (tmp_path / "heard").touch()

    # The script ends only once the first line was handled.
    script = ["echo first", "until [ -e heard ]; do sleep 0.01; done", "printf last"]
    result = await run(*script, on_line=on_line)
    assert lines == ["first", "last"]
    assert result.stdout.text == "first\nlast"


async def test_output_is_bounded_and_cut_at_the_front(run: Run) -> None:
    result = await run("seq 1 100000; seq 1 100000 >&2")
    for output in (result.stdout, result.stderr):
        assert output.text.endswith("\n99999\n100000\n")
        assert len(output.text) == 64 * 1024
        assert output.dropped == 588_895 - 64 * 1024


async def test_long_lines_are_cut_and_bad_bytes_replaced(run: Run) -> None:
    lines: list[str] = []

    async def on_line(line: str) -> None:
        lines.append(line)

    script = ["head -c 1000000 /dev/zero | tr '\\0' x; echo", "printf 'a\\377b\\r\\n\\303\\244\\n'"]
    await run(*script, on_line=on_line)
    assert [len(line) for line in lines] == [64 * 1024, 3, 1]
    assert lines[1:] == ["a\ufffdb", "\xe4"]


async def _ignore(line: str) -> None:
    pass


async def test_a_flood_costs_neither_memory_nor_the_loop(run: Run) -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    async with no_stall():
        result = await run("head -c 200000000 /dev/zero; yes | head -c 500000", on_line=_ignore)
    assert result.stdout.dropped > 200_000_000
    assert process.memory_info().rss - before < 20_000_000


async def test_a_slow_reader_slows_the_script(run: Run, tmp_path: Path) -> None:
    async def on_line(line: str) -> None:
        if line == "0":
            # Far more than a pipe holds cannot have been written while nobody reads.
            await until((tmp_path / "writing").exists)
            assert not await anyio.Path(tmp_path / "written").exists()

    await run("echo 0", "touch writing; yes | head -c 1000000; touch written", on_line=on_line)
    assert (tmp_path / "written").exists()


async def test_an_error_of_the_reader_ends_the_script(run: Run, marker: str) -> None:
    async def on_line(line: str) -> None:
        raise LookupError(line)

    with pytest.raises(LookupError, match="hello"):
        await run("echo hello; sleep 1000", on_line=on_line)
    assert not alive(marker)


# What is left in the background


async def test_background_processes_live_until_the_session_ends(tmp_path: Path, marker: str) -> None:
    async with LocalExecService().session() as session:
        env = {"MARKER": marker}
        # It keeps stdout open, which must not make the script wait for it.
        await session.run(["sleep 1000 & echo $! > pid"], env=env, cwd=tmp_path)
        pid = int((tmp_path / "pid").read_text())
        result = await session.run(["kill -0 $(cat pid)"], env=env, cwd=tmp_path)
        assert result.exit_status == 0
        assert not gone(pid)
    assert gone(pid)
    assert not alive(marker)


async def test_a_background_process_that_writes_is_neither_blocked_nor_killed(
    run: Run, tmp_path: Path
) -> None:
    # It passes on far more than a pipe holds, after its script has ended.
    await run("(until [ -e go ]; do sleep 0.01; done; head -c 1000000 /dev/zero && touch written) &")
    (tmp_path / "go").touch()
    await until((tmp_path / "written").exists)


async def test_a_background_flood_does_not_keep_the_script(run: Run) -> None:
    with anyio.fail_after(10):
        result = await run("yes & echo begun >&2")
    assert result.stderr.text == "begun\n"


async def test_session_end_lets_background_processes_finish_in_the_grace(tmp_path: Path) -> None:
    server = "trap 'sleep 0.1; touch clean; exit' TERM; touch ready; while :; do sleep 0.01; done"
    async with LocalExecService(grace=timedelta(seconds=9)).session() as session:
        lines = [f"({server}) >/dev/null 2>&1 &", "until [ -e ready ]; do sleep 0.01; done"]
        await session.run(lines, env={}, cwd=tmp_path)
    assert (tmp_path / "clean").exists()


# What ends


async def test_cancelled_before_nothing_remains(session: ScriptSession, run: Run, marker: str) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await run("sleep 1000")
    assert not alive(marker)


@pytest.mark.parametrize("line", [ENDLESS, STUBBORN])
async def test_cancelled_during_the_whole_group_dies(
    session: ScriptSession, run: Run, marker: str, tmp_path: Path, line: str
) -> None:
    with anyio.fail_after(8):
        async with anyio.create_task_group() as group:
            group.start_soon(run, "echo hello", line)
            await until((tmp_path / "begun").exists)
            group.cancel_scope.cancel()
    assert not alive(marker)
    assert session.last is not None
    assert session.last.stdout.text == "hello\n"
    assert session.last.exit_status in (-signal.SIGTERM, -signal.SIGKILL)
    assert session.last.failed_line == 1
    assert (await run("echo again")).stdout.text == "again\n"


async def test_cancelled_after_the_session_still_ends_what_it_left(tmp_path: Path, marker: str) -> None:
    with anyio.CancelScope() as scope:
        async with LocalExecService().session() as session:
            await session.run(
                [STUBBORN.replace("while", "exit; while")], env={"MARKER": marker}, cwd=tmp_path
            )
            assert len(alive(marker)) >= 3
            scope.cancel()
            await anyio.sleep_forever()
    assert not alive(marker)


async def test_sigterm_comes_before_sigkill(run: Run, tmp_path: Path) -> None:
    script = "trap 'touch asked; exit' TERM; touch begun; while :; do sleep 0.01; done"
    async with anyio.create_task_group() as group:
        group.start_soon(run, script)
        await until((tmp_path / "begun").exists)
        group.cancel_scope.cancel()
    assert (tmp_path / "asked").exists()


PROGRAM = """
import sys, anyio
from pathlib import Path
from windtunnel.services.local_exec import LocalExecService
async def main():
    async with LocalExecService().session() as session:
        for line in sys.argv[1:]:
            await session.run([line], env={}, cwd=Path())
anyio.run(main)
"""


async def test_kill_minus_nine_of_our_process_leaves_no_orphan(tmp_path: Path, marker: str) -> None:
    command = [sys.executable, "-c", PROGRAM, "sleep 1000 >/dev/null 2>&1 &", STUBBORN]
    with subprocess.Popen(command, env={**os.environ, "MARKER": marker}, cwd=tmp_path) as process:
        try:
            await until((tmp_path / "begun").exists)
            assert len(alive(marker)) >= 5
        finally:
            process.kill()
    await until(lambda: not alive(marker))


async def test_hundreds_of_scripts_at_once(tmp_path: Path) -> None:
    count = 200
    ended = 0
    before = len(os.listdir("/dev/fd"))
    os.mkfifo(tmp_path / "gate")

    service = LocalExecService()

    async def one() -> None:
        nonlocal ended
        async with service.session() as session:
            result = await session.run(["dd bs=5 count=1 < gate"], env={}, cwd=tmp_path)
            ended += result.stdout.text == "open\n"

    gate = os.open(tmp_path / "gate", os.O_RDWR)
    try:
        async with anyio.create_task_group() as group:
            for _ in range(count):
                group.start_soon(one)
            me = psutil.Process()
            # All wait at the gate at the same time, then each takes one line.
            await until(lambda: len(me.children()) == count)
            os.write(gate, b"open\n" * count)
    finally:
        os.close(gate)
    assert ended == count
    assert len(os.listdir("/dev/fd")) == before
