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


class Slot:
    """One place where a trial can run.

    :ivar runner_id: numbered from 1 over all hosts; scripts see it as ``trial_runner_id``.
    """

    __slots__ = ("_environment", "_make", "host", "runner_id")

    def __init__(self, host: Host, runner_id: int, make: MakeEnvironment) -> None:
        self.host = host
        self.runner_id = runner_id
        self._make = make
        self._environment: Environment | None = None

    @property
    def environment(self) -> Environment:
        """Made when it is first asked for; raises whatever its class raises."""
        if self._environment is None:
            self._environment = self._make(self.host, self.runner_id)
        return self._environment

    def renew(self) -> None:
        """An environment that could not be torn down is not used again."""
        if self._environment is not None and not self._environment.is_clean:
            self._environment = None


class SlotPool:
    """Hands out slots."""

    def __init__(self, hosts: Sequence[Host], make_environment: MakeEnvironment) -> None:
        # Round-robin over the hosts, so that few trials spread over many of them; the last is taken first.
        numbered = sorted((i, n) for n, host in enumerate(hosts) for i in range(host.slots))
        self._free = [Slot(hosts[n], number, make_environment) for number, (_, n) in enumerate(numbered, 1)]
        self._free.reverse()
        self.size = len(self._free)

    @property
    def free(self) -> int:
        """How many slots have no trial."""
        return len(self._free)

    def take(self) -> Slot:
        """A free slot, one that was used before if possible.

        :raises IndexError: if there is none.
        """
        return self._free.pop()

    def give_back(self, slot: Slot) -> None:
        """The slot's trial has ended."""
        slot.renew()
        self._free.append(slot)
