"""Several optimizers on one experiment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Annotated, ClassVar, Unpack

from pydantic import ConfigDict, Field, model_validator

from windtunnel.errors import ConfigError
from windtunnel.model import History
from windtunnel.optimizers.adapters import AdapterConfig
from windtunnel.optimizers.base import Given, Optimizer
from windtunnel.optimizers.registry import make_optimizer
from windtunnel.options import Count, Options
from windtunnel.tunables import TunableGroups

__all__ = ["Member", "Mixed"]


class Member(Options):
    """One of the optimizers. Keys that are not listed here are its own."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(min_length=1, description="short name or dotted path")
    trials: Count | None = Field(
        default=None, description="configurations it proposes before the next one's turn; default no end"
    )
    share: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="of the configurations after those; default what others leave"
    )

    adapter: AdapterConfig | None = Field(
        default=None, description="another space for it to search; default the tunables themselves"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _either(self) -> Member:
        if self.trials is not None and self.share is not None:
            raise ValueError("give 'trials' or 'share', not both")
        return self


class _MixedOptions(Options):
    members: list[Member] = Field(
        min_length=1, description="the optimizers; a list in the file is short for it"
    )


class Mixed(Optimizer):
    """Several optimizers in turn, each of which learns from all trials.

    Those with ``trials`` come first, one after the other; then the others share what is left, interleaved.
    Whose turn it is depends on the number of the suggestion alone. One that has nothing more to propose is
    passed over.

    :param members: at least one.
    :raises ConfigError: if the shares do not add up, or for a member that cannot be made.
    """

    options_class: ClassVar[type[Options]] = _MixedOptions

    def __init__(self, *, members: Sequence[Member], **given: Unpack[Given]) -> None:
        super().__init__(**given)
        self._shares = _shares(members)
        fresh = [self._make(place, member, 0) for place, member in enumerate(members)]
        self._turns = self._order(members, fresh)
        taken = list(islice(self._turns, max(0, self.asked - len(self.first))))
        self._members = [
            self._make(place, member, count) if (count := taken.count(place)) else fresh[place]
            for place, member in enumerate(members)
        ]

    def _make(self, place: int, member: Member, asked: int) -> Optimizer:
        try:
            return make_optimizer(
                member.name,
                tunables=self.tunables,
                objectives=self.objectives,
                seed=self.seed + place,
                start_with_defaults=False,
                asked=asked,
                planned=member.trials or self.planned,
                options=member.model_extra,
                adapter=member.adapter,
            )
        except ConfigError as exc:
            raise exc.within("members", place) from None

    def _order(self, members: Sequence[Member], fresh: Sequence[Optimizer]) -> Iterator[int]:
        """Whose turn it is, from the first suggestion on."""
        for place, member in enumerate(members):
            if member.trials is not None:
                one = fresh[place]
                has = member.trials if one.learns else len(self._make(place, member, 0).ask(member.trials))
                yield from [place] * has
        credit = dict.fromkeys(self._shares, 0.0)
        while credit:
            for place, share in self._shares.items():
                credit[place] += share
            place = max(credit, key=lambda one: credit[one])
            credit[place] -= 1
            yield place

    def _ask(self, index: int, count: int) -> Sequence[TunableGroups]:
        suggestions: list[TunableGroups] = []
        misses = 0
        while len(suggestions) < count and misses <= len(self._members) / min(
            self._shares.values(), default=1
        ):
            place = next(self._turns, None)
            if place is None:
                break
            proposed = self._members[place].ask(1)
            misses = 0 if proposed else misses + 1
            self._expected(proposed, but=place)
            suggestions += proposed
        return suggestions

    def expect(self, configurations: Sequence[TunableGroups]) -> None:
        self._expected(configurations, but=None)

    def _expected(self, configurations: Sequence[TunableGroups], *, but: int | None) -> None:
        for place, member in enumerate(self._members):
            if place != but and member.learns:
                member.expect(configurations)

    def _tell(self, history: History) -> None:
        for member in self._members:
            member.tell(history)


def _shares(members: Sequence[Member]) -> Mapping[int, float]:
    """Of those that share: place → share, together 1."""
    given = {place: one.share for place, one in enumerate(members) if one.trials is None}
    left = 1.0 - sum(share or 0.0 for share in given.values())
    open_ended = sum(share is None for share in given.values())
    if left < -1e-9 or (open_ended and left <= 1e-9) or (given and not open_ended and left > 1e-9):
        wanted = "less than 1 in all" if open_ended else "1 in all"
        raise ConfigError(f"expected shares of {wanted}, found {1.0 - left:g}", path=("members",))
    return {place: left / open_ended if share is None else share for place, share in given.items()}
