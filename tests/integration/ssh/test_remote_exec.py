"""Scripts on a real OpenSSH server: what runs, what is kept, and that nothing outlives its session."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from tests.integration.ssh.processes import alive, directories, find, gone, until
from tests.integration.ssh.servers import Fleet, Server
from windtunnel.errors import EnvironmentFailed, HostLost, HostUnreachable
from windtunnel.protocols import LineHandler, RemoteExec, ScriptResult
from windtunnel.services.ssh import SshService
from windtunnel.services.ssh.remote_exec import RemoteScripts
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
async def session(service: SshService) -> AsyncIterator[RemoteScripts]:
    async with service.session("web") as session:
        yield session


@pytest.fixture
def run(session: RemoteScripts, marker: str) -> Run:
    async def run(
        *lines: str, env: Mapping[str, str] | None = None, on_line: LineHandler | None = None
    ) -> ScriptResult:
        return await session.run(lines, env={"MARKER": marker, **(env or {})}, on_line=on_line)

    return run


def test_it_is_a_remote_exec() -> None:
    assert isinstance(SshService(), RemoteExec)


# What runs


VALUES = [
    "a   b",
    'it\'s "quoted" \\ and \\n',
    "first\nsecond\n",
    "$(touch evil) `touch evil` ${HOME} $$ !!",
    "'; touch evil; '",
    "-n ; & | > evil < * ? [a] ~ #",
    "Grüße, 世界 \U0001f680",
    "\t\r\x01\x7f",
    "",
]


async def test_values_arrive_unchanged_and_execute_nothing(run: Run, session: RemoteScripts) -> None:
    for value in VALUES:
        result = await run("printf '%s|' \"$VALUE\"; env | grep -c ^VALUE=", env={"VALUE": value})
        assert result.stdout.text == f"{value}|1\n"
    assert os.listdir(session.directory) == []


async def test_lines_reach_the_shell_as_written(run: Run) -> None:
    for line, printed in {
        "printf '%s|' 'x y' z": "x y|z|",
        "echo 'a; echo X' # 'not a quote": "a; echo X\n",
        "for i in 1 2\ndo echo $i\ndone": "1\n2\n",
        "cat <<END\n$PLACE\nEND": "here\n",
        "echo '$PLACE'": "$PLACE\n",
    }.items():
        result = await run(line, env={"PLACE": "here"})
        assert (result.exit_status, result.stdout.text) == (0, printed)


async def test_lines_share_a_directory_of_their_own_and_variables(run: Run, session: RemoteScripts) -> None:
    result = await run("mkdir sub; cd sub; x='1  2'", "export y=3", 'pwd; echo "$x"; sh -c "echo \\$y"')
    assert result.stdout.text == f"{session.directory}/sub\n1  2\n3\n"
    assert Path(session.directory).stat().st_mode & 0o777 == 0o700
    result = await session.run(["pwd"], env={}, cwd="sub")
    assert result.stdout.text == f"{session.directory}/sub\n"


async def test_a_script_reads_nothing_from_us_and_waits_for_its_own_children_only(run: Run) -> None:
    assert (await run("cat", "true & wait", "echo done")).stdout.text == "done\n"


async def test_a_long_script_with_large_values_runs(run: Run) -> None:
    result = await run(*["x=$((x + 1))"] * 500, "echo $x ${#BIG}", env={"BIG": "x" * 500_000})
    assert result.stdout.text == "500 500000\n", result.stderr.text


ENDINGS: list[tuple[list[str], int | None, int | None]] = [
    (["true", "exit 3", "echo no"], 3, 1),
    (["true", "echo 'unclosed", "echo no"], None, 1),  # shells differ in the status of a syntax error
    (["exec false", "echo no"], 1, 0),
    (["true", "true", "no-such-command-here"], 127, 2),
    (["kill -KILL $$", "echo no"], -9, 0),
    (["exit 0", "echo no"], 0, None),
    ([], 0, None),
]


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash", "busybox"])
async def test_the_first_failing_line_ends_the_script(
    service: SshService, tmp_path: Path, shell: str
) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    if shell == "busybox":  # it is a shell if it is called one
        shell = str(tmp_path / "sh")
        os.symlink(str(shutil.which("busybox")), shell)
    async with service.session("web", shell=shell) as session:
        for lines, status, failed in ENDINGS:
            result = await session.run(lines, env={})
            assert result.exit_status > 0 if status is None else result.exit_status == status
            assert result.failed_line == failed
            assert "no\n" not in result.stdout.text


@pytest.mark.parametrize(
    ("shell", "lines", "env", "cwd"),
    [
        ("/no/such/shell", ["true"], {}, None),
        ("/bin/sh", ["true"], {}, "no-such-directory"),
        ("/bin/sh", ["a\0b"], {}, None),
        ("/bin/sh", ["true"], {"a;touch evil": ""}, None),
        ("/bin/sh", ["true"] * 20_000, {}, None),
    ],
)
async def test_what_cannot_start_says_so(
    service: SshService, shell: str, lines: list[str], env: dict[str, str], cwd: str | None
) -> None:
    async with service.session("web", shell=shell) as session:
        with pytest.raises(EnvironmentFailed, match="cannot"):
            await session.run(lines, env=env, cwd=cwd)
        assert os.listdir(session.directory) == []


# What is kept of the output


async def test_lines_arrive_while_the_script_runs(run: Run, session: RemoteScripts) -> None:
    lines: list[str] = []

    async def on_line(line: str) -> None:
        lines.append(line)
        Path(session.directory, "heard").touch()

    # The script ends only once the first line was handled.
    script = ["echo first", "until [ -e heard ]; do sleep 0.01; done", "printf last; echo no >&2"]
    result = await run(*script, on_line=on_line)
    assert lines == ["first", "last"]
    assert (result.stdout.text, result.stderr.text) == ("first\nlast", "no\n")


async def _ignore(line: str) -> None:
    pass


async def test_a_flood_costs_neither_memory_nor_the_loop(run: Run) -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    async with no_stall():
        result = await run("head -c 100000000 /dev/zero; seq 1 1000 >&2", on_line=_ignore)
    assert (result.stdout.dropped, len(result.stdout.text)) == (100_000_000 - 64 * 1024, 64 * 1024)
    assert result.stderr.text.endswith("\n999\n1000\n")
    assert process.memory_info().rss - before < 20_000_000


async def test_a_slow_reader_slows_the_script(run: Run, session: RemoteScripts) -> None:
    async def on_line(line: str) -> None:
        if line == "0":
            # Far more than all buffers on the way hold cannot have been written while nobody reads.
            await until(Path(session.directory, "writing").exists)
            assert not await anyio.Path(session.directory, "written").exists()

    await run("echo 0", "touch writing; head -c 8000000 /dev/zero; touch written", on_line=on_line)
    assert Path(session.directory, "written").exists()


async def test_a_slow_reader_gets_all_that_was_written_before_the_end(run: Run) -> None:
    lines: list[str] = []

    async def on_line(line: str) -> None:
        lines.append(line)
        if len(lines) in (1, 20_000, 90_000):
            await anyio.sleep(0.15)

    # A background process holds the channel open, so that no end of the stream is seen.
    await run("sleep 1000 & seq 1 100000", on_line=on_line)
    assert lines == [str(number) for number in range(1, 100_001)]


async def test_binary_output_is_text_with_replacements(run: Run) -> None:
    lines: list[str] = []

    async def on_line(line: str) -> None:
        lines.append(line)

    script = ["head -c 300000 /dev/zero | tr '\\0' x; echo", "printf 'a\\377b\\r\\n\\303\\244\\n'"]
    await run(*script, on_line=on_line)
    assert [len(line) for line in lines] == [64 * 1024, 3, 1]
    assert lines[1:] == ["a\ufffdb", "\xe4"]


async def test_an_error_of_the_reader_ends_the_script(run: Run, marker: str) -> None:
    async def on_line(line: str) -> None:
        raise LookupError(line)

    with pytest.raises(LookupError, match="hello"):
        await run("echo hello; sleep 1000", on_line=on_line)
    assert not await alive(marker)


# What is left in the background


async def test_background_processes_live_until_the_session_ends(service: SshService, marker: str) -> None:
    async with service.session("web") as session:
        # It keeps stdout open, which must not make the script wait for it.
        result = await session.run(["sleep 1000 & echo $!"], env={"MARKER": marker})
        pid = int(result.stdout.text)
        result = await session.run([f"kill -0 {pid}"], env={})
        assert result.exit_status == 0
        directory = session.directory
    assert gone(pid)
    assert not await alive(marker)
    assert not Path(directory).exists()


async def test_a_background_writer_is_neither_blocked_nor_killed(run: Run, session: RemoteScripts) -> None:
    await run("(until [ -e go ]; do sleep 0.01; done; head -c 3000000 /dev/zero && touch written) &")
    Path(session.directory, "go").touch()
    await until(Path(session.directory, "written").exists)


async def test_a_background_flood_does_not_keep_the_script(run: Run) -> None:
    with anyio.fail_after(10):
        result = await run("yes & echo begun >&2")
    assert result.stderr.text == "begun\n"


async def test_a_daemon_ends_with_its_session(service: SshService, marker: str) -> None:
    async with service.session("web") as session:
        lines = ["setsid sh -c 'setsid sleep 1000 & touch begun' </dev/null >/dev/null 2>&1 &"]
        await session.run(lines, env={"MARKER": marker})
        await until(Path(session.directory, "begun").exists)
        assert await alive(marker)
    assert not await alive(marker)


async def test_many_scripts_wait_for_a_place(service: SshService) -> None:
    """More than the server's MaxSessions, some of them with background processes that hold their channel."""
    async with service.session("web") as session:
        await session.run(["sleep 1000 &"] * 5, env={})
        results: list[str] = []

        async def one(number: int) -> None:
            result = await session.run([f"sleep 0.05; echo {number}; sleep 1000 &"], env={})
            results.append(result.stdout.text)

        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(one, number)
        assert sorted(results) == sorted(f"{number}\n" for number in range(20))


# The shell that starts them


async def test_scripts_share_a_shell_that_starts_them(service: SshService) -> None:
    runners = set()
    for _ in range(3):
        async with service.session("web") as session:
            for _ in range(3):
                runners.add((await session.run(["echo $PPID"], env={})).stdout.text)
    assert len(runners) == 1


LOUD = "while :; do echo stdout; echo stderr >&2; sleep 0.01; done"


@pytest.mark.parametrize(
    "line", [f"{{ {LOUD}; }} &", f"setsid sh -c '{LOUD}' &", f"setsid sh -c '{LOUD}' </dev/null 2>&1 &"]
)
async def test_what_is_left_in_the_background_is_not_heard_in_another_script(run: Run, line: str) -> None:
    await run(line)
    for _ in range(3):
        result = await run("sleep 0.05; echo mine; echo mine >&2")
        assert (result.stdout.text, result.stderr.text) == ("mine\n", "mine\n")


async def test_what_looks_like_the_end_of_a_script_is_printed(run: Run, session: RemoteScripts) -> None:
    token = session._connection.token
    for part in (token[:1], token[:-1], "windtunnel-windtunnel-"):
        result = await run('printf %s "$PART"; sleep 0.02; printf %s "$PART"', env={"PART": part})
        assert result.stdout.text == part * 2


async def test_whoever_kills_that_shell_has_lost_its_host(
    run: Run, session: RemoteScripts, marker: str
) -> None:
    with pytest.raises(HostLost, match="'web'"):
        await run("kill -KILL $PPID; sleep 1000")
    assert not await alive(marker)
    assert (await run("echo again")).stdout.text == "again\n"


async def test_what_the_host_says_at_a_login_is_no_output(servers: Fleet, tmp_path: Path) -> None:
    command = tmp_path / "login"
    command.write_text('#!/bin/sh\necho welcome\necho careful >&2\neval "$SSH_ORIGINAL_COMMAND"\n')
    command.chmod(0o755)
    server = servers.server(ForceCommand=command)
    async with SshService(hosts={"web": server.options()}) as service, service.session("web") as session:
        result = await session.run(["echo mine"], env={})
    assert (result.stdout.text, result.stderr.text) == ("mine\n", "")


# What ends


async def test_cancelled_before_nothing_remains(run: Run, marker: str) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await run("sleep 1000")
    assert not await alive(marker)


@pytest.mark.parametrize("line", [ENDLESS, STUBBORN])
async def test_cancelled_during_the_whole_tree_dies(
    session: RemoteScripts, run: Run, marker: str, line: str
) -> None:
    with anyio.fail_after(8):
        async with anyio.create_task_group() as group:
            group.start_soon(run, "echo hello $$ >&2; echo hello", line)
            await until(Path(session.directory, "begun").exists)
            group.cancel_scope.cancel()
    assert not await alive(marker)
    assert session.last is not None
    assert session.last.stdout.text == "hello\n"
    assert session.last.exit_status in (-signal.SIGTERM, -signal.SIGKILL)
    assert session.last.failed_line == 1
    assert gone(int(session.last.stderr.text.split()[1]))
    assert (await run("echo again")).stdout.text == "again\n"


async def test_cancelled_after_the_session_still_ends_what_it_left(service: SshService, marker: str) -> None:
    with anyio.CancelScope() as scope:
        async with service.session("web") as session:
            await session.run([STUBBORN.replace("while", "exit; while")], env={"MARKER": marker})
            assert len(await alive(marker)) >= 3
            scope.cancel()
            await anyio.sleep_forever()
    assert not await alive(marker)


async def test_a_time_limit_is_a_scope(run: Run, marker: str) -> None:
    with anyio.move_on_after(0.2) as scope:
        await run("sleep 1000")
    assert scope.cancelled_caught
    assert not await alive(marker)


async def test_sigterm_comes_before_sigkill(run: Run, session: RemoteScripts) -> None:
    script = "trap 'touch asked; exit' TERM; touch begun; while :; do sleep 0.01; done"
    async with anyio.create_task_group() as group:
        group.start_soon(run, script)
        await until(Path(session.directory, "begun").exists)
        group.cancel_scope.cancel()
    assert Path(session.directory, "asked").exists()


PROGRAM = """
import sys, anyio
from windtunnel.services.ssh import SshOptions, SshService
async def main():
    async with SshService(SshOptions.model_validate_json(sys.argv[1])) as service:
        async with service.session("web") as session:
            for line in sys.argv[2:]:
                await session.run([line], env={})
anyio.run(main)
"""


async def test_kill_9_of_our_process_ends_everything_there(
    server: Server, marker: str, tmp_path: Path
) -> None:
    options = server.options(temp_dir=str(tmp_path)).model_dump_json(exclude_unset=True)
    lines = [f"export MARKER={marker}; sleep 1000 &", f"export MARKER={marker}; {STUBBORN}"]
    program = subprocess.Popen([sys.executable, "-c", PROGRAM, options, *lines])
    try:
        await until(lambda: list(tmp_path.glob("*/1/work/begun")))
        assert await alive(marker)
    finally:
        program.kill()
        program.wait()
    await until(lambda: not find(marker))
    await until(lambda: not directories(tmp_path))


# Hosts on which nothing can run


async def test_no_shell_says_so(servers: Fleet) -> None:
    server = servers.server(ForceCommand="echo this account is not available; exit 1")
    async with SshService(hosts={"web": server.options()}) as service:
        with pytest.raises(HostUnreachable, match=r"'web'.*not available"):
            async with service.session("web"):
                pass


async def test_no_place_for_a_directory_says_so(server: Server) -> None:
    async with SshService(hosts={"web": server.options(temp_dir="/proc/nowhere")}) as service:
        with pytest.raises(HostUnreachable, match=r"'web'.*/proc/nowhere"):
            async with service.session("web"):
                pass
