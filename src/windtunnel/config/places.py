"""Where in a file each value stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Place"]


@dataclass(frozen=True, slots=True)
class Place:
    """The line of a value, and the places of what is inside it.

    :ivar line: 1-based; for an entry of a mapping, the line of its key.
    """

    line: int
    inside: dict[object, Place] = field(default_factory=dict)

    def find(self, path: Sequence[str | int]) -> Place:
        """The place of the deepest value on ``path`` that exists."""
        here = self
        for step in path:
            if step not in here.inside:
                break
            here = here.inside[step]
        return here
