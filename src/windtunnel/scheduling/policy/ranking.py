"""Configurations in an order that changes all the time."""

from __future__ import annotations

import itertools
from bisect import bisect_left, insort
from collections.abc import Iterator

__all__ = ["Ranking"]

_LONGEST = 1000
"""Entries of a block; longer ones are cut in two."""

_Entry = tuple[float, int]


class Ranking:
    """Configurations by a key, the least first.

    Kept in order in short blocks: a change among 100 000 moves a few hundred, and reading the first few costs
    no more than those.
    """

    __slots__ = ("_blocks", "_keys", "_lasts")

    def __init__(self) -> None:
        self._keys: dict[int, float] = {}
        self._blocks: list[list[_Entry]] = []
        self._lasts: list[_Entry] = []

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[_Entry]:
        """(key, config_id), the least first; not to be changed meanwhile."""
        return itertools.chain.from_iterable(self._blocks)

    def put(self, config_id: int, key: float) -> None:
        """Enter a configuration, or move it."""
        self.drop(config_id)
        self._keys[config_id] = key
        entry = (key, config_id)
        if not self._blocks:
            self._blocks, self._lasts = [[entry]], [entry]
            return
        at = min(bisect_left(self._lasts, entry), len(self._blocks) - 1)
        block = self._blocks[at]
        insort(block, entry)
        self._lasts[at] = block[-1]
        if len(block) > _LONGEST:
            middle = len(block) // 2
            self._blocks[at : at + 1] = [block[:middle], block[middle:]]
            self._lasts.insert(at, block[middle - 1])

    def drop(self, config_id: int) -> None:
        """Take a configuration out, if it is there."""
        key = self._keys.pop(config_id, None)
        if key is None:
            return
        entry = (key, config_id)
        at = bisect_left(self._lasts, entry)
        block = self._blocks[at]
        del block[bisect_left(block, entry)]
        if block:
            self._lasts[at] = block[-1]
        else:
            del self._blocks[at], self._lasts[at]
