"""Where in a file each value stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Place"]


@dataclass(frozen=True, slots=True)
class Place:
    """The position of a value, and the places of what is inside it.

    :ivar line: 1-based; for an entry of a mapping, the line of its key. Likewise ``column``, None if unknown.
    :ivar source: the file; None for that of the place around it.
    """

    line: int
    column: int | None = None
    inside: dict[Any, Place] = field(default_factory=dict)
    source: str | None = None

    def find(self, path: Sequence[str | int]) -> Place:
        """The place of the deepest value on ``path`` that exists, with its file if one is known."""
        here, source = self, self.source
        for step in path:
            if step not in here.inside:
                break
            here = here.inside[step]
            source = here.source or source
        return Place(here.line, here.column, here.inside, source)
