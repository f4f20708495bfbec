"""What a load test is made of, as it is written in files."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import BeforeValidator, Field, model_validator

from windtunnel.loadgen.arrivals import Piece
from windtunnel.options import Count, Duration, OptionalDuration, Options, parse_duration, shown

__all__ = [
    "CEILING",
    "CheckPlan",
    "LoadPlan",
    "PiecePlan",
    "ScenarioPlan",
    "StepPlan",
    "files_of",
    "needs_consent",
    "with_files",
]

CEILING = 20_000
"""Requests a second, or users, above which a plan has to be confirmed."""

_SCHEMES = {"http": 80, "https": 443}
_DEFAULT_DURATION = timedelta(seconds=10)

Values = dict[str, str]


def _parse_wait(value: object) -> timedelta:
    return timedelta(0) if value in (0, timedelta(0)) else parse_duration(value)


Wait = Annotated[timedelta, BeforeValidator(_parse_wait)]


class CheckPlan(Options):
    """What an answer must be; all that is given must hold."""

    status: tuple[int, ...] | int | None = Field(
        default=None, description="status, or several; default any below 400"
    )
    header: Values = Field(default_factory=dict, description="header → text that its value holds")
    body: str | None = Field(default=None, description="text that the body holds")
    json_values: dict[str, Any] = Field(
        default_factory=dict, alias="json", description="path such as items.0.id → value"
    )


class StepPlan(Options):
    """One request of a session. ``$name`` in its texts comes from the data and from ``save``."""

    path: str = Field(default="/", description="path and query; default /")
    method: str = Field(default="GET", pattern=r"^[A-Z]+$", description="default GET")
    headers: Values = Field(default_factory=dict, description="further headers")
    body: str | None = Field(default=None, description="text of the body; default none")
    name: str = Field(default="", description="its latency is told apart under this name")
    check: CheckPlan | None = Field(default=None, description="what the answer must be")
    save: Values = Field(default_factory=dict, description="name → path in the JSON of the answer")
    think: Wait = Field(default=timedelta(0), description="pause before the next step; default 0")


class ScenarioPlan(Options):
    """What an arrival may do: steps over HTTP, or a function of your own."""

    name: str = Field(default="", description="its latency is told apart under this name")
    weight: float = Field(default=1.0, gt=0, description="how often it is chosen, beside the others")
    steps: tuple[StepPlan, ...] = Field(default=(), description="requests in turn")
    function: str | None = Field(
        default=None, description="async function, as package.module:name or file.py:name"
    )

    @model_validator(mode="after")
    def _check_kind(self) -> ScenarioPlan:
        if bool(self.steps) == (self.function is not None):
            raise ValueError("expected steps or a function, and not both")
        return self


class PiecePlan(Options):
    """A part of a profile: a rate that is held, or one that rises or falls evenly."""

    rate: float = Field(ge=0, allow_inf_nan=False, description="requests a second, at its beginning")
    to: float | None = Field(default=None, ge=0, allow_inf_nan=False, description="rate at its end")
    lasts: Duration = Field(alias="for", description="how long")


class LoadPlan(Options):
    """A load test.

    Open loop: ``rate`` or ``profile`` or ``trace`` says when requests start, whatever becomes of them. Closed
    loop: ``users`` each wait for their answer before they begin again.
    """

    url: str | None = Field(default=None, description="http:// or https://; its path is the first step's")
    rate: float | None = Field(default=None, gt=0, allow_inf_nan=False, description="requests a second")
    profile: tuple[PiecePlan, ...] | None = Field(default=None, min_length=1, description="rates in turn")
    trace: str | None = Field(default=None, description="file of recorded times in seconds, one a line")
    users: Count | None = Field(default=None, description="closed loop of so many")
    think: Wait = Field(default=timedelta(0), description="how long a user thinks; default 0")
    arrivals: Literal["even", "poisson"] = Field(default="even", description="spacing; default even")
    duration: OptionalDuration = Field(default=None, description="default the profile's, or 10s")
    warmup: Wait = Field(default=timedelta(0), description="comes first and is not measured; default 0")
    connections: Count = Field(default=256, description="most requests in flight; default 256")
    timeout: Duration = Field(default=timedelta(seconds=10), description="of a request; default 10s")
    scenarios: tuple[ScenarioPlan, ...] = Field(default=(), description="default one GET of the url")
    resource: str | None = Field(
        default=None, description="async context manager whose value functions get, named like a function"
    )
    data: str | None = Field(default=None, description="CSV or JSONL file; each arrival takes the next row")
    headers: Values = Field(default_factory=dict, description="of every request")
    ca_file: str | None = Field(default=None, description="certificates to trust; default the system's")
    insecure: bool = Field(default=False, description="accept any certificate; default false")
    seed: int = Field(default=1, description="of arrivals and choices; default 1")
    workers: Annotated[int, Field(strict=True, ge=1, le=256)] = Field(
        default=1, description="generator processes, one a core, on each host; default 1"
    )
    python: str = Field(
        default="python3", min_length=1, description="of generators on other hosts; default python3"
    )
    confirmed: bool = Field(
        default=False, description="whether a target elsewhere, or more than 20 000/s, is meant"
    )

    @model_validator(mode="after")
    def _check(self) -> LoadPlan:
        given = [n for n in ("rate", "profile", "trace", "users") if getattr(self, n) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(f"expected one of rate, profile, trace and users, found {found}")
        if any(one.function for one in self.scenarios) and any(one.steps for one in self.scenarios):
            raise ValueError("expected scenarios that all have steps, or all have a function")
        if not self.calls_functions:
            self.target()
        if self.profile is not None and not any(p.rate or p.to for p in self.profile):
            raise ValueError("expected a profile with a rate above 0")
        if self.users is not None and self.users < self.workers:
            raise ValueError(f"expected at least {self.workers} users, one a worker, found {self.users}")
        return self

    @property
    def calls_functions(self) -> bool:
        return any(one.function for one in self.scenarios)

    @property
    def lasts(self) -> timedelta:
        """How long it is measured."""
        if self.duration is not None:
            return self.duration
        if self.profile is not None:
            return sum((piece.lasts for piece in self.profile), timedelta(0)) - self.warmup
        return _DEFAULT_DURATION

    @property
    def whole_s(self) -> float:
        """How long it runs, in seconds, the warm-up included."""
        return (self.warmup + self.lasts).total_seconds()

    def target(self) -> SplitResult:
        """:raises ValueError: if the url is none that can be asked."""
        if self.url is None:
            raise ValueError("missing url; expected http://… or https://…, or scenarios with a function")
        split = urlsplit(self.url)
        try:
            port = split.port
        except ValueError:
            port = 0
        if split.scheme not in _SCHEMES or not split.hostname or port == 0:
            raise ValueError(f"expected a url such as http://127.0.0.1:8080/, found {shown(self.url)}")
        if split.username is not None:
            raise ValueError("expected a url without a user; give it as headers: {Authorization: …}")
        return split

    def address(self) -> tuple[str, int]:
        """Host and port of the target."""
        split = self.target()
        return split.hostname or "", split.port or _SCHEMES[split.scheme]

    def pieces(self) -> Sequence[Piece]:
        """The profile over the whole run, the warm-up included; the last rate goes on to the end."""
        if self.profile is None:
            return [Piece(self.rate or 0.0, self.rate or 0.0, self.whole_s)]
        pieces: list[Piece] = []
        left_s = self.whole_s
        for one in self.profile:
            seconds, end = one.lasts.total_seconds(), one.rate if one.to is None else one.to
            if left_s < seconds:
                end, seconds = one.rate + (end - one.rate) * left_s / seconds, left_s
            pieces.append(Piece(one.rate, end, seconds))
            left_s -= seconds
            if left_s <= 0:
                return pieces
        return [*pieces, Piece(pieces[-1].end, pieces[-1].end, left_s)]


def needs_consent(plan: LoadPlan) -> str | None:
    """Why the plan has to be confirmed; None if it has been, or need not be."""
    if plan.confirmed:
        return None
    rates = [plan.rate or 0.0, plan.users or 0, *(max(p.rate, p.to or 0) for p in plan.profile or ())]
    if max(rates) > CEILING:
        return f"{max(rates):g} is more than {CEILING} requests a second or users"
    if not plan.calls_functions and not _is_loopback(plan.address()[0]):
        return f"{plan.address()[0]!r} is not this machine"
    return None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


# The files that a plan names

_FILES = ("trace", "data", "ca_file")


def files_of(plan: LoadPlan) -> dict[str, str]:
    """Name → the option it stands in. Names are relative to the plan's own directory, or absolute."""
    found = {getattr(plan, option): option for option in _FILES}
    functions = {_python_file(one.function): "scenarios" for one in plan.scenarios}
    found |= functions | {_python_file(plan.resource): "resource"}
    return {name: option for name, option in found.items() if name is not None}


def with_files(raw: Mapping[str, Any], moved: Mapping[str, str]) -> dict[str, Any]:
    """The same plan with its files called otherwise.

    :param moved: name → other name, for all of ``files_of``.
    """
    found = dict(raw)
    for name in _FILES:
        if found.get(name) is not None:
            found[name] = moved[found[name]]
    if found.get("resource") is not None:
        found["resource"] = _moved_function(found["resource"], moved)
    found["scenarios"] = [
        {**one, "function": _moved_function(one["function"], moved)} if one.get("function") else one
        for one in found.get("scenarios") or ()
    ]
    return found


def _python_file(function: str | None) -> str | None:
    where = (function or "").rpartition(":")[0]
    return where if where.endswith(".py") else None


def _moved_function(function: str, moved: Mapping[str, str]) -> str:
    where, colon, name = function.rpartition(":")
    return f"{moved.get(where, where)}{colon}{name}"
