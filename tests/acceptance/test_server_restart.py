"""PostgreSQL loses its power twice while a scheduler runs: what was accepted stays, and the run ends well."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import anyio
import anyio.to_thread
import pytest

from tests import servers
from tests.integration.engines import OBJECTIVES, SPACE, Lab, Learning, ScriptedEnv, scheduler
from windtunnel import Experiment, Status, Storage, Summary, open_storage

TRIALS = 300
LIMIT_S = 60


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with servers.postgresql() as url:
        yield url


def lab_of_emitters() -> Lab:
    """Environments whose runs take a moment and emit their number."""
    lab = Lab()

    async def run(env: ScriptedEnv) -> None:
        await env.emit("seen", env.trial_id)
        await anyio.sleep(0.02)

    lab.on_run = run
    return lab


def accepted_by(experiment: Experiment) -> list[tuple[int, int]]:
    """(trial_id, token) of each outcome that the storage says it has taken, from now on."""
    finish, accepted = experiment.finish, []

    async def noted(trial: Any, *args: Any, **options: Any) -> None:
        await finish(trial, *args, **options)
        accepted.append((trial.trial_id, trial.token))

    experiment.finish = noted  # type: ignore[method-assign]  # to listen
    return accepted


async def restart_when(accepted: list[tuple[int, int]], number: int, url: str) -> set[int]:
    """Cut the power once so many were accepted; the trials that were by then."""
    while len(accepted) < number:
        await anyio.sleep(0.005)
    before = {trial_id for trial_id, _ in accepted}
    await anyio.to_thread.run_sync(servers.restart_postgresql, url)
    return before


@pytest.mark.timeout(120)
async def test_what_was_accepted_survives_two_power_cuts_and_the_run_ends_well(server: str) -> None:
    lab, ends = lab_of_emitters(), []
    async with (
        open_storage(server) as storage,
        storage.experiment(experiment_id="e", tunables=SPACE, opt_targets=OBJECTIVES) as experiment,
    ):
        accepted = accepted_by(experiment)

        async def run() -> None:
            engine = scheduler(
                experiment, lab, trials=TRIALS, slots=8, optimizer=Learning(), lease=timedelta(seconds=10)
            )
            ends.append(await engine.run())

        with anyio.fail_after(LIMIT_S):
            async with anyio.create_task_group() as group:
                group.start_soon(run)
                for number in (60, 160):
                    for trial_id in await restart_when(accepted, number, server):
                        record = await experiment.record_of(trial_id)
                        assert (record.status, record.attempt) == (Status.SUCCEEDED, 1), "it was accepted"
        await check(storage, experiment, lab, ends[0], accepted)


async def check(
    storage: Storage, experiment: Experiment, lab: Lab, end: Summary, accepted: list[tuple[int, int]]
) -> None:
    everything = list(range(1, TRIALS + 1))
    assert (end.trials, end.succeeded) == (TRIALS, TRIALS)
    assert sorted(trial_id for trial_id, _ in accepted) == everything, "each was accepted once"
    assert sorted(lab.steps("run")) == everything, "none was run twice"
    async for record in experiment.trials():
        assert record.metrics == {"score": record.trial_id - 1}, "no suggestion was lost or doubled"
    for trial_id in everything[::25]:
        assert [one.value for one in await experiment.load_telemetry(trial_id)] == [trial_id]
    counts = await experiment.counts()
    assert (counts.pending, counts.running, counts.succeeded) == (0, 0, TRIALS)
    assert storage._database.in_use == 0
