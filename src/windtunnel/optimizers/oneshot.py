"""One configuration, once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Unpack

from pydantic import Field

from windtunnel.optimizers.base import Given, Optimizer
from windtunnel.options import Options
from windtunnel.tunables import TunableGroups

__all__ = ["OneShot"]


class _OneShotOptions(Options):
    values: dict[str, Any] = Field(
        default_factory=dict, description="tunable → value; others stay as they are"
    )


class OneShot(Optimizer):
    """Proposes one configuration and then nothing: for a benchmark that is to be run, not tuned.

    :param values: tunable → value; default none. Tunables not named keep the value they have in ``tunables``.
    :param start_with_defaults: has no effect, there is only one suggestion.
    :raises TunableError: see ``TunableGroups.choose``.
    """

    learns = False
    options_class: ClassVar[type[Options]] = _OneShotOptions

    def __init__(self, *, values: Mapping[str, Any] | None = None, **given: Unpack[Given]) -> None:
        given["start_with_defaults"] = False
        super().__init__(**given)
        self._only = self.tunables.choose(values or {})

    def _ask(self, index: int, count: int) -> Sequence[TunableGroups]:
        return [self._only] if index == len(self.first) else []
