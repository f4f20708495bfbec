"""What may be varied, and the values it has."""

from windtunnel.tunables.groups import CovariantGroup, TunableGroups
from windtunnel.tunables.tunable import Tunable, TunableValue

__all__ = ["CovariantGroup", "Tunable", "TunableGroups", "TunableValue"]
