"""The store of experiments: open it with ``open_storage`` and take handles from it."""

from __future__ import annotations

import importlib.metadata
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import anyio
import anyio.to_thread
from sqlalchemy import Connection

from windtunnel.errors import NotFound, SchemaMismatch
from windtunnel.model import Direction, TrialRecord
from windtunnel.objectives import Objective, directions, parse_objectives, weights
from windtunnel.storage import adding, claiming, editing, ending, maintenance, reads, recording, stories
from windtunnel.storage.database import Database, open_database
from windtunnel.storage.dialects import lock_schema
from windtunnel.storage.experiment import Experiment
from windtunnel.storage.schema import REVISION
from windtunnel.storage.writer import GroupWriter
from windtunnel.tunables import TunableGroups

__all__ = ["ExperimentSummary", "Storage", "open_prepared", "open_storage", "upgrade_storage"]

logger = logging.getLogger(__name__)

_VERSION = importlib.metadata.version("windtunnel")
_ORDER = (
    recording.register_metrics,
    stories.note_hosts,
    adding.add_trials,
    recording.record,
    ending.finish,
    ending.release,
    claiming.claim,
)
"""In which order the kinds of writes stand in one transaction: what frees a trial before what claims one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentSummary:
    """One line of a listing.

    :ivar objectives: metric → direction.
    :ivar best: see ``Experiment.best``.
    """

    experiment_id: str
    description: str
    objectives: Mapping[str, Direction]
    counts: reads.Counts
    best: TrialRecord | None


class Storage:
    """Experiments in a database. Any number of tasks may use it; other processes may use the database too."""

    def __init__(self, database: Database, writer: GroupWriter) -> None:
        self._database = database
        self._writer = writer
        self._metrics: dict[str, int] = {}

    @property
    def place(self) -> str:
        """The database's URL without its password."""
        return self._database.place

    @asynccontextmanager
    async def experiment(
        self,
        *,
        experiment_id: str,
        tunables: TunableGroups | Mapping[str, object],
        opt_targets: Mapping[str, Direction | Objective | Mapping[str, object]],
        root_env_config: str = "",
        description: str = "",
    ) -> AsyncIterator[Experiment]:
        """The experiment with this id, made now if there is none.

        :param tunables: a TunableGroups, or the plain mapping of the config format.
        :param opt_targets: metric → ``min``, ``max`` or an Objective, the most important first. Weights and
            bounds may differ from those it was stored with.
        :raises ConfigError: if an objective is wrong.
        :raises ExperimentMismatch: if it is stored with other objectives or tunables.
        """
        objectives = parse_objectives(opt_targets)
        groups = tunables if isinstance(tunables, TunableGroups) else TunableGroups(tunables)
        new = maintenance.NewExperiment(
            name=experiment_id,
            description=description,
            root_env_config=root_env_config,
            objectives={metric: one.definition() for metric, one in objectives.items()},
            tunables=dict(groups.definition()),
            windtunnel=_VERSION,
        )
        key = await self._database.write(maintenance.ensure_experiment, new, groups)
        yield self._handle(key, experiment_id, groups, objectives)

    async def open_experiment(self, experiment_id: str) -> Experiment:
        """A handle on a stored experiment, as it was stored.

        :raises NotFound: if there is none with this id.
        """
        row = await self._database.read(reads.experiment_named, experiment_id)
        if row is None:
            known = [one.name for one in await self._database.read(reads.experiments)]
            raise NotFound("experiment", experiment_id, known)
        tunables, objectives = TunableGroups(json.loads(row.tunables)), row.goals
        return self._handle(row.id, row.name, tunables, objectives)

    async def experiments(self) -> list[ExperimentSummary]:
        """Every experiment with its counts and its best trial, in order of their making."""
        counts = await self._database.read(reads.counts)
        rows = await self._database.read(reads.experiments)
        goals = {row.id: row.goals for row in rows}
        best = await self._best(goals) if any(one.succeeded for one in counts.values()) else {}
        return [
            ExperimentSummary(
                experiment_id=row.name,
                description=row.description,
                objectives=directions(goals[row.id]),
                counts=counts.get(row.id, reads.Counts()),
                best=best.get(row.id),
            )
            for row in rows
        ]

    async def _best(self, goals: Mapping[int, Mapping[str, Objective]]) -> dict[int, TrialRecord | None]:
        """experiment → what ``Experiment.best`` gives, for many at once where that is possible."""
        wanted: dict[int, Direction] = {
            key: next(iter(directions(one).values()), "min") for key, one in goals.items()
        }
        found: dict[int, TrialRecord | None] = {}
        for direction in set(wanted.values()):
            several = await self._database.read(reads.best, direction)
            found |= {key: one for key, one in several.items() if wanted.get(key) == direction}
        for key, one in goals.items():
            if weights(one) is not None:
                found[key] = await self._handle(key, "", TunableGroups({}), one).best()
        return found

    async def delete_experiment(
        self, experiment_id: str, *, force: bool = False, is_dead: Callable[[str], bool] | None = None
    ) -> None:
        """Remove an experiment with everything that was recorded of it, some at a time.

        Cut short, it leaves an experiment that lacks telemetry; call it again. A worker that still runs it
        is refused from then on.

        :param force: also if workers hold trials of it, or other experiments have merged it.
        :param is_dead: whether the worker with this name certainly runs no more; by default a worker counts
            as alive until its leases end. Called in a worker thread.
        :raises NotFound: if there is none with this id.
        :raises StorageError: if it is in use.
        """
        key = await self._database.read(editing.experiment_key, experiment_id)
        if not force:
            owners = await self._database.read(reads.owners, key) if is_dead is not None else ()
            dead = await anyio.to_thread.run_sync(lambda: [one for one in owners if is_dead and is_dead(one)])
            await self._database.read(editing.check_removable, key, dead)
        while await self._database.write(editing.thin_out, key):
            pass
        await self._database.write(editing.remove, key)

    async def rename_experiment(self, old: str, new: str) -> None:
        """Give an experiment another id; workers that run it go on.

        :raises NotFound: if there is none with the old id.
        :raises ConfigError: if the new one cannot be an id.
        :raises StorageError: if the new one exists.
        """
        await self._database.write(editing.rename, old, new)

    def _handle(
        self, key: int, experiment_id: str, tunables: TunableGroups, objectives: Mapping[str, Objective]
    ) -> Experiment:
        return Experiment(
            database=self._database,
            writer=self._writer,
            key=key,
            experiment_id=experiment_id,
            tunables=tunables,
            objectives=objectives,
            metrics=self._metrics,
        )


@asynccontextmanager
async def open_storage(
    url: str = "sqlite:///windtunnel.db", *, patience: timedelta = timedelta(seconds=30)
) -> AsyncIterator[Storage]:
    """Open a database for as long as the block runs.

    An empty one gets its tables. An older SQLite file is upgraded; an older server is not, since others may
    still use it: see ``upgrade_storage``.

    :param url: ``sqlite:///relative/path``, ``sqlite:////absolute/path`` or ``sqlite:///:memory:``;
        ``postgresql://user:password@host/database``, also over a Unix socket (``?host=/folder``); ``mysql://``
        or ``mariadb://`` likewise (``?unix_socket=/file``).
    :param patience: how long to wait while another program has the database locked, or a server is away.
    :raises ConfigError: if the URL cannot be understood or its driver is not installed.
    :raises StorageError: if it cannot be opened, is no database, is newer or belongs to another program.
    """
    failure: Exception | None = None
    async with open_prepared(url, patience=patience) as database:
        writer = GroupWriter(database, _ORDER)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(writer.run, name="storage writer")
            try:
                yield Storage(database, writer)
            except Exception as exc:  # noqa: BLE001 - raised below: the task group would wrap it in an ExceptionGroup
                failure = exc
            finally:
                writer.close()
    if failure is not None:
        raise failure


@asynccontextmanager
async def open_prepared(url: str, *, patience: timedelta) -> AsyncIterator[Database]:
    """The bare database of ``open_storage``, with the newest schema."""
    async with open_database(url, patience=patience) as database:
        await _prepare(database, upgrade=not database.is_server)
        yield database


async def upgrade_storage(url: str) -> str:
    """Bring a database's schema up to date, on request; other processes wait meanwhile.

    :returns: the revision it has now.
    :raises ConfigError: if the URL cannot be understood or its driver is not installed.
    :raises StorageError: as ``open_storage``.
    """
    async with open_database(url, patience=timedelta(seconds=30)) as database:
        await _prepare(database, upgrade=True)
        return REVISION


async def _prepare(database: Database, *, upgrade: bool) -> None:
    """Bring the schema up to date, or refuse one that is not."""
    try:
        found = await database.read(maintenance.revision_of)
        if found is None:
            await database.write(maintenance.create)
        elif found != REVISION:
            await _upgrade(database, found, allowed=upgrade)
    except SchemaMismatch as exc:
        raise SchemaMismatch(f"{database.place}: {exc}") from None


async def _upgrade(database: Database, found: str, *, allowed: bool) -> None:
    # Alembic is loaded for old databases only, and in a thread: that takes long enough to stall the loop.
    known, migrate = await anyio.to_thread.run_sync(_migrations)
    if found not in known:
        raise SchemaMismatch(
            f"its schema {found!r} is newer than this windtunnel's {REVISION!r}; install a newer windtunnel"
        )
    if not allowed:
        raise SchemaMismatch(
            f"its schema {found!r} is older than this windtunnel's {REVISION!r}; stop what uses it and run "
            "'windtunnel db upgrade --storage URL'"
        )
    logger.info(
        "upgrading %s from schema %s to %s", database.place, found, REVISION, extra={"action": "upgrade"}
    )
    await database.write(migrate)


def _migrations() -> tuple[set[str], Callable[[Connection], None]]:
    """The revisions that are known, and what upgrades a database to the newest."""
    from windtunnel.storage import migrate

    scripts = migrate.load()

    def upgrade(connection: Connection) -> None:
        lock_schema(connection)
        migrate.upgrade(connection, scripts)

    return migrate.revisions(scripts), upgrade
