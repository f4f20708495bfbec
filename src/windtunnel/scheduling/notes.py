"""What the hosts of trials are, kept once for each connection to one of them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict

import anyio

from windtunnel.errors import WindtunnelError
from windtunnel.model import utc_now
from windtunnel.protocols import HostFacts
from windtunnel.scheduling.slots import Host
from windtunnel.storage import Experiment

__all__ = ["HostNews", "HostNotes"]

logger = logging.getLogger(__name__)

_LIMIT_S = 10.0

HostNews = Callable[[str], Awaitable[HostFacts | None]]
"""Tells what the host of this name is if there is news: we have connected to it since it was last asked."""


class HostNotes:
    """Keeps the facts of hosts with the trials that run there. No trial fails because of it."""

    def __init__(self, experiment: Experiment, news: HostNews) -> None:
        self._experiment = experiment
        self._news = news

    async def note(self, owner: str, hosts: Iterable[Host]) -> None:
        """Store what is new of the hosts. This machine is not among them: its facts are the session's."""
        async with anyio.create_task_group() as tasks:
            for host in hosts:
                if host.address is not None:
                    tasks.start_soon(self._note, owner, host.name, name=f"facts of {host.name}")

    async def _note(self, owner: str, host: str) -> None:
        since = utc_now()  # trials that run there beside this one may end before we know
        try:
            with anyio.move_on_after(_LIMIT_S):
                facts = await self._news(host)
                if facts is not None:
                    known = {name: fact for name, fact in asdict(facts).items() if fact is not None}
                    await self._experiment.note_host(owner, host, known, since=since)
        except WindtunnelError as exc:
            logger.info("what host %r is could not be kept: %s", host, exc, extra={"host": host})
