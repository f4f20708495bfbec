"""The part of the storage's contract that is about what trials give: telemetry and outcomes."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from windtunnel.errors import NotFound, ResultsInvalid, StaleTrial, StorageError, TrialAlreadyFinished
from windtunnel.model import RunResult, Sample, Status
from windtunnel.storage import Experiment, Storage
from windtunnel.testing.storage_fixtures import (
    LEASE,
    TUNABLES,
    Clock,
    StorageFixtures,
    at,
    claim_one,
    ended,
    new,
    point,
)

__all__ = ["OutcomeContract"]


class OutcomeContract(StorageFixtures):
    """Whoever holds a trial may write to it, nobody else, and what was written is there."""

    # Telemetry

    async def test_telemetry_comes_back_in_order_of_time(self, experiment: Experiment) -> None:
        await experiment.add_trials([new()])
        trial = await claim_one(experiment)
        await experiment.record(trial, [point(2, "qps", 3.0), point(1, "läuft", "ja ✓")])
        await experiment.record(trial, [point(1.5, "qps", -1)])
        assert await experiment.load_telemetry(trial.trial_id) == [
            (at(1), "läuft", "ja ✓"),
            (at(1.5), "qps", -1.0),
            (at(2), "qps", 3.0),
        ]

    @pytest.mark.parametrize(
        "value", [0, -3, 2**53 + 1, -(2**80), 1e-300, math.inf, -math.inf, "", "nan", "12", "🚀"]
    )
    async def test_a_value_comes_back_as_it_was(self, experiment: Experiment, value: float | str) -> None:
        await experiment.add_trials([new()])
        trial = await claim_one(experiment)
        await experiment.record(trial, [point(1, "m", value)])
        ((_, _, stored),) = await experiment.load_telemetry(trial.trial_id)
        assert stored == value
        assert isinstance(stored, str) == isinstance(value, str)

    async def test_nan_comes_back_as_nan(self, experiment: Experiment) -> None:
        await experiment.add_trials([new()])
        trial = await claim_one(experiment)
        await experiment.record(trial, [point(1, "m", math.nan)])
        ((_, _, stored),) = await experiment.load_telemetry(trial.trial_id)
        assert isinstance(stored, float)
        assert math.isnan(stored)

    async def test_recording_a_point_again_changes_nothing(self, experiment: Experiment) -> None:
        await experiment.add_trials([new()])
        trial = await claim_one(experiment)
        points = [point(1, "a", 1.0), point(1, "b", 2.0)]
        await experiment.record(trial, points)
        await experiment.record(trial, [*points, point(1, "a", 99.0), point(2, "a", 3.0)])
        assert await experiment.load_telemetry(trial.trial_id) == [*points, point(2, "a", 3.0)]

    async def test_many_points(self, experiment: Experiment) -> None:
        await experiment.add_trials([new()])
        trial = await claim_one(experiment)
        points = [point(i // 3, f"m{i % 3}", float(i)) for i in range(9000)]
        await experiment.record(trial, points)
        assert await experiment.load_telemetry(trial.trial_id) == points

    async def test_each_attempt_has_telemetry_of_its_own(self, experiment: Experiment) -> None:
        await experiment.add_trials([new()])
        first = await claim_one(experiment)
        await experiment.record(first, [point(1, "m", 1.0)])
        await experiment.release(first, reason="again")
        second = await claim_one(experiment)
        await experiment.record(second, [point(1, "m", 2.0)])
        assert await experiment.load_telemetry(1) == [point(1, "m", 2.0)]
        assert await experiment.load_telemetry(1, attempt=1) == [point(1, "m", 1.0)]
        assert await experiment.load_telemetry(1, attempt=7) == []

    async def test_times_come_back_in_utc(self, experiment: Experiment) -> None:
        await experiment.add_trials([new()])
        trial = await claim_one(experiment)
        there = at(1).astimezone(timezone(timedelta(hours=-7)))
        await experiment.record(trial, [Sample(there, "m", 1.0)])
        ((stored, _, _),) = await experiment.load_telemetry(trial.trial_id)
        assert stored == there
        assert stored.utcoffset() == timedelta(0)

    async def test_a_naive_time_is_refused(self, experiment: Experiment) -> None:
        await experiment.add_trials([new()])
        trial = await claim_one(experiment)
        naive = datetime(2030, 1, 1)  # noqa: DTZ001
        with pytest.raises(ValueError, match="with a zone"):
            await experiment.record(trial, [point(1, "m", 1.0), Sample(naive, "m", 1.0)])
        assert await experiment.load_telemetry(trial.trial_id) == []

    @pytest.mark.parametrize("value", [None, [1], object(), b"1", "\ud800", "a\x00b"])
    async def test_what_is_neither_number_nor_text_is_refused(
        self, experiment: Experiment, value: Any
    ) -> None:
        await experiment.add_trials([new()])
        trial = await claim_one(experiment)
        with pytest.raises(ResultsInvalid, match="telemetry must"):
            await experiment.record(trial, [Sample(at(1), "m", value)])

    async def test_metric_names_have_a_limit_that_is_told(self, experiment: Experiment) -> None:
        await experiment.add_trials([new()])
        trial = await claim_one(experiment)
        await experiment.record(trial, [point(1, "é" * 512, 1.0)])
        with pytest.raises(ResultsInvalid, match="the name of a metric may have 512 characters, found 1000"):
            await experiment.record(trial, [point(1, "m" * 1000, 1.0)])
        assert await experiment.load_telemetry(1) == [point(1, "é" * 512, 1.0)]

    async def test_telemetry_of_a_trial_not_held_is_refused(self, experiment: Experiment) -> None:
        (waiting, *_) = await experiment.add_trials([new()])
        with pytest.raises(StaleTrial, match="trial 1 "):
            await experiment.record(waiting, [point(1, "m", 1.0)])
        trial = await claim_one(experiment)
        await experiment.finish(trial, ended())
        with pytest.raises(StaleTrial):
            await experiment.record(trial, [point(1, "m", 1.0)])
        assert await experiment.load_telemetry(1) == []

    async def test_one_refused_batch_leaves_the_others_alone(self, experiment: Experiment) -> None:
        await experiment.add_trials([new(), new()])
        trial = await claim_one(experiment)
        other = replace(trial, trial_id=2)
        fine, refused = await experiment.record_many(
            [(trial, [point(1, "m", 1.0)]), (other, [point(1, "m", 1.0)])]
        )
        assert fine is None
        assert isinstance(refused, StaleTrial)
        assert len(await experiment.load_telemetry(1)) == 1

    async def test_a_bad_value_in_one_batch_leaves_the_others_alone(self, experiment: Experiment) -> None:
        await experiment.add_trials([new(), new(), new()])
        trials = await experiment.claim("w1", limit=3, lease=LEASE)
        values: list[Any] = [1.0, [1], 3.0]
        refusals = await experiment.record_many(
            [(trial, [point(1, "m", value)]) for trial, value in zip(trials, values, strict=True)]
        )
        assert [refusal is None for refusal in refusals] == [True, False, True]
        assert (
            str(refusals[1])
            == "1 points of trial 2 are refused: telemetry must be numbers or text, found list [1]"
        )
        assert await experiment.load_telemetry(3) == [point(1, "m", 3.0)]

    @pytest.mark.parametrize("name", [7, "\ud800"])
    async def test_a_metric_has_a_name_that_is_text(self, experiment: Experiment, name: Any) -> None:
        await experiment.add_trials([new()])
        with pytest.raises(ResultsInvalid, match="the name of a metric must be"):
            await experiment.record(await claim_one(experiment), [point(1, name, 1.0)])

    async def test_telemetry_of_an_unknown_trial_is_not_found(self, experiment: Experiment) -> None:
        with pytest.raises(NotFound, match="no trial 7"):
            await experiment.load_telemetry(7)

    # Finishing

    @pytest.mark.parametrize("status", [Status.SUCCEEDED, Status.FAILED, Status.TIMED_OUT, Status.CANCELED])
    async def test_a_finished_trial_keeps_its_outcome(self, experiment: Experiment, status: Status) -> None:
        await experiment.add_trials([new(3)])
        trial = await claim_one(experiment)
        await experiment.finish(trial, ended(status=status), failure="why", host="h1")
        (record,) = [record async for record in experiment.trials()]
        assert (record.status, record.failure, record.host, record.ended) == (status, "why", "h1", at(1))
        assert record.config == {"size": 3, "mode": "a"}
        assert await experiment.claim("w2", limit=1, lease=LEASE) == []

    @pytest.mark.parametrize("status", [Status.PENDING, Status.RUNNING, Status.READY, Status.UNKNOWN])
    async def test_a_status_that_is_not_final_is_refused(
        self, experiment: Experiment, status: Status
    ) -> None:
        await experiment.add_trials([new()])
        trial = await claim_one(experiment)
        with pytest.raises(ResultsInvalid, match=f"final status for trial 1, found {status.name}"):
            await experiment.finish(trial, RunResult(status, at(1)))

    async def test_the_same_outcome_again_changes_nothing(self, experiment: Experiment) -> None:
        await experiment.add_trials([new()])
        trial = await claim_one(experiment)
        await experiment.finish(trial, ended(1.0, other=math.nan, host="h1"))
        await experiment.finish(trial, ended(1.0, other=math.nan, host="h1"))
        turned = RunResult(Status.SUCCEEDED, at(9), {"host": "h1", "other": math.nan, "score": 1.0})
        await experiment.finish(trial, turned)
        (record,) = [record async for record in experiment.trials()]
        assert record.ended == at(1)

    @pytest.mark.parametrize("other", [ended(2.0), ended(status=Status.FAILED), ended(1.0, more=1)])
    async def test_another_outcome_is_refused(self, experiment: Experiment, other: RunResult) -> None:
        await experiment.add_trials([new()])
        trial = await claim_one(experiment)
        await experiment.finish(trial, ended(1.0))
        with pytest.raises(TrialAlreadyFinished, match="trial 1 is SUCCEEDED already"):
            await experiment.finish(trial, other)
        assert (await experiment.load()).scores == [{"score": 1.0}]

    async def test_a_late_outcome_of_a_lost_attempt_is_refused(
        self, experiment: Experiment, clock: Clock
    ) -> None:
        await experiment.add_trials([new()])
        lost = await claim_one(experiment, "w1")
        clock.advance(2 * LEASE)
        trial = await claim_one(experiment, "w2")
        for write in (experiment.finish(lost, ended(0.0)), experiment.record(lost, [point(1, "m", 1.0)])):
            with pytest.raises(StaleTrial):
                await write
        await experiment.finish(trial, ended(5.0))
        with pytest.raises(StaleTrial):
            await experiment.finish(lost, ended(5.0))
        assert (await experiment.load()).scores == [{"score": 5.0}]

    async def test_a_lease_that_ran_out_unnoticed_may_still_finish(
        self, experiment: Experiment, clock: Clock
    ) -> None:
        await experiment.add_trials([new()])
        trial = await claim_one(experiment)
        clock.advance(2 * LEASE)
        await experiment.finish(trial, ended())
        assert (await experiment.counts()).succeeded == 1

    async def test_an_outcome_for_no_trial_is_refused(self, experiment: Experiment) -> None:
        (trial,) = await experiment.add_trials([new()])
        with pytest.raises(StaleTrial):
            await experiment.finish(trial, ended())
        with pytest.raises(NotFound, match="no trial 99"):
            await experiment.finish(replace(trial, trial_id=99), ended())

    @pytest.mark.parametrize(
        "value",
        [
            1,
            1.5,
            2**70,
            "text ✓",
            None,
            True,
            [1, [2.5, "x"], {}],
            {"p50": 1, "p99": {"deep": math.inf}},
            {"$float": "no number"},
            {"$$float": 1},
        ],
    )
    async def test_a_metric_comes_back_as_it_was(self, experiment: Experiment, value: object) -> None:
        await experiment.add_trials([new()])
        await experiment.finish(await claim_one(experiment), ended(1.0, extra=value))
        ((score),) = (await experiment.load()).scores
        assert score == {"score": 1.0, "extra": value}
        assert score is not None
        assert type(score["extra"]) is type(value)

    async def test_numbers_of_other_kinds_are_kept_as_numbers(self, experiment: Experiment) -> None:
        await experiment.add_trials([new()])
        await experiment.finish(await claim_one(experiment), ended(Decimal("2.5"), nan=math.nan))
        (score,) = (await experiment.load()).scores
        assert score is not None
        assert score["score"] == 2.5
        assert math.isnan(score["nan"])
        assert (await experiment.best()) is not None

    @pytest.mark.parametrize("value", [object(), {"deep": [at(0)]}, "\udc80", {1, 2}])
    async def test_a_metric_that_cannot_be_kept_is_refused(
        self, experiment: Experiment, value: object
    ) -> None:
        await experiment.add_trials([new()])
        trial = await claim_one(experiment)
        with pytest.raises(ResultsInvalid, match="metrics"):
            await experiment.finish(trial, ended(1.0, bad=value))
        await experiment.finish(trial, ended(1.0))  # it is still ours

    async def test_a_failure_text_is_never_the_reason_to_lose_an_outcome(
        self, experiment: Experiment
    ) -> None:
        await experiment.add_trials([new()])
        await experiment.finish(
            await claim_one(experiment), ended(status=Status.FAILED), failure="bytes \udcff"
        )
        (record,) = [record async for record in experiment.trials()]
        assert record.failure == "bytes ?"

    # The best

    @pytest.mark.parametrize(("direction", "best"), [("min", 2), ("max", 3)])
    async def test_the_best_follows_the_direction(self, storage: Storage, direction: Any, best: int) -> None:
        async with storage.experiment(
            experiment_id="d", tunables=TUNABLES, opt_targets={"score": direction, "x": "min"}
        ) as experiment:
            assert await experiment.best() is None
            await experiment.add_trials([new(i) for i in range(6)])
            scores = [5.0, 1.0, 9.0, math.nan, "fast", [1]]
            for score in scores:
                await experiment.finish(await claim_one(experiment), ended(score, x=1))
            found = await experiment.best()
        assert found is not None
        assert found.trial_id == best

    async def test_repeats_are_judged_by_their_mean(self, experiment: Experiment) -> None:
        lucky, steady = [0.0, 100.0], [10.0, 12.0]
        for size, scores in ((1, lucky), (2, steady)):
            for score in scores:
                await experiment.add_trials([new(size)])
                await experiment.finish(await claim_one(experiment), ended(score))
        best = await experiment.best()
        assert best is not None
        assert (best.trial_id, best.config["size"], best.metrics) == (3, 2, {"score": 10.0})

    async def test_failed_trials_are_never_the_best(self, experiment: Experiment) -> None:
        await experiment.add_trials([new()])
        failed = RunResult(Status.FAILED, at(1), {"score": 0.0})
        await experiment.finish(await claim_one(experiment), failed)
        assert await experiment.best() is None

    async def test_a_storage_error_is_the_common_kind_of_refusal(self) -> None:
        assert issubclass(StaleTrial, StorageError)
        assert issubclass(TrialAlreadyFinished, StorageError)
        assert issubclass(NotFound, StorageError)
