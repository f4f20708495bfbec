"""Spans for OpenTelemetry, one for each attempt at a trial and one for each of its steps.

Needs the extra ``otel``, and an SDK that the application sets up::

    async with tracing(scheduler):
        await scheduler.run()
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio

from windtunnel.errors import ConfigError
from windtunnel.events import (
    Event,
    EventsDropped,
    StepStarted,
    Subscription,
    TrialFinished,
    TrialLost,
    TrialRetried,
    TrialStarted,
)
from windtunnel.model import Status, Trial
from windtunnel.scheduling import Scheduler
from windtunnel.scheduling.snapshot import Snapshot

try:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, StatusCode, Tracer, TracerProvider, get_tracer, set_span_in_context
except ModuleNotFoundError as exc:
    if (exc.name or "").partition(".")[0] != "opentelemetry":
        raise  # it is there, and something that it needs is not
    raise ConfigError(
        "spans need opentelemetry, which is not installed; install it with: pip install 'windtunnel[otel]'"
    ) from None

__all__ = ["tracing"]

logger = logging.getLogger(__name__)

_CAPACITY = 50_000
_REST_LIMIT_S = 5.0
_NO_PARENT = Context()
"""Each trial is a trace of its own, whatever span the application is in: there may be thousands."""
_MISSED = "its end was not heard of: events were dropped, or the tracing ended before the trial"


@asynccontextmanager
async def tracing(scheduler: Scheduler, tracer_provider: TracerProvider | None = None) -> AsyncIterator[None]:
    """Make spans of what the scheduler does while the block runs; at its end every span has ended.

    A span ``trial`` has the children ``setup``, ``run``, ``abort`` and ``teardown``, as far as they came. Its
    times are those at which the events were heard, a turn of the event loop later. Where events were dropped,
    spans are missing or end early; none stays open. An error of the tracing ends the tracing, not the block.

    :param tracer_provider: default the global one.
    """
    spans = _Spans(get_tracer("windtunnel", tracer_provider=tracer_provider))
    error: Exception | None = None
    with scheduler.events(capacity=_CAPACITY) as heard:
        try:
            async with anyio.create_task_group() as beside:
                beside.start_soon(_follow, heard, spans, scheduler, name="tracing")
                try:
                    yield
                except Exception as exc:  # noqa: BLE001 - raised after the group, which would wrap it
                    error = exc
                beside.cancel_scope.cancel()
        finally:
            with anyio.move_on_after(_REST_LIMIT_S, shield=True):
                await _take_rest(heard, spans, scheduler)
            spans.end_all(_MISSED)
    if error is not None:
        raise error


async def _follow(heard: Subscription, spans: _Spans, scheduler: Scheduler) -> None:
    try:
        async for event in heard:
            spans.apply(event)
            if spans.in_doubt and not heard.buffered:  # what was heard and what is are now the same
                spans.settle(scheduler.snapshot())
    except Exception:
        logger.exception("the tracing has ended", extra={"action": "tracing_ended"})
        heard.close()


async def _take_rest(heard: Subscription, spans: _Spans, scheduler: Scheduler) -> None:
    """What was told and not yet heard when the block ended."""
    heard.end()
    await _follow(heard, spans, scheduler)


@dataclass(slots=True)
class _Attempt:
    trial: Span
    step: Span | None = None


class _Spans:
    """The open spans: no more than there are running trials, and those of which no end was heard.

    :ivar in_doubt: whether there may be any of the second kind.
    """

    def __init__(self, tracer: Tracer) -> None:
        self.in_doubt = False
        self._tracer = tracer
        self._open: dict[_Key, _Attempt] = {}

    def apply(self, event: Event) -> None:
        match event:
            case TrialStarted(trial=trial, host=host):
                self._start(trial, host)
                self._step(trial, "setup")
            case StepStarted(trial=trial, step=step):
                self._step(trial, step)
            case TrialFinished(trial=trial, result=result, failure=failure):
                is_error = result.status in (Status.FAILED, Status.TIMED_OUT)
                self._end(_key(trial), result.status.name.lower(), failure, is_error=is_error)
            case TrialRetried(trial=trial, reason=reason):
                self._end(_key(trial), "retried", reason, is_error=True)
            case TrialLost(trial=trial, reason=reason):
                self._end(_key(trial), "lost", reason, is_error=True)
            case EventsDropped():
                self.in_doubt = True

    def settle(self, now: Snapshot) -> None:
        """End the spans of trials that run no more, though nobody said so."""
        self.in_doubt = False
        for key in self._open.keys() - {(one.trial_id, one.attempt) for one in now.running}:
            self._end(key, "unknown", _MISSED, is_error=False)

    def end_all(self, why: str) -> None:
        for key in tuple(self._open):
            self._end(key, "unknown", why, is_error=False)

    def _start(self, trial: Trial, host: str) -> None:
        self._open[_key(trial)] = _Attempt(
            self._tracer.start_span(
                "trial",
                context=_NO_PARENT,
                attributes={
                    "experiment_id": trial.experiment_id,
                    "trial_id": trial.trial_id,
                    "attempt": trial.attempt,
                    "config_id": trial.config_id,
                    "host": host,
                },
            )
        )

    def _step(self, trial: Trial, step: str) -> None:
        attempt = self._open.get(_key(trial))
        if attempt is None:
            return
        if attempt.step is not None:
            attempt.step.end()
        attempt.step = self._tracer.start_span(step, context=set_span_in_context(attempt.trial, _NO_PARENT))

    def _end(self, key: _Key, status: str, failure: str | None, *, is_error: bool) -> None:
        attempt = self._open.pop(key, None)
        if attempt is None:
            return
        if attempt.step is not None:
            attempt.step.end()
        attempt.trial.set_attribute("status", status)
        if failure is not None:
            attempt.trial.set_attribute("failure", failure)
        if is_error:
            attempt.trial.set_status(StatusCode.ERROR, failure)
        attempt.trial.end()


_Key = tuple[int, int]


def _key(trial: Trial) -> _Key:
    """An attempt: one that was lost may still wind up when the next begins."""
    return trial.trial_id, trial.attempt
