"""What the holder of a claimed trial writes: telemetry, the outcome, or that it goes back to the queue."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from windtunnel.concurrency import converted
from windtunnel.errors import ResultsInvalid, StorageError
from windtunnel.model import Direction, FailureKind, RunResult, Sample, Status, Trial
from windtunnel.storage import ending, recording, requests, values
from windtunnel.storage.writer import GroupWriter
from windtunnel.texts import check_metric_name

__all__ = ["Holding"]

_SAMPLES_AT_ONCE = 10_000
_US = timedelta(microseconds=1)


class Holding:
    """What ``Experiment`` offers to whoever has claimed a trial. Each write carries the trial's token."""

    opt_targets: dict[str, Direction]
    _writer: GroupWriter
    _key: int
    _metrics: dict[str, int]

    async def record(self, trial: Trial, samples: Sequence[Sample]) -> None:
        """Append telemetry to a claimed trial. A point stored already (same time and metric) is left alone.

        :raises StaleTrial: if the trial is no longer held under its token.
        :raises ResultsInvalid: if a value is neither a number nor text.
        :raises ValueError: if a timestamp has no zone.
        """
        (refused,) = await self._writer.submit(recording.record, [await self._points(trial, samples)])
        if refused is not None:
            raise refused

    async def record_many(
        self, batches: Sequence[tuple[Trial, Sequence[Sample]]]
    ) -> list[StorageError | None]:
        """``record`` for several trials in one transaction; the refusal of each, or None."""
        refusals: dict[int, StorageError] = {}
        points: list[requests.Points] = []
        for position, (trial, samples) in enumerate(batches):
            try:
                points.append(await self._points(trial, samples))
            except (ResultsInvalid, ValueError) as exc:
                said = f"{len(samples)} points of trial {trial.trial_id} are refused: {exc}"
                refusals[position] = StorageError(said)
        written = iter(await self._writer.submit(recording.record, points) if points else ())
        return [refusals[i] if i in refusals else next(written) for i in range(len(batches))]

    async def _points(self, trial: Trial, samples: Sequence[Sample]) -> requests.Points:
        """``samples`` in terms of columns; their metrics are registered."""
        known, to_us, pack = self._metrics, values.to_us, values.pack
        if unknown := {sample.metric for sample in samples} - known.keys():
            names = sorted(check_metric_name(name) for name in unknown)
            known.update(await self._writer.submit(recording.register_metrics, names))

        def row_of(sample: Sample) -> requests.Row:
            return (to_us(sample[0]), known[sample[1]], *pack(sample[2]))

        rows = await converted(row_of, samples, at_once=_SAMPLES_AT_ONCE)
        return requests.Points(self._key, trial.trial_id, trial.attempt, trial.token, rows)

    async def finish(
        self,
        trial: Trial,
        result: RunResult,
        *,
        failure: str | None = None,
        host: str | None = None,
        kind: FailureKind | None = None,
    ) -> None:
        """Store the outcome of a claimed trial. The same outcome again changes nothing.

        :param failure: why it did not succeed, for people.
        :param host: where it ran.
        :param kind: which part of it failed, if it did.
        :raises StaleTrial: if the trial is no longer held under its token.
        :raises TrialAlreadyFinished: if it has another outcome.
        :raises ResultsInvalid: if the status is not final or a metric is neither number nor text.
        """
        if not result.status.is_completed:
            raise ResultsInvalid(
                f"expected a final status for trial {trial.trial_id}, found {result.status.name}"
            )
        completion = requests.Completion(
            self._key,
            trial.trial_id,
            trial.token,
            result.status.value,
            values.to_us(result.timestamp),
            None if result.metrics is None else values.dump(result.metrics),
            self._score(result),
            None if failure is None else _storable(failure),
            host,
            None if kind is None else kind.value,
        )
        await self._writer.submit(ending.finish, completion)

    def _score(self, result: RunResult) -> float | None:
        """The first objective's value, for comparisons inside the database."""
        objective = next(iter(self.opt_targets), None)
        if objective is None or not result.metrics or not result.status.is_succeeded:
            return None
        return values.finite(result.metrics.get(objective))

    async def release(self, trial: Trial, *, reason: str, after: timedelta = timedelta(0)) -> None:
        """Put a claimed trial back into the queue, since nothing is known yet; this attempt stays on record.

        :param after: it is not claimed again before this has passed.
        :raises StaleTrial: if the trial is no longer held under its token.
        """
        await self._put_back(trial, requests.EndedAttempt(_storable(reason)), after)

    async def retry(
        self,
        trial: Trial,
        *,
        status: Status,
        reason: str,
        kind: FailureKind,
        host: str | None = None,
        after: timedelta = timedelta(0),
    ) -> None:
        """Put a claimed trial back into the queue, since this attempt failed; that stays on record.

        :param status: FAILED or TIMED_OUT.
        :param reason: why, for people.
        :param kind: which part of it failed.
        :param host: where it ran.
        :param after: it is not claimed again before this has passed.
        :raises StaleTrial: if the trial is no longer held under its token.
        :raises ResultsInvalid: if the status is another one.
        """
        if not (status.is_failed or status.is_timed_out):
            raise ResultsInvalid(
                f"expected FAILED or TIMED_OUT for an attempt of trial {trial.trial_id} that is followed by "
                f"another, found {status.name}"
            )
        await self._put_back(
            trial, requests.EndedAttempt(_storable(reason), status.value, kind.value, host), after
        )

    async def _put_back(self, trial: Trial, attempt: requests.EndedAttempt, after: timedelta) -> None:
        await self._writer.submit(
            ending.release, requests.Release(self._key, trial.trial_id, trial.token, after // _US, attempt)
        )


def _storable(text: str) -> str:
    """What every database takes: no reason to fail is a reason to lose an outcome."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
