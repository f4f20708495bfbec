"""A connection to a host: its channels, its keeper, and the moment it is lost."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from shlex import quote

import anyio
import asyncssh

from windtunnel.errors import HostFailed, HostLost, HostUnreachable
from windtunnel.services.ssh.channels import Answers, ScriptChannel, Slots
from windtunnel.services.ssh.options import SshOptions
from windtunnel.services.ssh.shell import keeper

__all__ = ["Connection"]

_SHELL = "/bin/sh"
_NO_KEEPER = "the shell that keeps our sessions there has ended"
_WINDOW = 256 * 1024
_CLOSE_LIMIT_S = 5.0
_CLEAN_LIMIT_S = 20.0  # it first ends and removes what an earlier connection has left
_REFUSALS = 6
_PAUSE_S = 0.02


class Connection:
    """One connection, shared by all who use the host. Holds no task.

    :param owner: see ``shell.keeper``.
    :param serial: how many connections this owner had before.
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
        self._leader = ""

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

    async def open(self, shell: str, program: bytes, *, doing: str) -> ScriptChannel:
        """A channel to a new shell that runs the program, once there is a place for it.

        :raises HostLost: if the connection is lost.
        :raises HostUnreachable: if the server grants no channel at all.
        """
        refusals = 0
        while True:
            channel = ScriptChannel(program, self._slots.release)
            await self._slots.acquire(channel)
            try:
                # A shell that was started must also be known.
                with anyio.CancelScope(shield=True):
                    await self._create(channel, f"exec {self._leader}{quote(shell)} -s", doing)
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
            else:
                self._slots.opened()
                return channel

    async def _create(self, channel: ScriptChannel, command: str, doing: str) -> None:
        try:
            async with self._answering(doing):
                await self.ssh.create_session(
                    lambda: channel, command, encoding=None, window=_WINDOW, env={}, send_env=[]
                )
        except BaseException:
            if channel.was_made:
                channel.close()
            else:
                self._slots.release(channel)
            raise

    def linger(self, channel: ScriptChannel) -> None:
        """Its script has ended, its background processes have not: it stays as long as there is room."""
        self._slots.linger(channel)

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
        """Make the directory of a session; ``ok``, or why that is not possible."""
        doing = "opening a session"
        if number > 1:
            return await self.ask(f"open {number}", doing=doing)
        await self._keeper()  # it makes the first by itself
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
        leads, _, self.base = hello.partition(" ")
        self._leader = "" if leads == "yes" else "setsid "
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
