"""The options of ``windtunnel load``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "Aborts",
    "Connections",
    "Duration",
    "FindMaxRate",
    "Generators",
    "Headers",
    "Insecure",
    "Output",
    "Poisson",
    "Profile",
    "Rate",
    "Seed",
    "Slo",
    "Steps",
    "Target",
    "Thresholds",
    "Timeout",
    "Users",
    "Warmup",
    "Workers",
    "Yes",
]

Target = Annotated[
    str, typer.Argument(metavar="URL_OR_FILE", help="URL, YAML/JSON5/TOML plan, or Python file with load().")
]
Rate = Annotated[float | None, typer.Option(metavar="N", help="Requests a second, open loop.")]
Users = Annotated[int | None, typer.Option(metavar="N", help="Users who wait, closed loop.")]
Profile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Rates in turn, or recorded times (.csv, .txt).")
]
Duration = Annotated[str | None, typer.Option(metavar="TIME", help="Such as 30s. Default 10s.")]
Warmup = Annotated[str | None, typer.Option(metavar="TIME", help="Before it, not measured.")]
Connections = Annotated[int | None, typer.Option(metavar="N", help="Most requests in flight. Default 256.")]
Timeout = Annotated[str | None, typer.Option(metavar="TIME", help="Of a request. Default 10s.")]
Poisson = Annotated[bool, typer.Option("--poisson", help="Random arrivals instead of even ones.")]
Headers = Annotated[
    list[str] | None, typer.Option("--header", "-H", metavar="NAME: VALUE", help="Repeatable.")
]
Generators = Annotated[
    Path | None,
    typer.Option(metavar="INVENTORY", help="Hosts that put the load, over SSH. Default this machine."),
]
Workers = Annotated[int | None, typer.Option(metavar="N", help="Processes, on each host. Default 1.")]
Seed = Annotated[int | None, typer.Option(metavar="N", help="Of arrivals and choices. Default 1.")]
Insecure = Annotated[bool, typer.Option("--insecure", help="Accept any certificate.")]
Thresholds = Annotated[
    list[str] | None,
    typer.Option("--threshold", metavar="LIMIT", help="Such as 'p99<50ms' or 'errors<1%'; repeatable."),
]
Aborts = Annotated[
    list[str] | None,
    typer.Option("--abort-on", metavar="LIMIT", help="Stop once it holds for a second; repeatable."),
]
FindMaxRate = Annotated[
    bool, typer.Option("--find-max-rate", help="Search for the highest rate that keeps --slo.")
]
Slo = Annotated[
    list[str] | None,
    typer.Option("--slo", metavar="LIMIT", help="What --find-max-rate keeps; repeatable."),
]
Steps = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Keeps the steps of the search, and resumes it.")
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Seconds as .csv, all as .json, latencies as .hlog."),
]
Yes = Annotated[bool, typer.Option("--yes", help="Meant: a target elsewhere, or more than 20 000 a second.")]
