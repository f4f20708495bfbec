"""The command that tests a target under load; what it does is in ``loading.py``."""

from __future__ import annotations

import typer

from windtunnel.cli import load_options as option
from windtunnel.cli.options import AsJson

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(load)


def load(
    context: typer.Context,
    target: option.Target,
    rate: option.Rate = None,
    users: option.Users = None,
    profile: option.Profile = None,
    duration: option.Duration = None,
    warmup: option.Warmup = None,
    connections: option.Connections = None,
    timeout: option.Timeout = None,
    poisson: option.Poisson = False,
    header: option.Headers = None,
    generators: option.Generators = None,
    workers: option.Workers = None,
    seed: option.Seed = None,
    insecure: option.Insecure = False,
    threshold: option.Thresholds = None,
    abort_on: option.Aborts = None,
    find_max_rate: option.FindMaxRate = False,
    slo: option.Slo = None,
    steps: option.Steps = None,
    output: option.Output = None,
    yes: option.Yes = False,
    as_json: AsJson = False,
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
      windtunnel load shop.yaml --generators inventory.yaml --workers 4
      windtunnel load queries.py --rate 500
      windtunnel load http://127.0.0.1:8080/ --find-max-rate --slo 'p99<50ms'

    A Python file has an async function load(call), and perhaps an async context manager resource() whose
    value is call.resource.

    Exit codes: 1 if a threshold was missed, --abort-on ended it, the run is invalid, every request failed and
    no threshold says how many may, no rate kept --slo, or it could not be run; 2 if the command or the plan
    is wrong; 3 if it was interrupted. The last line says why.
    """
    from windtunnel.cli.loading import load_target

    raise typer.Exit(load_target(context.params))
