"""The commands that change what is stored; what they do is in ``changes.py`` and ``transfer.py``."""

from __future__ import annotations

from typing import Annotated

import typer

from windtunnel.cli import DEFAULT_STORAGE
from windtunnel.cli.options import Experiment, JsonObject

__all__ = ["register"]

_Storage = Annotated[str, typer.Option(metavar="URL", help="Database to use, such as sqlite:///runs.db.")]
_Experiments = Annotated[
    list[str] | None, typer.Argument(metavar="[EXPERIMENT]...", help="Ids of experiments. Default: all.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    for command in (enqueue, cancel, delete, rename, copy):
        app.command()(command)
    app.command("import-mlos")(import_mlos)


def enqueue(
    experiment: Experiment,
    assignments: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="Values of tunables.")
    ] = None,
    config_id: Annotated[
        int | None, typer.Option(metavar="N", help="Run this stored configuration again.")
    ] = None,
    from_best: Annotated[
        bool, typer.Option("--from-best", help="Start from the best configuration, not from the defaults.")
    ] = False,
    priority: Annotated[int, typer.Option(metavar="N", help="Higher ones are run first.")] = 0,
    not_before: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Do not start earlier; ISO 8601, in UTC if it names no zone."),
    ] = None,
    storage: _Storage = DEFAULT_STORAGE,
    as_json: JsonObject = False,
) -> None:
    """Add a trial to an experiment, also while it runs.

    A run that has a free slot takes it within a second; otherwise the next 'windtunnel run' does. It is run
    even if the experiment has all the trials it was to have.

    \b
    Examples:
      windtunnel enqueue my-experiment cache=4096 mode=wal --priority 10
      windtunnel enqueue my-experiment --from-best cache=8192
      windtunnel enqueue my-experiment --config-id 7 --not-before 2030-01-01T22:00
    """
    from windtunnel.cli.changes import enqueue_trial

    enqueue_trial(
        experiment,
        storage,
        assignments=assignments or [],
        config_id=config_id,
        from_best=from_best,
        priority=priority,
        not_before=not_before,
        as_data=as_json,
    )


def cancel(
    experiment: Experiment,
    trials: Annotated[list[int], typer.Argument(metavar="TRIAL...", help="Numbers of the trials.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Kept with the trials.")] = "on request",
    storage: _Storage = DEFAULT_STORAGE,
    as_json: JsonObject = False,
) -> None:
    """Cancel trials that wait or run. They are not run again on resume.

    A running one is torn down by its worker within a third of its lease, 10 s by default.

    \b
    Examples:
      windtunnel cancel my-experiment 12
      windtunnel cancel my-experiment 12 13 14 --reason "wrong kernel"
    """
    from windtunnel.cli.changes import cancel_trials

    raise typer.Exit(cancel_trials(experiment, storage, trials=trials, reason=reason, as_data=as_json))


def delete(
    experiment: Experiment,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also if it runs, or if others have merged it.")
    ] = False,
    storage: _Storage = DEFAULT_STORAGE,
    as_json: JsonObject = False,
) -> None:
    """Delete an experiment with its trials and telemetry. There is no way back.

    \b
    Examples:
      windtunnel delete my-experiment
      windtunnel delete my-experiment --yes
    """
    from windtunnel.cli.changes import delete_experiment

    delete_experiment(experiment, storage, confirmed=yes, force=force, as_data=as_json)


def rename(
    old: Annotated[str, typer.Argument(metavar="OLD", help="Id of the experiment.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Its new id.")],
    storage: _Storage = DEFAULT_STORAGE,
    as_json: JsonObject = False,
) -> None:
    """Give an experiment another id. Runs of it go on.

    \b
    Example:
      windtunnel rename my-experiment my-experiment-2029
    """
    from windtunnel.cli.changes import rename_experiment

    rename_experiment(old, new, storage, as_data=as_json)


def copy(
    source: Annotated[str, typer.Argument(metavar="SOURCE_URL", help="Database to copy from.")],
    target: Annotated[str, typer.Argument(metavar="TARGET_URL", help="Database to copy into.")],
    experiments: _Experiments = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """Copy experiments into another database, with all that was recorded of them.

    Run it again to go on after an interruption, or to bring what was added since. A trial that runs at that
    moment is copied as one that waits.

    \b
    Examples:
      windtunnel copy sqlite:///runs.db sqlite:///archive.db
      windtunnel copy sqlite:///runs.db sqlite:///shared.db my-experiment
    """
    from windtunnel.cli.transfer import copy_experiments

    copy_experiments(source, target, experiments, as_data=as_json)


def import_mlos(
    source: Annotated[str, typer.Argument(metavar="URL", help="Database of mlos_bench; it is only read.")],
    experiments: _Experiments = None,
    prefix: Annotated[str, typer.Option(metavar="TEXT", help="Put before the ids of the experiments.")] = "",
    storage: _Storage = DEFAULT_STORAGE,
    as_json: JsonObject = False,
) -> None:
    """Import experiments from a database of mlos_bench.

    Trials keep their numbers. Values are stored as text there; tunables and metrics get their types back.
    Run it again to add what is new.

    \b
    Examples:
      windtunnel import-mlos sqlite:///mlos_bench.sqlite
      windtunnel import-mlos sqlite:///mlos_bench.sqlite my-experiment --prefix old-
    """
    from windtunnel.cli.transfer import import_experiments

    import_experiments(source, storage, experiments, prefix=prefix, as_data=as_json)
