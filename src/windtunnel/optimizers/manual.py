"""Configurations that somebody has chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Unpack

from pydantic import Field

from windtunnel.optimizers.base import Given, Optimizer
from windtunnel.options import Options
from windtunnel.tunables import TunableGroups

__all__ = ["Manual"]


class _ManualOptions(Options):
    values: list[dict[str, Any]] = Field(
        min_length=1, description="each a mapping of tunable → value; others have their defaults"
    )
    cycles: int | None = Field(
        default=None, ge=1, description="how often they are gone through; default until the trials are done"
    )


class Manual(Optimizer):
    """Proposes given configurations, in their order, again and again.

    :param values: the configurations; at least one.
    :param cycles: how often; default without end.
    :param start_with_defaults: has no effect: what is to be tried is listed.
    :raises TunableError: if a value is outside its domain or its tunable is unknown.
    """

    learns = False
    options_class: ClassVar[type[Options]] = _ManualOptions

    def __init__(
        self, *, values: Sequence[Mapping[str, Any]], cycles: int | None = None, **given: Unpack[Given]
    ) -> None:
        given["start_with_defaults"] = False
        super().__init__(**given)
        defaults = self.tunables.defaults()
        self._values = [defaults.choose(one) for one in values]
        self._end = None if cycles is None else cycles * len(self._values)

    def _ask(self, index: int, count: int) -> Sequence[TunableGroups]:
        begin = index - len(self.first)
        end = begin + count if self._end is None else min(begin + count, self._end)
        return [self._values[number % len(self._values)] for number in range(begin, end)]
