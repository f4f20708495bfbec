"""One trial from set-up to teardown."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import NamedTuple

import anyio
import anyio.lowlevel

from windtunnel.concurrency import is_cancelled
from windtunnel.environments.base import Environment
from windtunnel.errors import ConfigError, EnvironmentFailed, HostFailed, StepTimedOut, described
from windtunnel.events import Step
from windtunnel.model import FailureKind, RunResult, Status, Timeouts, Trial, utc_now
from windtunnel.objectives import Objective
from windtunnel.protocols import TelemetrySink
from windtunnel.scheduling.hosts import Placement, Slot
from windtunnel.scheduling.notes import HostNotes
from windtunnel.scheduling.policy import judge
from windtunnel.scheduling.pruning import ABORTED, Pruning, Watch
from windtunnel.telemetry.sampler import Sampler

__all__ = ["Outcome", "TrialRunner"]

logger = logging.getLogger(__name__)

_UNLIMITED = nullcontext()
_UNWATCHED = nullcontext()
_KINDS = {Status.FAILED: FailureKind.RUN, Status.TIMED_OUT: FailureKind.TIMEOUT}
_STRAY = "CancelledError: nobody cancelled the trial, but something it awaited was cancelled"


class Outcome(NamedTuple):
    """What came of a trial.

    :ivar failure: why it did not succeed; None if it did.
    :ivar kind: which part of it failed; None if none did.
    :ivar host: which host failed, if one did.
    """

    result: RunResult
    failure: str | None = None
    kind: FailureKind | None = None
    host: str | None = None


class TrialRunner:
    """Runs trials in environments. It keeps nothing of a trial that has ended.

    :param poll_period: how often the status of an environment that reports one is asked for.
    :param pruning: may stop a run; default nobody does.
    :param notes: keeps what the hosts are; default nobody does.
    :param hide: takes secrets out of a text that is stored or logged; default there are none.
    """

    def __init__(
        self,
        *,
        timeouts: Timeouts,
        objectives: Mapping[str, Objective],
        poll_period: timedelta = timedelta(seconds=1),
        pruning: Pruning | None = None,
        notes: HostNotes | None = None,
        hide: Callable[[str], str] = str,
    ) -> None:
        self._hide = hide
        self._timeouts = timeouts
        self._objectives = objectives
        self._sampler = Sampler(period=poll_period, timeout=timeouts.status)
        self._pruning = pruning
        self._notes = notes
        self._graces: set[anyio.CancelScope] = set()
        self._graceless = False

    async def run(
        self,
        trial: Trial,
        slot: Slot | Placement,
        sink: TelemetrySink,
        on_step: Callable[[Step], None],
        scope: anyio.CancelScope,
    ) -> Outcome:
        """Set up, run, watch, tear down. Teardown runs to its end or its time limit, also when cancelled.

        :param scope: the one this is awaited in, by which the trial is cancelled; nothing else may be in it.
        :param on_step: told of each step as it begins: ``setup``, ``run``, ``abort``, ``teardown``.
        :raises ConfigError: if the environment's description is wrong, which no other trial would survive
            either.
        """
        try:
            environment = slot.environment
        except ConfigError:
            raise
        except (Exception, SystemExit) as exc:  # noqa: BLE001 - whatever a user's class raises
            failure = self._hide(f"its environment could not be made: {described(exc)}")
            return _without_success(Status.FAILED, failure, FailureKind.SETUP)
        try:
            if self._pruning is None:
                outcome = await self._attempt(environment, trial, slot, sink, on_step)
            else:
                with self._pruning.watching(trial, sink) as watch:
                    outcome = await self._attempt(environment, trial, slot, watch, on_step)
            # One that swallowed its cancellation, or answered it with an error, has no outcome.
            await anyio.lowlevel.checkpoint_if_cancelled()
            if environment.is_polled:
                await self._sampler.tail(environment, sink, scope)
            if outcome.failure is None:
                return outcome
            return outcome._replace(failure=self._hide(outcome.failure))
        finally:
            environment.attach(None)
            on_step("teardown")
            await self._tear_down(environment, trial)

    async def sample(self) -> None:
        """Poll the environments that report their status, until cancelled."""
        await self._sampler.run()

    def cut_grace(self) -> None:
        """Stop waiting for teardowns, those that run now and those to come."""
        self._graceless = True
        for scope in self._graces:
            scope.cancel()

    async def _attempt(
        self,
        environment: Environment,
        trial: Trial,
        slot: Slot | Placement,
        sink: TelemetrySink,
        on_step: Callable[[Step], None],
    ) -> Outcome:
        """Set up and run; whatever fails is the trial's outcome."""
        kind = FailureKind.SETUP
        results: list[RunResult] = []
        try:
            environment.attach(sink)
            with _limit("trial", self._timeouts.trial):
                on_step("setup")
                await self._set_up(environment, trial, slot)
                if self._notes is not None:  # before the run, which it would disturb
                    await self._notes.note(trial.owner or "", slot.all_hosts)
                kind = FailureKind.RUN
                on_step("run")
                with sink.run() if isinstance(sink, Watch) else _UNWATCHED:
                    run = self._sampled if environment.is_polled else self._run
                    results.append(await run(environment, sink))
            if not results:  # the pruner stopped it
                return await self._aborted(environment, trial, sink, on_step)
            return self._judged(environment, results[0])
        except StepTimedOut as exc:
            printed = environment.printed(exc.step) or environment.printed("run")
            kind = FailureKind.SETUP if kind is FailureKind.SETUP else FailureKind.TIMEOUT
            return _without_success(Status.TIMED_OUT, f"{exc}{printed}", kind)
        except HostFailed as exc:
            result = RunResult(Status.FAILED, utc_now(), None)
            return Outcome(result, str(exc), FailureKind.HOST, exc.host)
        except EnvironmentFailed as exc:
            return _without_success(Status.FAILED, str(exc), kind)
        except ConfigError:
            raise
        except (Exception, SystemExit) as exc:
            logger.debug("trial %d raised", trial.trial_id, exc_info=True, extra={"trial_id": trial.trial_id})
            return _without_success(Status.FAILED, described(exc), kind)
        except anyio.get_cancelled_exc_class():
            if is_cancelled():
                raise
            return _without_success(Status.FAILED, _STRAY, kind)

    async def _aborted(
        self, environment: Environment, trial: Trial, sink: TelemetrySink, on_step: Callable[[Step], None]
    ) -> Outcome:
        """The pruner stopped the run: let the environment know, which has its teardown's time for it."""
        verdict = sink.verdict if isinstance(sink, Watch) else None
        assert verdict is not None, "nobody else ends a run without an outcome"  # noqa: S101
        on_step("abort")
        await self._undisturbed(environment.abort, "abort", trial, self._timeouts.teardown)
        scores = None if verdict.scores is None else dict(verdict.scores)
        result = RunResult(Status.CANCELED, utc_now(), scores)
        return Outcome(result, f"{ABORTED}{verdict.reason}", FailureKind.ABORTED)

    async def _set_up(self, environment: Environment, trial: Trial, slot: Slot | Placement) -> None:
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
            return Outcome(judged, problem + environment.printed("run"), FailureKind.RESULTS)
        failure = environment.failure or f"run ended with status {judged.status.name}"
        return Outcome(judged, failure, _KINDS.get(judged.status))

    async def _sampled(self, environment: Environment, sink: TelemetrySink) -> RunResult:
        """Run with the sampler beside it."""
        sampled = self._sampler.begin(environment, sink)
        try:
            return await self._run(environment, sink)
        finally:
            await self._sampler.end(sampled)

    async def _run(self, environment: Environment, _: TelemetrySink) -> RunResult:
        with _limit("run", self._timeouts.run):
            return RunResult.of(await environment.run())

    async def _tear_down(self, environment: Environment, trial: Trial) -> None:
        if environment.leaves_nothing:  # no need for a limit, which takes longer than the teardown
            await environment.teardown()
            return
        await self._undisturbed(environment.teardown, "teardown", trial, self._timeouts.teardown)

    async def _undisturbed(
        self, step: Callable[[], Awaitable[None]], name: str, trial: Trial, limit: timedelta
    ) -> None:
        """A step that a cancelled trial is owed; its failure is logged, since the outcome stands."""
        with self._grace(limit) as scope:
            try:
                await step()
            except (Exception, SystemExit) as exc:  # noqa: BLE001 - the operator must know, nobody else
                _log_failure(name, trial, self._hide(str(exc)))
            except anyio.get_cancelled_exc_class():
                if is_cancelled():
                    raise
                _log_failure(name, trial, _STRAY)
            finally:
                self._graces.discard(scope)
        if scope.cancelled_caught:
            logger.warning(
                "%s of trial %d was cut off %s; something of it may be left behind",
                name,
                trial.trial_id,
                "when asked to stop now" if self._graceless else f"after {limit.total_seconds():g} s",
                extra={"trial_id": trial.trial_id, "action": f"{name}_cut"},
            )

    def _grace(self, limit: timedelta) -> anyio.CancelScope:
        """A scope that goes on when the trial is cancelled, until ``limit`` or ``cut_grace``."""
        scope = anyio.move_on_after(limit.total_seconds(), shield=True)
        if self._graceless:
            scope.cancel()
        self._graces.add(scope)
        return scope


def _log_failure(step: str, trial: Trial, reason: str) -> None:
    logger.warning(
        "%s of trial %d failed: %s",
        step,
        trial.trial_id,
        reason,
        extra={"trial_id": trial.trial_id, "action": f"{step}_failed"},
    )


def _without_success(status: Status, failure: str, kind: FailureKind) -> Outcome:
    return Outcome(RunResult(status, utc_now(), None), failure, kind)


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
