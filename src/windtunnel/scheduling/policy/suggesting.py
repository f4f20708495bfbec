"""How many configurations to ask the optimizer for."""

from __future__ import annotations

import math

__all__ = ["configurations_tried", "suggestions_due"]

_AT_ONCE = 512
"""Trials stored in one go at most."""

_SLOTS_AHEAD = 8
"""For so many slots one suggestion is held in store. With fewer, each one knows all results there are."""


def suggestions_due(
    *, total: int, budget: int, pending: int, free: int, concurrency: int, repeats: int, learns: bool
) -> int:
    """How many new configurations to ask for now.

    An optimizer that learns is asked for slots that are free, since a later suggestion knows more, and for
    one more for every eight slots: it thinks while they run, and what it proposes then lacks a few of the
    newest results. Others are asked ahead in batches, so that no slot waits for them.

    :param total: trials the experiment has.
    :param budget: trials it shall have in the end.
    :param pending: trials that wait to be claimed.
    :param free: slots without a trial.
    """
    remaining = budget - total
    idle = free - pending
    if learns:
        wanted = idle + concurrency // _SLOTS_AHEAD
    elif pending > _ahead(concurrency) // 2:
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
