"""Where trials run: hosts with slots, and one environment a slot, reused from trial to trial."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from windtunnel.environments.base import Environment

__all__ = ["Host", "MakeEnvironment", "Slot", "SlotPool"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A machine that trials run on.

    :ivar slots: how many trials it runs at once.
    """

    name: str = "localhost"
    slots: int = 1
    labels: Mapping[str, str] = field(default_factory=dict)


MakeEnvironment = Callable[[Host, int], Environment]
"""Makes the environment of a slot: (host, runner_id) → environment."""


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    """One place where a trial can run.

    :ivar runner_id: numbered from 1 over all hosts; scripts see it as ``trial_runner_id``.
    """

    host: Host
    runner_id: int
    environment: Environment


class SlotPool:
    """Hands out slots. Environments are made when their slot is first used."""

    def __init__(self, hosts: Sequence[Host], make_environment: MakeEnvironment) -> None:
        self._make = make_environment
        # Round-robin over the hosts, so that few trials spread over many of them; the last is taken first.
        numbered = sorted((i, n) for n, host in enumerate(hosts) for i in range(host.slots))
        self._unused = [(hosts[n], runner_id) for runner_id, (_, n) in enumerate(numbered, start=1)][::-1]
        self._idle: list[Slot] = []
        self.size = len(self._unused)

    @property
    def free(self) -> int:
        """How many slots have no trial."""
        return len(self._idle) + len(self._unused)

    def take(self) -> Slot:
        """A free slot, one that was used before if possible.

        :raises IndexError: if there is none.
        """
        if self._idle:
            return self._idle.pop()
        host, runner_id = self._unused.pop()
        return Slot(host, runner_id, self._make(host, runner_id))

    def give_back(self, slot: Slot) -> None:
        """The slot's trial has ended. An environment that could not be torn down is not used again."""
        if slot.environment.is_clean:
            self._idle.append(slot)
        else:
            self._unused.append((slot.host, slot.runner_id))
