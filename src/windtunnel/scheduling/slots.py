"""Where trials run: hosts, their slots, and the environments that are used there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from windtunnel.environments.base import Environment
from windtunnel.errors import ConfigError
from windtunnel.options import Options

__all__ = ["Host", "MakeEnvironment", "MakePlaced", "Placement", "Slot"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A machine that trials run on.

    :ivar address: where it is reached; None for this machine.
    :ivar port: None as the service that reaches it has it; likewise user.
    :ivar slots: how many trials it runs at once.
    :ivar options: how to reach it, for that service. It refers to secrets and holds none.
    :ivar power: how it is started and stopped, likewise.
    :ivar variables: globals that differ from host to host.
    """

    name: str = "localhost"
    address: str | None = field(default=None, hash=False)
    port: int | None = field(default=None, hash=False)
    user: str | None = field(default=None, hash=False)
    slots: int = field(default=1, hash=False)
    labels: frozenset[str] = field(default=frozenset(), hash=False)
    options: Options | None = field(default=None, hash=False)
    power: Options | None = field(default=None, hash=False)
    variables: Mapping[str, object] = field(default_factory=dict, hash=False)


MakeEnvironment = Callable[[Host, int], Environment]
"""Makes the environment of a slot: (host, runner_id) → environment."""


class Slot:
    """One place where a trial can run.

    :ivar runner_id: numbered from 1 over all hosts; scripts see it as ``trial_runner_id``.
    :ivar placement: the newest of which it was a part.
    """

    __slots__ = ("_environment", "_make", "host", "placement", "runner_id")

    def __init__(self, host: Host, runner_id: int, make: MakeEnvironment) -> None:
        self.host = host
        self.runner_id = runner_id
        self.placement: Placement | None = None
        self._make = make
        self._environment: Environment | None = None

    @property
    def all_hosts(self) -> list[Host]:
        """As of a placement."""
        return [self.host]

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


class Placement:
    """The slots of one trial, each on another host. Like a slot, it has an environment.

    :ivar slots: role → its slots.
    :ivar host: the first one, under which the trial is kept; likewise ``runner_id``.
    """

    __slots__ = ("_environment", "_make", "host", "runner_id", "slots")

    def __init__(self, slots: Mapping[str, Sequence[Slot]], make: MakePlaced | None) -> None:
        self.slots = {role: tuple(some) for role, some in slots.items()}
        first = self.all_slots[0]
        self.host, self.runner_id = first.host, first.runner_id
        self._make = make
        self._environment: Environment | None = None

    @property
    def all_slots(self) -> list[Slot]:
        """All of them, by role."""
        return [slot for some in self.slots.values() for slot in some]

    @property
    def all_hosts(self) -> list[Host]:
        """All hosts, by role."""
        return [slot.host for slot in self.all_slots]

    @property
    def hosts(self) -> dict[str, tuple[Host, ...]]:
        """Role → its hosts."""
        return {role: tuple(slot.host for slot in some) for role, some in self.slots.items()}

    @property
    def environment(self) -> Environment:
        """The slot's own if there is only one; else made when it is first asked for.

        :raises ConfigError: if there are several and nobody said how to make it.
        """
        if len(slots := self.all_slots) == 1:
            return slots[0].environment
        if self._environment is None:
            if self._make is None:
                raise ConfigError(f"the environment is for one host, and a trial has {len(slots)} of them")
            self._environment = self._make(self)
        return self._environment

    def renew(self) -> None:
        """An environment that could not be torn down is not used again."""
        for slot in self.all_slots:
            slot.renew()
        if self._environment is not None and not self._environment.is_clean:
            self._environment = None


MakePlaced = Callable[[Placement], Environment]
"""Makes the environment of a trial that has several hosts."""
