"""The command that tests a target under load; what it does is in ``loading.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]

_Limits = Annotated[
    list[str] | None,
    typer.Option("--threshold", metavar="LIMIT", help="Such as 'p99<50ms' or 'errors<1%'; repeatable."),
]
_Aborts = Annotated[
    list[str] | None,
    typer.Option("--abort-on", metavar="LIMIT", help="Stop once it holds for a second; repeatable."),
]
_Slo = Annotated[
    list[str] | None,
    typer.Option("--slo", metavar="LIMIT", help="What --find-max-rate keeps; repeatable."),
]


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(load)


def load(
    target: Annotated[
        str,
        typer.Argument(metavar="URL_OR_FILE", help="URL, YAML/JSON5/TOML plan, or Python file with load()."),
    ],
    rate: Annotated[float | None, typer.Option(metavar="N", help="Requests a second, open loop.")] = None,
    users: Annotated[int | None, typer.Option(metavar="N", help="Users who wait, closed loop.")] = None,
    profile: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Rates in turn, or recorded times (.csv, .txt).")
    ] = None,
    duration: Annotated[str | None, typer.Option(metavar="TIME", help="Such as 30s. Default 10s.")] = None,
    warmup: Annotated[str | None, typer.Option(metavar="TIME", help="Before it, not measured.")] = None,
    connections: Annotated[
        int | None, typer.Option(metavar="N", help="Most requests in flight. Default 256.")
    ] = None,
    timeout: Annotated[str | None, typer.Option(metavar="TIME", help="Of a request. Default 10s.")] = None,
    poisson: Annotated[bool, typer.Option("--poisson", help="Random arrivals instead of even ones.")] = False,
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", metavar="NAME: VALUE", help="Repeatable.")
    ] = None,
    workers: Annotated[int | None, typer.Option(metavar="N", help="Processes. Default 1.")] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Of arrivals and choices. Default 1.")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Accept any certificate.")] = False,
    threshold: _Limits = None,
    abort_on: _Aborts = None,
    find_max_rate: Annotated[
        bool, typer.Option("--find-max-rate", help="Search for the highest rate that keeps --slo.")
    ] = False,
    slo: _Slo = None,
    steps: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keeps the steps of the search, and resumes it.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Seconds as .csv, all as .json, histograms as .hlog."
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Meant: a target elsewhere, or more than 20 000 a second.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON, progress to stderr.")
    ] = False,
) -> None:
    """Test a target under load, with honest latencies: they count from when a request was due.

    A server that stalls delays no request of the schedule. With --rate, requests start when they are due; at
    most --connections are in flight, and what that holds back is counted and shown. The run is marked invalid
    if the generator itself was too slow.

    \b
    Examples:
      windtunnel load http://127.0.0.1:8080/ --rate 2000 --duration 30s --threshold 'p99<50ms'
      windtunnel load http://127.0.0.1:8080/ --users 32 --json
      windtunnel load shop.yaml --abort-on 'errors>50%' --output run.hlog
      windtunnel load queries.py --rate 500
      windtunnel load http://127.0.0.1:8080/ --find-max-rate --slo 'p99<50ms'

    A Python file has an async function load(call), and perhaps an async context manager resource() whose
    value is call.resource. Exit codes: 1 if a threshold was missed or --abort-on ended it; 2 if the command
    is wrong; 3 if it was interrupted.
    """
    from windtunnel.cli.loading import load_target

    given = {
        "rate": rate,
        "users": users,
        "duration": duration,
        "warmup": warmup,
        "connections": connections,
        "timeout": timeout,
        "workers": workers,
        "seed": seed,
        "arrivals": "poisson" if poisson else None,
        "insecure": insecure or None,
        "confirmed": yes or None,
    }
    code = load_target(
        target,
        {name: value for name, value in given.items() if value is not None},
        profile=profile,
        headers=header or (),
        thresholds=threshold or (),
        abort_on=abort_on or (),
        slo=(slo or ()) if find_max_rate else None,
        steps=steps,
        output=output,
        as_data=as_json,
    )
    raise typer.Exit(code)
