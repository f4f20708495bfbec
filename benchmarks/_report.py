"""What the benchmarks share: their options, the spread of their runs, and the one line of JSON they print."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Self

__all__ = ["TUNABLES", "Bar", "Figure", "Stopwatch", "parser", "report", "scratch"]

TUNABLES: dict[str, Any] = {
    "space": {
        "params": {
            "x": {"type": "float", "range": [0, 1], "default": 0.5},
            "k": {"type": "categorical", "values": ["a", "b"], "default": "a"},
        }
    }
}
"""The space that every benchmark tunes, here and in the peers."""


Bar = tuple[Literal["at least", "at most"], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured quantity, once a run.

    :param bar: what the median must reach: ``at least`` or ``at most`` so much; None if it only informs.
    """

    unit: str
    runs: Sequence[float]
    bar: Bar | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.runs)

    @property
    def reached(self) -> bool:
        if self.bar is None:
            return True
        side, limit = self.bar
        return self.median >= limit if side == "at least" else self.median <= limit

    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "unit": self.unit,
            "median": _rounded(self.median),
            "min": _rounded(min(self.runs)),
            "max": _rounded(max(self.runs)),
            "runs": len(self.runs),
        }
        if self.bar is not None:
            facts |= {"bar": f"{self.bar[0]} {self.bar[1]:g}", "reached": self.reached}
        return facts


def parser(doc: str | None, *, runs: int = 3, peers: bool = True) -> argparse.ArgumentParser:
    """The options that all benchmarks have.

    :param doc: the benchmark's docstring; its first line is the question.
    :param runs: how often it measures by default.
    :param peers: whether there is anything to compare with.
    """
    options = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    options.add_argument(
        "--runs", type=_positive, default=runs, metavar="N", help=f"measure N times (default {runs})"
    )
    if peers:
        options.add_argument(
            "--peers", action=_WithOptuna, nargs=0, default=False, help="also measure Optuna"
        )
    return options


def report(doc: str | None, figures: dict[str, Figure], *, ratios: dict[str, float] | None = None) -> int:
    """Print the one line. The exit status: 0 if every bar was reached, else 1.

    :param ratios: quotients of figures, for comparison.
    """
    reached = all(figure.reached for figure in figures.values())
    line = {
        "question": (doc or "").partition("\n")[0],
        "reached": reached,
        "figures": {name: figure.facts() for name, figure in figures.items()},
        "ratios": {name: _rounded(ratio) for name, ratio in (ratios or {}).items()},
        "versions": _versions(),
        "machine": _machine(),
    }
    print(json.dumps(line))
    return 0 if reached else 1


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder on the disk that ``TMPDIR`` chooses."""
    with tempfile.TemporaryDirectory(prefix="windtunnel-bench-") as folder:
        yield Path(folder)


class Stopwatch:
    """``with Stopwatch() as watch: …`` and then ``watch.seconds``."""

    seconds = 0.0

    def __enter__(self) -> Self:
        self._began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._began


class _WithOptuna(argparse.Action):
    """Refuses ``--peers`` at once if there is nobody to compare with."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *_: object) -> None:
        if find_spec("optuna") is None:
            parser.exit(2, "--peers needs Optuna, which is not installed; pip install -e '.[bench]'\n")
        setattr(namespace, self.dest, True)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, found {text!r}")
    return int(text)


def _rounded(value: float) -> float:
    """Four significant digits at most: the spread is wider than that."""
    return float(f"{value:.4g}") if abs(value) < 1000 else round(value)


def _versions() -> dict[str, str]:
    versions = {"sqlite": sqlite3.sqlite_version}
    for package in ("windtunnel", "anyio", "sqlalchemy", "optuna"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def _machine() -> dict[str, Any]:
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "fsync_ms": _rounded(_fsync_ms()),
    }


def _fsync_ms() -> float:
    """What a commit costs at least on the disk of ``scratch``: little on one that only promises."""
    times: list[float] = []
    with tempfile.TemporaryFile() as file:
        for _ in range(20):
            file.write(b"x" * 4096)
            with Stopwatch() as watch:
                file.flush()
                os.fsync(file.fileno())
            times.append(watch.seconds)
    return statistics.median(times) * 1000


if __name__ == "__main__":
    sys.exit("this module is shared by the benchmarks; run one of those")
