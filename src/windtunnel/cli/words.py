"""Numbers, times and texts as people read them. Pure functions; nothing here knows a terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from windtunnel.model import OutlierHost

__all__ = ["assignments", "cut", "duration", "first_line", "number", "outlier", "plain", "rate"]

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)", re.DOTALL)
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def plain(text: str) -> str:
    """``text`` without what would steer a terminal: scripts print colours, moves and bells."""
    return _CONTROLS.sub("", _ESCAPES.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))


def cut(text: str, width: int) -> str:
    """At most ``width`` characters of it."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def first_line(text: str, width: int = 160) -> str:
    """The first line that says something."""
    lines = (line.strip() for line in plain(text).splitlines())
    return cut(next((line for line in lines if line), ""), width)


def number(value: object) -> str:
    """A value in a few digits; text as it is."""
    if isinstance(value, bool) or value is None:
        return {None: "-", True: "true", False: "false"}[value]
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.0f}" if 1e5 <= abs(value) < 1e15 else f"{value:.5g}"
    return plain(str(value)).replace("\n", " ")


def assignments(values: Mapping[str, object] | None, *, most: int = 1000) -> str:
    """``a=1, b=2``, of at most ``most`` entries."""
    if not values:
        return "-"
    shown = [f"{plain(name)}={number(value)}" for name, value in list(values.items())[:most]]
    return ", ".join(shown) + (", …" if len(values) > most else "")


def duration(seconds: float) -> str:
    """``0.4 s``, ``12 s``, ``3m 05s``, ``2h 07m`` or ``3d 04h``."""
    if seconds < 9.95:
        return f"{max(seconds, 0.0):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole // 60 % 60:02d}m"
    return f"{whole // 86400}d {whole // 3600 % 24:02d}h"


def rate(per_second: float) -> str:
    """Trials a second, a minute or an hour: whichever gives a number above 1."""
    for unit, seconds in (("s", 1), ("min", 60), ("h", 3600)):
        count = per_second * seconds
        if count >= 1 or unit == "h":
            break
    return f"{count:.0f} trials/{unit}" if count >= 100 else f"{count:.3g} trials/{unit}"


def outlier(host: OutlierHost) -> str:
    """A host whose results are not to be trusted."""
    side = "above" if host.deviation > 0 else "below"
    return (
        f"host {plain(host.host)} stands out: over {host.runs} runs its results lie "
        f"{abs(host.deviation):.1f} standard deviations {side} those of others"
    )
