"""Runs scripts on this machine, and leaves none of their processes behind.

Every script is a shell that leads a session and process group of its own. The first thing it starts is the
*leash*: a tiny process of the same group, orphaned on purpose so that ``wait`` in a script does not wait for
it, which reads from a pipe whose other end only we hold. When we die, however suddenly, the pipe ends and the
leash kills the group. While it lives, it also keeps the group's number from being given to somebody else.

A process that moves itself to another session (``setsid``) is on its own.

Scripts find the interpreter that runs us in ``$WINDTUNNEL_PYTHON``.
"""

from __future__ import annotations

import fcntl
import math
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio
from anyio.abc import Process

from windtunnel.errors import EnvironmentFailed
from windtunnel.protocols import LineHandler, ScriptResult
from windtunnel.services.capture import Capture

__all__ = ["LocalExecService", "ScriptSession"]

_STARTS_AT_ONCE = 4  # starting one takes the loop about a millisecond
_KILL_LIMIT_S = 5.0
_PAUSE_S = 0.001
_LONGEST_PAUSE_S = 0.05
_PATIENCE_S = 0.003
_MOST_LINES = 10_000  # one byte each has to fit into the report pipe, which nobody reads before the end
_REPORT_FD = 100  # and up: scripts use small numbers themselves (exec 9>lock), shells those from 10 on

_WRAPPER = """\
exec 3<&0 </dev/null
( (
    trap '' HUP INT QUIT ALRM USR1 USR2 PIPE TERM
    read -r __wt_leave <&3 && exit
    kill -KILL 0
) >/dev/null 2>&1 & )
exec 3<&-
__wt_report=$1
shift
for __wt_line do
    echo >"$__wt_report"
    eval "$__wt_line"
    case $? in 0) ;; *) exit $?; esac
done
"""


class LocalExecService:
    """Runs scripts on this machine; implements ``LocalExec``.

    :param shell: any POSIX shell.
    :param grace: how long processes get between SIGTERM and SIGKILL; default 0.5 s.
    :param capacity: bytes kept of the end of each stream, and of each line; default 64 KiB.
    """

    def __init__(
        self,
        *,
        shell: str = "/bin/sh",
        grace: timedelta = timedelta(seconds=0.5),
        capacity: int = 64 * 1024,
    ) -> None:
        self._shell = shell
        self._grace_s = grace.total_seconds()
        self._capacity = capacity
        self._starting = anyio.Semaphore(_STARTS_AT_ONCE)
        self._census = _Census()

    def session(self, *, shell: str | None = None) -> ScriptSession:
        return ScriptSession(
            shell=shell or self._shell,
            grace_s=self._grace_s,
            capacity=self._capacity,
            starting=self._starting,
            census=self._census,
        )


class ScriptSession:
    """The scripts of one trial; see ``LocalSession``. Holds no task, so any task may close it."""

    def __init__(
        self, *, shell: str, grace_s: float, capacity: int, starting: anyio.Semaphore, census: _Census
    ) -> None:
        self._shell = shell
        self._starting = starting
        self._census = census
        self._grace_s = grace_s
        self._capacity = capacity
        self._scripts: list[_Script] = []
        self._last: ScriptResult | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        scripts, self._scripts = self._scripts, []
        try:
            await _end(scripts, self._grace_s, self._census)
        finally:
            for script in scripts:
                script.close()

    @property
    def last(self) -> ScriptResult | None:
        return self._last

    async def run(
        self, lines: Sequence[str], *, env: Mapping[str, str], cwd: Path, on_line: LineHandler | None = None
    ) -> ScriptResult:
        if len(lines) > _MOST_LINES:
            raise EnvironmentFailed(
                f"cannot run {len(lines)} lines, the limit is {_MOST_LINES}; put them in a file"
            )
        try:
            async with self._starting:
                with anyio.CancelScope(shield=True):  # a process that was started must also be known
                    script = await self._start(lines, env, cwd)
        except (OSError, ValueError) as exc:
            message = f"cannot start the shell {self._shell!r} in {str(cwd)!r}: {exc}"
            raise EnvironmentFailed(message) from exc
        self._scripts.append(script)
        try:
            await script.watch(on_line)
        finally:
            self._last = await self._settle(script)
        return self._last

    async def _start(self, lines: Sequence[str], env: Mapping[str, str], cwd: Path) -> _Script:
        with ExitStack() as on_failure, ExitStack() as its_ends:
            streams = Capture(self._capacity), Capture(self._capacity)
            for stream in streams:
                on_failure.callback(stream.close)
                its_ends.callback(stream.started)
            leash_end, leash = _pipe(its_ends, on_failure)
            report, report_end = _pipe(on_failure, its_ends)
            os.set_blocking(leash, False)
            os.set_blocking(report, False)
            report_fd = fcntl.fcntl(report_end, fcntl.F_DUPFD_CLOEXEC, _REPORT_FD)
            its_ends.callback(os.close, report_fd)
            process = await anyio.open_process(
                [self._shell, "-c", _WRAPPER, Path(self._shell).name, f"/dev/fd/{report_fd}", *lines],
                stdin=leash_end,
                stdout=streams[0].write_fd,
                stderr=streams[1].write_fd,
                pass_fds=(report_fd,),
                env={**os.environ, "WINDTUNNEL_PYTHON": sys.executable, **env},
                cwd=cwd,
                start_new_session=True,
            )
            on_failure.pop_all()
        return _Script(process, streams, leash, report)

    async def _settle(self, script: _Script) -> ScriptResult:
        """Leave the script's background processes to the session, or end them all if it was cut off."""
        script.release()
        if not script.is_running:
            return script.result()
        self._scripts.remove(script)
        try:
            await _end([script], self._grace_s, self._census)
            return script.result()
        finally:
            script.close()


class _Script:
    """A running shell, the pipes to it, and all that became of it: its process group."""

    def __init__(self, shell: Process, streams: tuple[Capture, Capture], leash: int, report: int) -> None:
        self._shell = shell
        self._streams = streams
        self._leash = leash
        self._report = report

    @property
    def is_running(self) -> bool:
        """Whether the shell itself has not ended."""
        return self._shell.returncode is None

    @property
    def group(self) -> int:
        """The number of its process group."""
        return self._shell.pid

    async def watch(self, on_line: LineHandler | None) -> None:
        """Read its output until the shell has ended, and then what it left in the pipes."""
        errors: list[Exception] = []

        async def read(stream: Capture, handler: LineHandler | None) -> None:
            try:
                await stream.pump(handler)
            except Exception as exc:  # noqa: BLE001 - raised below, without the group around it
                errors.append(exc)
                group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(read, self._streams[0], on_line, name="stdout")
            group.start_soon(read, self._streams[1], None, name="stderr")
            await self._shell.wait()
            for stream in self._streams:
                stream.finish()
        if errors:
            raise errors[0]

    def release(self) -> None:
        """Nobody listens any more; what it still writes is read and forgotten."""
        for stream in self._streams:
            stream.discard()

    def result(self) -> ScriptResult:
        stdout, stderr = (stream.output() for stream in self._streams)
        status = self._shell.returncode
        status = -signal.SIGKILL if status is None else status
        failed_line = self._last_begun() if status else None
        return ScriptResult(exit_status=status, failed_line=failed_line, stdout=stdout, stderr=stderr)

    def _last_begun(self) -> int | None:
        """The index of the line that was begun last; the shell wrote one byte as it came to each."""
        try:
            return len(os.read(self._report, _MOST_LINES)) - 1
        except BlockingIOError:
            return None

    def stop(self) -> None:
        """Ask the group to end. The leash lets go, so that the group is gone when its last process is."""
        self._signal(signal.SIGTERM)
        with suppress(OSError):  # the script may have killed the leash with all the rest
            os.write(self._leash, b"leave\n")

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def is_gone(self) -> bool:
        """Whether no process of the group is left, not even one that ended and was not reaped yet."""
        if self.is_running:
            return False
        with suppress(ChildProcessError):  # as the first process of a container, we get the orphans to reap
            while os.waitpid(-self.group, os.WNOHANG) != (0, 0):
                pass
        return not self._signal(0)

    def close(self) -> None:
        """Close our ends of all pipes."""
        for stream in self._streams:
            stream.close()
        for fd in (self._leash, self._report):
            if fd >= 0:
                os.close(fd)
        self._leash = self._report = -1

    def _signal(self, number: int) -> bool:
        """Send a signal to the group; False if there is no such group any more."""
        try:
            os.killpg(self.group, number)
        except ProcessLookupError:
            return False
        except PermissionError:  # there is one, but none of its processes is ours to signal (setuid programs)
            return True
        return True


def _pipe(reader: ExitStack, writer: ExitStack) -> tuple[int, int]:
    """The ends of a new pipe; each stack closes one."""
    read_fd, write_fd = os.pipe()
    reader.callback(os.close, read_fd)
    writer.callback(os.close, write_fd)
    return read_fd, write_fd


async def _end(scripts: Sequence[_Script], grace_s: float, census: _Census) -> None:
    """End all processes of these scripts: ask them, wait for the grace, kill what is left."""
    with anyio.CancelScope(shield=True):
        for script in scripts:
            script.stop()
        left = await _wait_gone(scripts, grace_s, census)
        for script in left:
            script.kill()
        await _wait_gone(left, _KILL_LIMIT_S, census)


async def _wait_gone(scripts: Sequence[_Script], limit_s: float, census: _Census) -> list[_Script]:
    """Those of the scripts that still have processes when the time is up."""
    pause = _PAUSE_S
    left = [script for script in scripts if not script.is_gone()]
    with anyio.move_on_after(limit_s):
        while left:
            await anyio.sleep(pause)
            left = [script for script in left if not script.is_gone()]
            if left and pause > _PATIENCE_S:
                alive = await census.living_groups()
                left = [s for s in left if alive is None or s.is_running or s.group in alive]
            pause = min(2 * pause, _LONGEST_PAUSE_S)
    return left


class _Census:
    """Which process groups live. It takes long to find out, so one look serves all who ask meanwhile."""

    def __init__(self) -> None:
        self._looking = anyio.Lock()
        self._looked = -math.inf
        self._groups: set[int] | None = None

    async def living_groups(self) -> set[int] | None:
        """As of now or later; None where the system does not tell."""
        asked = time.monotonic()
        async with self._looking:
            if self._looked < asked:  # a look that began earlier may not have seen what was ended since
                began = time.monotonic()
                self._groups = await anyio.to_thread.run_sync(_living_groups, abandon_on_cancel=True)
                self._looked = began
            return self._groups


def _living_groups() -> set[int] | None:
    """The process groups with a member that has not ended; None where the system does not tell.

    The first process of some containers is slow to reap orphans, or never does: their groups seem to live on.
    """
    groups = set()
    try:
        pids = [name for name in os.listdir("/proc") if name.isdecimal()]
        if not pids:
            return None
    except OSError:
        return None
    for pid in pids:
        with suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:
            state, _parent, group = file.read().rpartition(b")")[2].split()[:3]
            if state not in b"ZX":
                groups.add(int(group))
    return groups
