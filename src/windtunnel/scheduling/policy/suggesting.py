"""How many configurations to ask the optimizer for."""

from __future__ import annotations

import math

__all__ = ["configurations_tried", "suggestions_due"]

_AT_ONCE = 512
"""Trials stored in one go at most."""


def suggestions_due(
    *, total: int, budget: int, pending: int, free: int, concurrency: int, repeats: int, learns: bool
) -> int:
    """How many new configurations to ask for now.

    An optimizer that learns is asked only for slots that are free, since a later suggestion knows more.
    Others are asked ahead in batches, so that no slot waits for them.

    :param total: trials the experiment has.
    :param budget: trials it shall have in the end.
    :param pending: trials that wait to be claimed.
    :param free: slots without a trial.
    """
    remaining = budget - total
    idle = free - pending
    if learns or pending > _ahead(concurrency) // 2:
        wanted = idle
    else:
        wanted = max(idle, _ahead(concurrency) - pending)
    return max(0, math.ceil(min(wanted, remaining, _AT_ONCE) / repeats))


def _ahead(concurrency: int) -> int:
    """How many trials to hold in store when asking early costs nothing."""
    return min(max(2 * concurrency, 64), _AT_ONCE)


def configurations_tried(total: int, repeats: int) -> int:
    """How many configurations ``total`` trials came from: where a resumed optimizer goes on."""
    return math.ceil(total / repeats)
