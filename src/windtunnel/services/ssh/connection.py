"""A connection to a host: its channels, its keeper, and the moment it is lost."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import anyio
import asyncssh

from windtunnel.errors import HostFailed, HostLost, HostUnreachable
from windtunnel.services.ssh.channels import Answers, Channel, Runner, Slots
from windtunnel.services.ssh.options import SshOptions
from windtunnel.services.ssh.shell import READY, keeper, runner

__all__ = ["Connection"]

_SHELL = "/bin/sh"
_NO_KEEPER = "the shell that keeps our sessions there has ended"
_WINDOW = 256 * 1024
_CLOSE_LIMIT_S = 5.0
_CLEAN_LIMIT_S = 20.0  # it first ends and removes what an earlier connection has left
_REFUSALS = 6
_PAUSE_S = 0.02

C = TypeVar("C", bound=Channel)


class Connection:
    """One connection, shared by all who use the host. Holds no task.

    :param owner: see ``shell.keeper``.
    :param serial: how many connections this owner had before.
    :ivar base: the keeper's directory there.
    :ivar leader: see ``shell.script``.
    :ivar token: what nobody but its runners can write.
    """

    def __init__(self, host: str, options: SshOptions, *, owner: str, serial: int) -> None:
        self.host = host
        self.options = options
        self.base = ""
        self._owner = owner
        self._serial = serial
        self._slots = Slots(options.channels)
        self._ssh: asyncssh.SSHClientConnection | None = None
        self._why_lost: str | None = None
        self._answers: Answers | None = None
        self._starting = anyio.Lock()
        self._sessions = itertools.count(1)
        self.leader = ""
        self.token = f"windtunnel-{secrets.token_hex(8)}"
        self._alone = ""
        self._made = READY

    @property
    def ssh(self) -> asyncssh.SSHClientConnection:
        assert self._ssh is not None, "it was made"  # noqa: S101
        return self._ssh

    @property
    def is_lost(self) -> bool:
        """Whether nothing can be begun on it any more."""
        return self._why_lost is not None or (self._answers is not None and self._answers.is_closed)

    def made(self, ssh: asyncssh.SSHClientConnection) -> None:
        self._ssh = ssh

    def lost(self, exc: Exception | None) -> None:
        """The connection has ended; nobody gets it any more."""
        if self._why_lost is None:
            self._why_lost = str(exc) if exc else "it was closed"

    def loss(self, doing: str) -> HostLost:
        return HostLost(self.host, doing=doing, reason=self._why_lost or _NO_KEEPER)

    def next_session(self) -> int:
        return next(self._sessions)

    async def begin(self, program: bytes, *, doing: str) -> Runner:
        """Begin a script in a runner that is idle, or in a new one, once there is a place for it.

        :raises HostLost: if the connection is lost.
        :raises HostUnreachable: if the server grants no channel at all.
        """

        async def attempt() -> Runner:
            found = await self._slots.runner()
            if found is not None:
                found.begin(program)
                return found
            new = Runner(self.token, self._slots.release)
            new.begin(runner(self.token, leads=not self.leader) + program)
            return await self._create(new, "", doing)

        return await self._granted(attempt, doing)

    async def open(self, make: Callable[[Callable[[Channel], None]], C], *, doing: str) -> C:
        """A channel of its own to a shell that leads a process group; raises as ``begin`` does.

        :param make: given what it has to call once it is closed.
        """

        async def attempt() -> C:
            await self._slots.place()
            return await self._create(make(self._slots.release), self._alone, doing)

        return await self._granted(attempt, doing)

    async def _granted(self, attempt: Callable[[], Awaitable[C]], doing: str) -> C:
        refusals = 0
        while True:
            try:
                return await attempt()
            except asyncssh.ChannelOpenError as exc:
                if self.is_lost:
                    raise self.loss(doing) from exc
                refusals += not self._slots.refused()
                if refusals > _REFUSALS:
                    raise HostUnreachable(
                        self.host,
                        f"the server grants no channel for a script ({exc.reason}); "
                        "its MaxSessions must be at least 2",
                    ) from exc
                await anyio.sleep(_PAUSE_S * refusals)

    async def _create(self, channel: C, leader: str, doing: str) -> C:
        try:
            # A shell that was started must also be known.
            with anyio.CancelScope(shield=True):
                async with self._answering(doing):
                    await self.ssh.create_session(
                        lambda: channel,
                        f"exec {leader}{_SHELL} -s",
                        encoding=None,
                        window=_WINDOW,
                        env={},
                        send_env=[],
                    )
        except BaseException:
            if channel.was_made:
                channel.close()
            else:
                self._slots.release(channel)
            raise
        self._slots.opened()
        return channel

    def put_away(self, runner: Runner) -> None:
        """Nobody uses it any more: for the next script, or to stay as long as there is room."""
        if runner.is_closed:
            return
        if runner.ended is None:
            runner.close()
        elif runner.ended.is_clean:
            self._slots.rest(runner)
        else:
            self._slots.linger(runner)

    @asynccontextmanager
    async def _answering(self, doing: str, limit_s: float | None = None) -> AsyncIterator[None]:
        """The limit of everything that waits for an answer: a host that gives none is lost."""
        limit_s = self.options.request_timeout.total_seconds() if limit_s is None else limit_s
        try:
            with anyio.fail_after(limit_s):
                yield
        except TimeoutError as exc:
            self._abort(f"it did not answer within {limit_s:g} s")
            raise self.loss(doing) from exc
        except (OSError, asyncssh.DisconnectError) as exc:  # whatever ended it, a broken pipe too
            self.lost(exc)
            raise self.loss(doing) from exc

    # The keeper

    async def ask(self, request: str, *, doing: str, limit_s: float | None = None) -> str:
        """Ask the keeper, which is started by the first question.

        :raises HostLost: if the connection is lost, or the keeper is.
        :raises HostUnreachable: if the keeper cannot be started.
        """
        answers = await self._keeper()
        async with self._answering(doing, limit_s):
            answer = await answers.ask(request)
        if answer is None:  # the connection may live, and is needed to clean up when it is closed
            raise self.loss(doing)
        return answer

    async def open_session(self, number: int) -> str:
        """See that the directory of a session is there; ``ok``, or why that is not possible."""
        await self._keeper()
        if number > self._made:
            async with self._starting:
                while number > self._made:
                    answer = await self.ask(f"open {self._made + 1}", doing="opening a session")
                    if answer != "ok":
                        return answer
                    self._made += READY
        return "ok"

    async def _keeper(self) -> Answers:
        if self._answers is None:
            async with self._starting:
                if self._answers is None:
                    self._answers = await self._start_keeper()
        return self._answers

    async def _start_keeper(self) -> Answers:
        doing = "starting the shell that keeps our sessions"
        answers = Answers(f"{self._owner}-{self._serial}")
        program = keeper(owner=self._owner, serial=self._serial, temp_dir=self.options.temp_dir)
        try:
            async with self._answering(doing, self.options.request_timeout.total_seconds() + _CLEAN_LIMIT_S):
                await self.ssh.create_session(
                    lambda: answers, f"exec {_SHELL} -s", encoding=None, env={}, send_env=[]
                )
                hello = await answers.begin(program)
        except asyncssh.ChannelOpenError as exc:
            if self.is_lost:
                raise self.loss(doing) from exc
            raise HostUnreachable(self.host, f"the server grants no channel: {exc.reason}") from exc
        if hello is None:
            if self.is_lost:
                raise self.loss(doing)
            said = answers.noise or "it said nothing"
            raise HostUnreachable(
                self.host, f"it lets us in, but {_SHELL} cannot run there or make a directory: {said}"
            )
        leads, leader, self.base = hello.split(" ", 2)
        self.leader = "setsid " if leader == "setsid" else ""
        self._alone = "" if leads == "yes" else self.leader
        return answers

    # The end

    def _abort(self, why: str) -> None:
        self._why_lost = self._why_lost or why
        self.ssh.abort()

    async def _end_keeper(self) -> None:
        answers = self._answers
        if answers is not None and answers.is_closed and not self.ssh.is_closed():
            # It was killed, and what it kept goes on. Another one first ends what it finds.
            with suppress(HostFailed):
                answers = await self._start_keeper()
        if answers is not None:
            answers.end()
            await answers.wait_closed()

    async def close(self) -> None:
        """End all that still runs there for us, and the connection; never takes long."""
        if self._why_lost is None and self.is_lost:
            self._why_lost = _NO_KEEPER
        with anyio.move_on_after(_CLOSE_LIMIT_S, shield=True):
            await self._end_keeper()
        self.lost(None)
        self.ssh.close()
        with anyio.move_on_after(_CLOSE_LIMIT_S, shield=True) as scope:
            await self.ssh.wait_closed()
        if scope.cancelled_caught:
            self.ssh.abort()
