"""What every storage must keep. Subclass ``StorageContract`` in a test module to check a database.

::

    class TestMine(StorageContract):
        @pytest.fixture
        def url(self) -> str:
            return "sqlite:///:memory:"

The tests are asynchronous: they need anyio's pytest plugin with ``anyio_mode = "auto"``.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import anyio
import pytest

from windtunnel.errors import ConfigError, ExperimentMismatch, NotFound
from windtunnel.model import FailureKind, Status
from windtunnel.objectives import Objective
from windtunnel.storage import Experiment, Storage, open_storage
from windtunnel.testing.storage_analysis import AnalysisContract
from windtunnel.testing.storage_claims import ClaimContract
from windtunnel.testing.storage_editing import EditingContract
from windtunnel.testing.storage_fixtures import (
    LEASE,
    TARGETS,
    TUNABLES,
    StorageFixtures,
    at,
    claim_one,
    ended,
    new,
    point,
)
from windtunnel.testing.storage_merging import MergeContract
from windtunnel.testing.storage_outcomes import OutcomeContract
from windtunnel.testing.storage_sharing import SharingContract
from windtunnel.testing.storage_tradeoffs import TradeoffContract

__all__ = ["SharedStorageContract", "StorageContract"]


class StorageContract(
    ClaimContract,
    OutcomeContract,
    SharingContract,
    EditingContract,
    AnalysisContract,
    MergeContract,
    TradeoffContract,
):
    """The promises of a storage that one program has open."""

    # Reading

    async def test_load_gives_what_an_optimizer_learns_from(self, experiment: Experiment) -> None:
        await experiment.add_trials([new(i) for i in range(6)])
        statuses = [Status.SUCCEEDED, Status.FAILED, Status.CANCELED, Status.TIMED_OUT, Status.SUCCEEDED]
        for trial, status in zip(await experiment.claim("w1", limit=5, lease=LEASE), statuses, strict=True):
            await experiment.finish(trial, ended(float(trial.trial_id), status=status))
        history = await experiment.load()
        assert history.trial_ids == [1, 2, 4, 5]
        assert [config["size"] for config in history.configs] == [0, 1, 3, 4]
        assert history.scores == [{"score": 1.0}, None, None, {"score": 5.0}]
        assert history.status == [statuses[0], statuses[1], statuses[3], statuses[4]]

    async def test_load_goes_on_after_a_trial(self, experiment: Experiment) -> None:
        assert await experiment.load() == ([], [], [], [])
        await experiment.add_trials([new(i) for i in range(3)])
        for trial in await experiment.claim("w1", limit=3, lease=LEASE):
            await experiment.finish(trial, ended())
        assert (await experiment.load(1)).trial_ids == [2, 3]
        assert (await experiment.load(3)).trial_ids == []

    async def test_load_tunable_config(self, experiment: Experiment) -> None:
        (trial,) = await experiment.add_trials([new(7)])
        assert await experiment.load_tunable_config(trial.config_id) == {"size": 7, "mode": "a"}
        with pytest.raises(NotFound, match="no configuration 99"):
            await experiment.load_tunable_config(99)

    async def test_pending_trials_come_in_the_order_of_claiming(self, experiment: Experiment) -> None:
        await experiment.add_trials([new(i, priority=i % 3) for i in range(600)])
        listed = [t.trial_id async for t in experiment.pending_trials(at(0), running=False)]
        claimed = [t.trial_id for t in await experiment.claim("w1", limit=600, lease=LEASE)]
        assert listed == claimed
        assert len(set(listed)) == 600

    async def test_pending_trials_with_those_that_run(self, experiment: Experiment) -> None:
        await experiment.add_trials([new(1), new(2, not_before=at(10)), new(3)])
        await claim_one(experiment, "w7")
        waiting = [t async for t in experiment.pending_trials(at(0), running=False)]
        assert [(t.trial_id, t.status, t.owner, t.attempt) for t in waiting] == [(3, Status.PENDING, None, 0)]
        later = [t async for t in experiment.pending_trials(at(10), running=True)]
        assert [(t.trial_id, t.status) for t in later] == [
            (2, Status.PENDING),
            (3, Status.PENDING),
            (1, Status.RUNNING),
        ]
        assert (later[-1].owner, later[-1].token, later[-1].tunables["size"]) == ("w7", 1, 1)

    async def test_pending_trials_take_an_aware_time(self, experiment: Experiment) -> None:
        with pytest.raises(ValueError, match="with a zone"):
            await anext(experiment.pending_trials(datetime(2030, 1, 1), running=False))  # noqa: DTZ001

    async def test_a_listing_holds_no_connection_while_its_reader_thinks(
        self, storage: Storage, experiment: Experiment
    ) -> None:
        await experiment.add_trials([new(i) for i in range(300)])
        listing: Any = experiment.pending_trials(at(0), running=False)
        database = storage._database  # noqa: SLF001
        async for _ in listing:
            assert database.in_use == 0
            break
        await experiment.add_trials([new()])  # writes are not held up either
        await listing.aclose()
        assert database.in_use == 0

    async def test_trials_lists_every_trial(self, experiment: Experiment) -> None:
        added = await experiment.add_trials([new(i % 7) for i in range(300)])
        await experiment.finish(await claim_one(experiment), ended(2.0))
        records = [record async for record in experiment.trials()]
        assert [(r.trial_id, r.config_id) for r in records] == [(t.trial_id, t.config_id) for t in added]
        assert (records[0].metrics, records[0].attempt) == ({"score": 2.0}, 1)
        assert (records[1].metrics, records[1].started) == (None, None)
        of_one = [r.trial_id async for r in experiment.trials(config_id=added[3].config_id)]
        assert of_one == list(range(4, 301, 7))

    async def test_counts(self, experiment: Experiment) -> None:
        await experiment.add_trials([new()] * 8)
        trials = await experiment.claim("w1", limit=7, lease=LEASE)
        for trial, status in zip(
            trials,
            [Status.SUCCEEDED, Status.SUCCEEDED, Status.FAILED, Status.CANCELED, Status.TIMED_OUT],
            strict=False,
        ):
            await experiment.finish(trial, ended(status=status))
        aborted = ended(status=Status.CANCELED)
        await experiment.finish(trials[5], aborted, kind=FailureKind.ABORTED)
        counts = await experiment.counts()
        assert counts == (8, 1, 1, 2, 1, 2, 1, 1)

    async def test_the_last_failure(self, experiment: Experiment) -> None:
        assert await experiment.last_failure() is None
        await experiment.add_trials([new()] * 3)
        first, second, third = await experiment.claim("w1", limit=3, lease=LEASE)
        await experiment.finish(second, ended(status=Status.FAILED, seconds=5), failure="x")
        await experiment.finish(first, ended(status=Status.TIMED_OUT, seconds=3))
        await experiment.finish(third, ended(seconds=9))
        found = await experiment.last_failure()
        assert found is not None
        assert (found.trial_id, found.failure) == (2, "x")

    # Experiments

    async def test_experiments_share_a_storage_and_nothing_else(self, storage: Storage) -> None:
        names = ["first", "größe/№ 2 🚀"]
        for name in names:
            async with storage.experiment(
                experiment_id=name, tunables=TUNABLES, opt_targets=TARGETS, description=f"about {name}"
            ) as experiment:
                (trial,) = await experiment.add_trials([new(5)])
                assert trial.trial_id == 1
                held = await claim_one(experiment)
                await experiment.record(held, [point(1, "m", name)])
        async with storage.experiment(
            experiment_id=names[1], tunables=TUNABLES, opt_targets=TARGETS
        ) as second:
            assert await second.load_telemetry(1) == [point(1, "m", names[1])]
            await second.finish(replace(held, experiment_id=names[1]), ended(3.0))
        one, two = await storage.experiments()
        assert [one.experiment_id, two.experiment_id] == names
        assert (one.counts.running, one.best) == (1, None)
        assert (two.counts.succeeded, two.counts.total, two.description) == (1, 1, f"about {names[1]}")
        assert two.best is not None
        assert (two.best.trial_id, dict(two.objectives)) == (1, TARGETS)

    async def test_an_experiment_is_opened_as_it_was_stored(
        self, storage: Storage, experiment: Experiment
    ) -> None:
        await experiment.add_trials([new(9)])
        again = await storage.open_experiment("e")
        assert (again.opt_targets, dict(again.tunables)) == (TARGETS, dict(TUNABLES))
        assert (await claim_one(again)).tunables["size"] == 9
        with pytest.raises(NotFound, match=r"no experiment 'E'; there are: e$"):
            await storage.open_experiment("E")

    @pytest.mark.parametrize(
        ("changed", "said"),
        [
            ({"opt_targets": {"score": "max"}}, "with objectives"),
            ({"opt_targets": {"score": "min", "cost": "min"}}, "with objectives"),
            ({"tunables": {"cache": {"params": {"other": {"type": "int", "range": [0, 1], "default": 0}}}}},
             r"adds \['other'\] lacks \['mode', 'size'\]"),
        ],
    )  # fmt: skip
    async def test_another_experiment_under_the_same_id_is_refused(
        self, storage: Storage, experiment: Experiment, changed: dict[str, Any], said: str
    ) -> None:
        wanted: dict[str, Any] = {"tunables": TUNABLES, "opt_targets": TARGETS, **changed}
        with pytest.raises(ExperimentMismatch, match=said) as caught:
            async with storage.experiment(experiment_id="e", **wanted):
                pytest.fail("it was opened")
        assert "use another experiment id" in str(caught.value)

    async def test_the_order_of_objectives_counts(self, storage: Storage) -> None:
        """The first one is the score by which trials were compared."""
        async with storage.experiment(
            experiment_id="o", tunables=TUNABLES, opt_targets={"a": "min", "b": "min"}
        ):
            pass
        with pytest.raises(ExperimentMismatch):
            async with storage.experiment(
                experiment_id="o", tunables=TUNABLES, opt_targets={"b": "min", "a": "min"}
            ):
                pytest.fail("it was opened")

    async def test_weights_and_bounds_may_change(self, storage: Storage, experiment: Experiment) -> None:
        assert experiment.objectives == {"score": Objective(direction="min")}
        weighed = Objective(direction="min", weight=2, low=0)
        async with storage.experiment(
            experiment_id="e", tunables=TUNABLES, opt_targets={"score": weighed}
        ) as again:
            assert (again.objectives, again.opt_targets) == ({"score": weighed}, TARGETS)
        assert (await storage.open_experiment("e")).objectives == {"score": weighed}
        (listed,) = await storage.experiments()
        assert listed.objectives == TARGETS

    async def test_a_new_domain_must_have_room_for_the_trials_that_wait(
        self, storage: Storage, experiment: Experiment
    ) -> None:
        definition = TUNABLES.definition()
        definition["cache"]["params"]["size"]["range"] = [0, 10]
        await experiment.add_trials([new(5), new(50)])
        with pytest.raises(ExperimentMismatch, match=r"trial 2 of experiment 'e'.*50"):
            async with storage.experiment(experiment_id="e", tunables=definition, opt_targets=TARGETS):
                pytest.fail("it was opened")
        for trial in await experiment.claim("w1", limit=2, lease=LEASE):
            await experiment.finish(trial, ended())
        async with storage.experiment(
            experiment_id="e", tunables=definition, opt_targets=TARGETS
        ) as narrowed:
            assert (await narrowed.load()).trial_ids == [1, 2]

    async def test_a_trial_that_cannot_be_run_here_fails_alone(self, storage: Storage) -> None:
        narrow = TUNABLES.definition()
        narrow["cache"]["params"]["size"]["range"] = [0, 10]
        async with (
            storage.experiment(experiment_id="e", tunables=TUNABLES, opt_targets=TARGETS) as wide,
            storage.experiment(experiment_id="e", tunables=narrow, opt_targets=TARGETS) as mine,
        ):
            await wide.add_trials([new(5), new(50), new(6)])
            trials = await mine.claim("w1", limit=3, lease=LEASE)
            assert [trial.trial_id for trial in trials] == [1, 3]
            failed = await mine.last_failure()
        assert failed is not None
        assert failed.trial_id == 2
        assert "'size'" in str(failed.failure)
        assert "50" in str(failed.failure)

    async def test_a_direction_is_min_or_max(self, storage: Storage) -> None:
        targets: Any = {"score": "lowest"}
        with pytest.raises(ConfigError, match=r"objectives\.score: expected 'min' or 'max', found 'lowest'"):
            async with storage.experiment(experiment_id="x", tunables=TUNABLES, opt_targets=targets):
                pytest.fail("it was opened")
        assert await storage.experiments() == []

    async def test_an_error_leaves_the_storage_as_it_was_raised(self, url: str) -> None:
        with pytest.raises(KeyError):
            async with open_storage(url):
                raise KeyError("mine")


class SharedStorageContract(StorageFixtures):
    """The promises of a storage that outlives its handle and that others have open too."""

    async def test_a_second_session_goes_on_where_the_first_ended(self, url: str) -> None:
        async with (
            open_storage(url) as storage,
            storage.experiment(experiment_id="e", tunables=TUNABLES, opt_targets=TARGETS) as experiment,
        ):
            await experiment.add_trials([new(1), new(2), new(3)])
            done, held = await experiment.claim("dead", limit=2, lease=LEASE)
            await experiment.record(done, [point(1, "m", 1.0)])
            await experiment.finish(done, ended(1.0))
        async with (
            open_storage(url) as storage,
            storage.experiment(experiment_id="e", tunables=TUNABLES, opt_targets=TARGETS) as experiment,
        ):
            assert (await experiment.load()).scores == [{"score": 1.0}]
            assert await experiment.load_telemetry(done.trial_id) == [point(1, "m", 1.0)]
            assert await experiment.recover(lambda owner: owner == "dead") == 1
            again = await experiment.claim("w2", limit=9, lease=LEASE)
            assert [(t.trial_id, t.tunables["size"], t.attempt) for t in again] == [
                (held.trial_id, 2, 2),
                (3, 3, 1),
            ]
            assert [t.trial_id for t in await experiment.add_trials([new()])] == [4]

    async def test_two_that_have_it_open_see_each_other(self, url: str) -> None:
        async with (
            open_storage(url) as one,
            open_storage(url) as two,
            one.experiment(experiment_id="e", tunables=TUNABLES, opt_targets=TARGETS) as mine,
            two.experiment(experiment_id="e", tunables=TUNABLES, opt_targets=TARGETS) as yours,
        ):
            await mine.add_trials([new(1), new(2)], at_most=3)
            assert len(await yours.add_trials([new(3), new(4)], at_most=3)) == 1
            first = await claim_one(yours, "w2")
            assert (first.trial_id, first.tunables["size"]) == (1, 1)
            await yours.record(first, [point(1, "only here", 1.0)])
            await yours.finish(first, ended())
            assert await mine.load_telemetry(1) == [point(1, "only here", 1.0)]
            assert [t.trial_id for t in await mine.claim("w1", limit=9, lease=LEASE)] == [2, 3]

    async def test_of_all_that_have_it_open_one_leads(self, url: str) -> None:
        led: list[str] = []
        async with (
            open_storage(url) as one,
            open_storage(url) as two,
            one.experiment(experiment_id="e", tunables=TUNABLES, opt_targets=TARGETS) as mine,
            two.experiment(experiment_id="e", tunables=TUNABLES, opt_targets=TARGETS) as yours,
        ):

            async def take(experiment: Experiment, owner: str) -> None:
                if await experiment.lead(owner, lease=LEASE, is_dead=lambda _owner: False):
                    led.append(owner)

            for turn in range(1, 6):
                async with anyio.create_task_group() as tasks:
                    for number in range(4):
                        tasks.start_soon(take, (mine, yours)[number % 2], f"w{number}")
                assert len(led) == turn
                await mine.resign(led[-1])
