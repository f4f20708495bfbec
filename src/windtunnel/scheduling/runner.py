"""One trial from set-up to teardown."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import NamedTuple

import anyio
import anyio.lowlevel

from windtunnel.concurrency import is_cancelled
from windtunnel.environments.base import Environment
from windtunnel.errors import ConfigError, EnvironmentFailed, StepTimedOut, described
from windtunnel.model import Direction, RunResult, Status, Timeouts, Trial, utc_now
from windtunnel.protocols import TelemetrySink
from windtunnel.scheduling.hosts import Slot
from windtunnel.scheduling.policy import judge
from windtunnel.telemetry.sampler import poll, sample

__all__ = ["Outcome", "TrialRunner"]

logger = logging.getLogger(__name__)

_UNLIMITED = nullcontext()
_STRAY = "CancelledError: nobody cancelled the trial, but something it awaited was cancelled"


class Outcome(NamedTuple):
    """What came of a trial, and why it did not succeed."""

    result: RunResult
    failure: str | None = None


class TrialRunner:
    """Runs trials in environments. It keeps nothing of a trial that has ended.

    :param poll_period: how often the status of an environment that reports one is asked for.
    """

    def __init__(
        self,
        *,
        timeouts: Timeouts,
        objectives: Mapping[str, Direction],
        poll_period: timedelta = timedelta(seconds=1),
    ) -> None:
        self._timeouts = timeouts
        self._objectives = objectives
        self._poll_period = poll_period
        self._graces: set[anyio.CancelScope] = set()
        self._graceless = False

    async def run(self, trial: Trial, slot: Slot, sink: TelemetrySink) -> Outcome:
        """Set up, run, watch, tear down. Teardown runs to its end or its time limit, also when cancelled.

        :raises ConfigError: if the environment's description is wrong, which no other trial would survive
            either.
        """
        try:
            environment = slot.environment
        except ConfigError:
            raise
        except Exception as exc:  # noqa: BLE001 - whatever a user's class raises
            return _without_success(Status.FAILED, f"its environment could not be made: {described(exc)}")
        try:
            environment.attach(sink)
            outcome = await self._attempt(environment, trial, slot, sink)
            # One that swallowed its cancellation, or answered it with an error, has no outcome.
            await anyio.lowlevel.checkpoint_if_cancelled()
            if environment.is_polled:
                await self._poll_tail(environment, sink)
            return outcome
        finally:
            environment.attach(None)
            await self._tear_down(environment, trial)

    def cut_grace(self) -> None:
        """Stop waiting for teardowns, those that run now and those to come."""
        self._graceless = True
        for scope in self._graces:
            scope.cancel()

    async def _attempt(
        self, environment: Environment, trial: Trial, slot: Slot, sink: TelemetrySink
    ) -> Outcome:
        """Set up and run; whatever fails is the trial's outcome."""
        try:
            with _limit("trial", self._timeouts.trial):
                await self._set_up(environment, trial, slot)
                result = await self._watched(environment, sink)
            return self._judged(environment, result)
        except StepTimedOut as exc:
            printed = environment.printed(exc.step) or environment.printed("run")
            return _without_success(Status.TIMED_OUT, f"{exc}{printed}")
        except EnvironmentFailed as exc:
            return _without_success(Status.FAILED, str(exc))
        except ConfigError:
            raise
        except Exception as exc:
            logger.debug("trial %d raised", trial.trial_id, exc_info=True, extra={"trial_id": trial.trial_id})
            return _without_success(Status.FAILED, described(exc))
        except anyio.get_cancelled_exc_class():
            if is_cancelled():
                raise
            return _without_success(Status.FAILED, _STRAY)

    async def _set_up(self, environment: Environment, trial: Trial, slot: Slot) -> None:
        parameters = {
            **trial.parameters,
            "experiment_id": trial.experiment_id,
            "trial_id": trial.trial_id,
            "trial_runner_id": slot.runner_id,
            "host": slot.host.name,
        }
        with _limit("setup", self._timeouts.setup):
            ready = await environment.setup(trial.tunables, parameters)
        if not ready:
            said = "setup failed" if ready is False else f"setup must return True or False, found {ready!r}"
            raise EnvironmentFailed(environment.failure or said)

    def _judged(self, environment: Environment, result: RunResult) -> Outcome:
        judged, problem = judge(result, self._objectives)
        if judged.status.is_succeeded:
            return Outcome(judged)
        if not judged.status.is_completed:
            problem = f"run ended with status {judged.status.name}, which is not an outcome"
            judged = judged._replace(status=Status.FAILED)
        if problem is not None:
            return Outcome(judged, problem + environment.printed("run"))
        return Outcome(judged, environment.failure or f"run ended with status {judged.status.name}")

    async def _watched(self, environment: Environment, sink: TelemetrySink) -> RunResult:
        """Run with the sampler beside it, if there is anything to sample."""
        if not environment.is_polled:
            return await self._run(environment)
        async with anyio.create_task_group() as group:

            async def watch() -> None:
                await sample(environment, sink, period=self._poll_period, timeout=self._timeouts.status)

            group.start_soon(watch, name="sampler")
            result: RunResult | BaseException
            try:
                result = await self._run(environment)
            except Exception as exc:  # noqa: BLE001 - told after the group, which would wrap it
                result = exc
            except anyio.get_cancelled_exc_class() as exc:
                if is_cancelled():
                    raise
                result = exc
            group.cancel_scope.cancel()
        if isinstance(result, BaseException):
            raise result
        return result

    async def _run(self, environment: Environment) -> RunResult:
        with _limit("run", self._timeouts.run):
            return RunResult.of(await environment.run())

    async def _poll_tail(self, environment: Environment, sink: TelemetrySink) -> None:
        """Fetch the telemetry of the run's end; by now the outcome stands."""
        with self._grace(self._timeouts.status) as scope:
            try:
                await poll(environment, sink, timeout=self._timeouts.status)
            finally:
                self._graces.discard(scope)

    async def _tear_down(self, environment: Environment, trial: Trial) -> None:
        with self._grace(self._timeouts.teardown) as scope:
            try:
                await environment.teardown()
            except Exception as exc:  # noqa: BLE001 - the outcome stands; the operator must know
                _log_teardown(trial, exc)
            except anyio.get_cancelled_exc_class() as exc:
                if is_cancelled():
                    raise
                _log_teardown(trial, exc)
            finally:
                self._graces.discard(scope)
        if scope.cancelled_caught:
            logger.warning(
                "teardown of trial %d was cut off after at most %g s; something of it may be left behind",
                trial.trial_id,
                self._timeouts.teardown.total_seconds(),
                extra={"trial_id": trial.trial_id, "action": "teardown_cut"},
            )

    def _grace(self, limit: timedelta) -> anyio.CancelScope:
        """A scope that goes on when the trial is cancelled, until ``limit`` or ``cut_grace``."""
        scope = anyio.move_on_after(limit.total_seconds(), shield=True)
        if self._graceless:
            scope.cancel()
        self._graces.add(scope)
        return scope


def _log_teardown(trial: Trial, exc: BaseException) -> None:
    logger.warning(
        "teardown of trial %d failed: %s",
        trial.trial_id,
        exc if isinstance(exc, Exception) else _STRAY,
        extra={"trial_id": trial.trial_id, "action": "teardown_failed"},
    )


def _without_success(status: Status, failure: str) -> Outcome:
    return Outcome(RunResult(status, utc_now(), None), failure)


def _limit(step: str, timeout: timedelta | None) -> AbstractContextManager[None]:
    """Stop the block after ``timeout``.

    :raises StepTimedOut: if that happened.
    """
    return _UNLIMITED if timeout is None else _stopped_after(step, timeout.total_seconds())


@contextmanager
def _stopped_after(step: str, seconds: float) -> Iterator[None]:
    try:
        with anyio.move_on_after(seconds) as scope:
            yield
    except StepTimedOut:  # of a step within
        raise
    except Exception as exc:
        if scope.cancel_called:
            raise StepTimedOut(step=step, seconds=seconds) from exc
        raise
    if scope.cancel_called:  # whether the block let the cancellation pass or not
        raise StepTimedOut(step=step, seconds=seconds)
