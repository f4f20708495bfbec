"""Names with ranges: ``node[01-64]`` is 64 names."""

from __future__ import annotations

import fnmatch
import itertools
import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from windtunnel.errors import ConfigError
from windtunnel.options import nearest, shown

__all__ = ["MOST_NAMES", "chosen_names", "expand_ranges"]

MOST_NAMES = 10_000
_RANGE = re.compile(r"\[([^\[\]]*)\]")
_NUMBER = re.compile(r"[0-9]{1,18}")
_LETTERS = re.compile(r"[a-z]{2}|[A-Z]{2}")


class _Choice(NamedTuple):
    """What may stand in one place: not made before it is known how many there are."""

    numbers: range
    word: Callable[[int], str]


def expand_ranges(pattern: str, *, separator: str = "-") -> list[str]:
    """All names of a pattern, those of the last range next to each other.

    ``[8-11]`` counts; ``[08-11]`` keeps its zeros, for which both ends must have as many digits.

    :param separator: with ``:``, as Ansible writes it, there are steps, ``[1:9:2]``, and letters, ``[a:f]``.
    :raises ConfigError: if a range is none, or there would be more than ``MOST_NAMES`` names.
    """
    literals, ranges = _split(pattern, separator)
    choices = [_choice(inside, separator) for inside in ranges]
    count = math.prod(len(choice.numbers) for choice in choices)
    if count > MOST_NAMES:
        raise ConfigError(f"expected at most {MOST_NAMES} names, found {count} in {shown(pattern)}")
    words = [[choice.word(number) for number in choice.numbers] for choice in choices]
    return [_joined(literals, chosen) for chosen in itertools.product(*words)]


def chosen_names(patterns: str, names: Sequence[str]) -> set[str]:
    """Those of ``names`` that one of the patterns means.

    :param patterns: with commas between them; each may have ranges, and ``*`` and ``?``.
    :raises ConfigError: if a pattern means none of them, or there is no pattern.
    """
    chosen: set[str] = set()
    for pattern in filter(None, map(str.strip, patterns.split(","))):
        for word in expand_ranges(pattern):
            found = fnmatch.filter(names, word)
            if not found:
                raise ConfigError(f"there is no host {shown(word)}{nearest(word, names)}")
            chosen.update(found)
    if not chosen:
        raise ConfigError(f"expected names of hosts, found {shown(patterns)}")
    return chosen


def _split(pattern: str, separator: str) -> tuple[list[str], list[str]]:
    """What stands around the ranges, and what inside them."""
    parts = _RANGE.split(pattern)
    if any(bracket in literal for literal in parts[::2] for bracket in "[]"):
        raise ConfigError(f"expected ranges such as [1{separator}9], found {shown(pattern)}")
    return parts[::2], parts[1::2]


def _joined(literals: list[str], chosen: tuple[str, ...]) -> str:
    return "".join(itertools.chain.from_iterable(zip(literals, (*chosen, ""), strict=True)))


def _choice(inside: str, separator: str) -> _Choice:
    ends = inside.split(separator)
    step = ends.pop() if separator == ":" and len(ends) == 3 else "1"
    if len(ends) != 2 or not _NUMBER.fullmatch(step):
        raise _not_a_range(inside, separator)
    first, last = ends
    if separator == ":" and _LETTERS.fullmatch(first + last):
        choice = _Choice(range(ord(first), ord(last) + 1, max(1, int(step))), chr)
    elif _NUMBER.fullmatch(first) and _NUMBER.fullmatch(last):
        width = _width(first, last, separator)
        numbers = range(int(first), int(last) + 1, max(1, int(step)))
        choice = _Choice(numbers, lambda number: f"{number:0{width}d}")
    else:
        raise _not_a_range(inside, separator)
    if not choice.numbers:
        raise ConfigError(f"the range [{inside}] is empty; its first end must not be above the last")
    return choice


def _width(first: str, last: str, separator: str) -> int:
    """How many digits every number has at least."""
    if not first.startswith("0") or len(first) == 1:
        return 1
    if len(first) != len(last):
        raise ConfigError(
            f"the ends of [{first}{separator}{last}] must have as many digits, as one has zeros"
        )
    return len(first)


def _not_a_range(inside: str, separator: str) -> ConfigError:
    return ConfigError(f"expected a range such as [01{separator}64], found {shown(f'[{inside}]')}")
