"""One configuration, once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field

from windtunnel.objectives import Objective
from windtunnel.optimizers.base import Optimizer
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

    def __init__(
        self,
        *,
        tunables: TunableGroups,
        objectives: Mapping[str, Objective],
        seed: int | None = None,
        start_with_defaults: bool = False,
        asked: int = 0,
        values: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            tunables=tunables, objectives=objectives, seed=seed, start_with_defaults=False, asked=asked
        )
        self._only = tunables.choose(values or {})

    def _ask(self, index: int, count: int) -> Sequence[TunableGroups]:
        return [self._only] if index == 0 else []
