"""What an environment would run, told without running it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

__all__ = ["Commands", "in_order"]


class Commands(NamedTuple):
    """The commands of one step.

    :ivar environment: its name.
    :ivar step: ``setup``, ``run`` or ``teardown``.
    :ivar lines: as they are given to the shell.
    :ivar variables: what they find in their environment beside what is there anyway.
    :ivar host: where; empty for this machine.
    """

    environment: str
    step: str
    lines: Sequence[str]
    variables: Mapping[str, str]
    host: str = ""


def in_order(of_children: Sequence[Sequence[Commands]]) -> list[Commands]:
    """The steps of several environments as a composite takes them: teardowns in reverse."""
    found = [one for step in ("setup", "run") for child in of_children for one in child if one.step == step]
    return found + [one for child in reversed(of_children) for one in child if one.step == "teardown"]
