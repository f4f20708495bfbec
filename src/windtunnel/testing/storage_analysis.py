"""The contract of a storage: what it gives for analysis."""

from __future__ import annotations

import contextlib
import importlib
import math
from datetime import timedelta
from typing import Any

import pytest

from windtunnel.errors import ConfigError, NotFound
from windtunnel.model import NewTrial, Sample, Status
from windtunnel.storage import Experiment
from windtunnel.testing.storage_fixtures import LEASE, StorageFixtures, at, claim_one, ended, new, point

__all__ = ["AnalysisContract"]

for _library in ("pyarrow.compute", "pandas", "polars"):  # now, as it holds up a loop that runs
    with contextlib.suppress(ModuleNotFoundError):
        importlib.import_module(_library)

FIXED = [
    *("experiment_id", "trial_id", "config_id", "status", "attempt", "owner", "host"),
    *("created", "started", "ended", "failure", "config.size", "config.mode"),
]
AWKWARD: list[Sample] = [
    point(0, "load", 0.5),
    point(1, "load", math.nan),
    point(2, "load", -math.inf),
    point(3, "load", 2**60 + 1),
    point(4, "state", "nan"),
    point(5, "state", "ü"),
    point(6, "load", 0.0),
]


async def finished(experiment: Experiment, *scores: object, repeats: int = 1) -> None:
    """Trials of one configuration for each score."""
    for size, score in enumerate(scores):
        await experiment.add_trials([new(size)] * repeats)
        for i, trial in enumerate(await experiment.claim("w1", limit=repeats, lease=LEASE)):
            value = score + i if isinstance(score, float) else score
            await experiment.finish(trial, ended(value, extra=f"{size}"), host="h")


async def recorded(experiment: Experiment, *batches: list[Sample]) -> None:
    """A trial for each batch of telemetry."""
    await experiment.add_trials([new(i) for i in range(len(batches))])
    for batch in batches:
        await experiment.record(await claim_one(experiment), batch)


class AnalysisContract(StorageFixtures):
    """Rows in batches, tables, and configurations compared."""

    # Trials

    async def test_results_frame_has_one_row_a_trial(self, experiment: Experiment) -> None:
        await finished(experiment, 1.5, 2.5)
        await experiment.add_trials([new(7)])
        table = await experiment.results_frame("arrow")
        assert table.column_names == [*FIXED, "result.score", "result.extra"]
        first, second, third = table.to_pylist()
        assert first | {"started": None, "created": None, "config_id": 0} == {
            "experiment_id": "e",
            "trial_id": 1,
            "config_id": 0,
            "status": "SUCCEEDED",
            "attempt": 1,
            "owner": "w1",
            "host": "h",
            "created": None,
            "started": None,
            "ended": at(1),
            "failure": None,
            "config.size": 0,
            "config.mode": "a",
            "result.score": 1.5,
            "result.extra": "0",
        }
        assert (first["started"], second["result.score"]) == (at(0), 2.5)
        assert (third["status"], third["started"], third["result.score"]) == ("PENDING", None, None)

    async def test_metrics_of_any_kind_become_columns(self, experiment: Experiment) -> None:
        await finished(experiment, 1, 2.5, math.inf, 3)
        table = await experiment.results_frame("arrow")
        assert table["result.score"].to_pylist() == [1.0, 2.5, math.inf, 3.0]
        await finished(experiment, "fast")
        await finished(experiment, [1, 2])
        table = await experiment.results_frame("arrow")
        assert table["result.score"].to_pylist()[-3:] == ["3", "fast", "[1, 2]"]

    async def test_blocks_with_other_metrics_and_types_fit_together(
        self, experiment: Experiment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("windtunnel.storage.analysis._TRIALS_AT_ONCE", 2)
        await finished(experiment, 1, 2, 0.5)
        trial = (await experiment.add_trials([new(9)]))[0]
        await experiment.claim("w1", limit=1, lease=LEASE)
        (held,) = [t async for t in experiment.pending_trials(at(9), running=True)]
        assert held.trial_id == trial.trial_id
        await experiment.finish(held, ended(2**70, late=True))
        table = await experiment.results_frame("arrow")
        assert table["result.late"].to_pylist() == [None, None, None, True]
        assert table["result.score"].to_pylist()[:2] == ["1", "2"]
        assert table["result.score"].to_pylist()[3] == str(2**70)
        assert len(await experiment.configs_frame("arrow")) == 4

    @pytest.mark.parametrize("library", ["pandas", "polars", "arrow"])
    async def test_frames_of_nothing_have_their_columns(self, experiment: Experiment, library: Any) -> None:
        results: Any = await experiment.results_frame(library)
        assert (len(results), _names(results)) == (0, FIXED)
        telemetry: Any = await experiment.telemetry_frame(library=library)
        assert (len(telemetry), len(_names(telemetry))) == (0, 6)
        configs: Any = await experiment.configs_frame(library)
        assert _names(configs) == ["config_id", "trials", "succeeded", "config.size", "config.mode"]

    async def test_configs_frame_counts_trials(self, experiment: Experiment) -> None:
        await finished(experiment, 1.0, 2.0, repeats=2)
        await experiment.add_trials([new(0)])
        frame = await experiment.configs_frame("polars")
        assert frame.drop("config_id").rows() == [(3, 2, 0, "a"), (2, 2, 1, "a")]

    async def test_an_unknown_library_is_refused(self, experiment: Experiment) -> None:
        wrong: Any = "panda"
        with pytest.raises(ConfigError, match=r"expected 'pandas'.*found 'panda'"):
            await experiment.results_frame(wrong)

    async def test_stream_results_in_batches(self, experiment: Experiment) -> None:
        await finished(experiment, 1.0, math.nan, "text")
        batches = [batch async for batch in experiment.stream_results(batch_size=2)]
        assert [[row.trial_id for row in batch] for batch in batches] == [[1, 2], [3]]
        row = batches[0][0]
        assert (row.status, row.owner, row.host, row.ended) == (Status.SUCCEEDED, "w1", "h", at(1))
        assert (row.config, row.result) == ({"size": 0, "mode": "a"}, {"score": 1.0, "extra": "0"})
        with pytest.raises(ValueError, match="expected 1 or more, found 0"):
            await anext(experiment.stream_results(batch_size=0))

    # Telemetry

    async def test_telemetry_frame_keeps_every_value(self, experiment: Experiment) -> None:
        await recorded(experiment, AWKWARD)
        table = (await experiment.telemetry_frame(library="arrow")).to_pydict()
        assert table["metric"] == [sample.metric for sample in AWKWARD]
        assert table["timestamp"] == [sample.timestamp for sample in AWKWARD]
        value = table["value"]
        assert math.isnan(value[1])
        assert value[:1] + value[2:] == [0.5, -math.inf, float(2**60), None, None, 0.0]
        assert table["text"] == [None, None, None, str(2**60 + 1), "nan", "ü", None]
        assert (set(table["trial_id"]), set(table["attempt"])) == ({1}, {1})

    @pytest.mark.parametrize("at_once", [1, 8, 30, 50_000])
    async def test_telemetry_frame_is_the_same_in_blocks_of_any_size(
        self, experiment: Experiment, monkeypatch: pytest.MonkeyPatch, at_once: int
    ) -> None:
        monkeypatch.setattr("windtunnel.storage.analysis._POINTS_AT_ONCE", at_once)
        batches: list[list[Sample]] = [
            [point(i, f"m{i % 3}", i / 3) for i in range(20)],
            [point(days * 86_400, "m2", days) for days in range(0, 120, 10)],
            *([point(0, "m0", n)] for n in range(5)),
            [point(i, "m1", "warm" if i == 11 else math.inf if i == 15 else i / 3) for i in range(20)],
            [point(0, f"m{i:02}", i) for i in range(20)],
        ]
        await recorded(experiment, *batches)
        table = (await experiment.telemetry_frame(library="arrow")).to_pydict()
        values = [
            text if number is None else number
            for number, text in zip(table["value"], table["text"], strict=True)
        ]
        found = list(zip(table["trial_id"], table["timestamp"], table["metric"], values, strict=True))
        expected = [
            (trial_id, *sample) for trial_id, batch in enumerate(batches, start=1) for sample in batch
        ]
        assert sorted(found, key=_place) == sorted(expected, key=_place)
        assert [row[:2] for row in found] == [row[:2] for row in expected]
        assert set(table["attempt"]) == {1}

    async def test_telemetry_of_chosen_trials(
        self, experiment: Experiment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("windtunnel.storage.analysis._POINTS_AT_ONCE", 3)
        await recorded(experiment, *([point(i, f"m{n}", n) for i in range(4)] for n in range(5)))
        frame = await experiment.telemetry_frame([5, 1, 2, 2], library="polars")
        assert frame["trial_id"].to_list() == [1] * 4 + [2] * 4 + [5] * 4
        assert frame["metric"].cast(str).to_list() == ["m0"] * 4 + ["m1"] * 4 + ["m4"] * 4
        assert len(await experiment.telemetry_frame()) == 20
        with pytest.raises(NotFound, match="no trial 6"):
            await experiment.telemetry_frame([6, 7])

    async def test_telemetry_of_every_attempt(
        self, experiment: Experiment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await experiment.add_trials([new()])
        for worker in ("w1", "w2"):
            trial = await claim_one(experiment, worker)
            await experiment.record(trial, [point(i, "m", float(worker[1:])) for i in range(4)])
            await experiment.release(trial, reason="test")
        for at_once in (2, 3, 6, 50_000):
            monkeypatch.setattr("windtunnel.storage.analysis._POINTS_AT_ONCE", at_once)
            frame = await experiment.telemetry_frame(library="polars")
            assert frame["attempt"].to_list() == [1] * 4 + [2] * 4
            assert frame["value"].to_list() == [1.0] * 4 + [2.0] * 4
            assert frame["timestamp"].to_list() == [at(i) for i in range(4)] * 2

    async def test_stream_telemetry_in_batches(self, experiment: Experiment) -> None:
        await recorded(experiment, AWKWARD, AWKWARD)
        batches = [batch async for batch in experiment.stream_telemetry(batch_size=5)]
        assert [len(batch) for batch in batches] == [5, 5, 4]
        rows = [row for batch in batches for row in batch]
        assert [row.trial_id for row in rows] == [1] * 7 + [2] * 7
        assert [repr(row.sample.value) for row in rows] == [
            *("0.5", "nan", "-inf", str(2**60 + 1), "'nan'", "'ü'", "0.0")
        ] * 2
        only = [row async for batch in experiment.stream_telemetry([2]) for row in batch]
        assert [row.trial_id for row in only] == [2] * 7

    # Configurations

    async def test_groups_have_mean_spread_and_confidence(self, experiment: Experiment) -> None:
        await finished(experiment, 5.0, 1.0, repeats=3)
        best, other = await experiment.config_groups()
        assert (best.config["size"], best.trials, best.mean, best.stddev) == (1, 3, 2.0, 1.0)
        assert best.ci_low == pytest.approx(-0.48414, abs=1e-4)
        assert best.ci_high == pytest.approx(4.48414, abs=1e-4)
        assert (other.mean, other.metric) == (6.0, "score")
        assert await experiment.top(1) == [best]
        assert await experiment.config_groups("extra") == []

    async def test_one_trial_has_no_spread(self, experiment: Experiment) -> None:
        await finished(experiment, 1.0, math.nan, "text", 2**2000)
        (only,) = await experiment.top(5)
        assert (only.trials, only.stddev, only.ci_low, only.ci_high) == (1, None, None, None)

    async def test_failed_trials_are_not_compared(self, experiment: Experiment) -> None:
        await experiment.add_trials([NewTrial(tunables=experiment.tunables)])
        trial = await claim_one(experiment)
        await experiment.finish(trial, ended(status=Status.FAILED), failure="no")
        assert await experiment.top() == []
        (row,) = [row async for batch in experiment.stream_results() for row in batch]
        assert (row.failure, row.result, row.ended) == ("no", None, at(0) + timedelta(seconds=1))


def _place(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return row[:3]


def _names(frame: Any) -> list[str]:
    return list(getattr(frame, "column_names", None) or frame.columns)
