"""A running scheduler as monitoring systems see it: parsed by their own libraries."""

from __future__ import annotations

import importlib
import socket
import sys
import threading
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, cast

import anyio
import anyio.to_thread
import pytest
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from prometheus_client.parser import text_string_to_metric_families

import windtunnel
from windtunnel.errors import ConfigError, StorageUnavailable
from windtunnel.events import (
    EventBus,
    StepStarted,
    Subscription,
    TrialFinished,
    TrialLost,
    TrialRetried,
    TrialStarted,
)
from windtunnel.model import RunResult, Status, Trial, utc_now
from windtunnel.observing import prometheus
from windtunnel.observing.otel import tracing
from windtunnel.observing.prometheus import metrics_text, serving_metrics
from windtunnel.scheduling import Scheduler
from windtunnel.scheduling.snapshot import RunningTrial, Snapshot
from windtunnel.tunables import TunableGroups

pytestmark = pytest.mark.anyio

SPACE = TunableGroups({"g": {"cost": 1, "params": {"x": {"type": "int", "range": [1, 64], "default": 4}}}})
Emit = Callable[..., Awaitable[None]]


def snapshot(experiment: str = "e", *, running: Sequence[int] = (), **counts: Any) -> Snapshot:
    facts: dict[str, Any] = {
        "owner": "me",
        "state": "running",
        "leads": True,
        "target": 10,
        "total": 8,
        "pending": 3,
        "slots": 4,
        "slots_free": 2,
        **counts,
    }
    trials = tuple(
        RunningTrial(trial_id=one, config_id=1, attempt=1, step="run", since=utc_now()) for one in running
    )
    return Snapshot(experiment_id=experiment, running=trials, **facts)


class _Watched:
    """As much of a scheduler as can be watched, told what to say."""

    def __init__(self) -> None:
        self.bus = EventBus()
        self.now = snapshot()
        self.capacity = 0

    def events(self, *, capacity: int = 10_000) -> Subscription:
        return self.bus.subscribe(capacity=self.capacity or capacity)

    def snapshot(self) -> Snapshot:
        return self.now

    @property
    def as_scheduler(self) -> Scheduler:
        return cast(Scheduler, self)


# Prometheus


def parsed(text: str) -> dict[tuple[str, ...], float]:
    """``(name, label values…)`` → value."""
    values = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        for sample in family.samples:
            assert sample.name.startswith("windtunnel_")
            values[(sample.name.removeprefix("windtunnel_"), *sample.labels.values())] = sample.value
    return values


def test_every_number_of_a_snapshot_is_a_metric() -> None:
    one = snapshot(
        'a "quoted"\nname\\',
        running=(7, 8),
        finished={Status.SUCCEEDED: 5, Status.TIMED_OUT: 1},
        retried=2,
        aborted=3,
        stale_refused=4,
        lost=6,
        heartbeat_age_s=1.5,
        samples_buffered=11,
        samples_written=12,
        samples_refused=13,
        events_dropped=14,
    )
    labelled = {(name, *rest): value for (name, _, *rest), value in parsed(metrics_text(one)).items()}
    assert {key[1] for key in parsed(metrics_text(one))} == {one.experiment_id}
    assert labelled == {
        ("trials_running",): 2,
        ("trials_pending",): 3,
        ("trials_target",): 10,
        ("slots",): 4,
        ("slots_free",): 2,
        ("samples_buffered",): 11,
        ("heartbeat_age_seconds",): 1.5,
        ("leader",): 1,
        ("trials_finished_total", "succeeded"): 5,
        ("trials_finished_total", "failed"): 0,
        ("trials_finished_total", "canceled"): 0,
        ("trials_finished_total", "timed_out"): 1,
        ("retries_total",): 2,
        ("aborts_total",): 3,
        ("stale_outcomes_refused_total",): 4,
        ("leases_lost_total",): 6,
        ("samples_written_total",): 12,
        ("samples_refused_total",): 13,
        ("events_dropped_total",): 14,
    }


def test_counters_are_declared_as_such_and_what_is_unknown_is_left_out() -> None:
    kinds = {one.name: one.type for one in text_string_to_metric_families(metrics_text(snapshot()))}
    assert {kind for name, kind in kinds.items() if name.endswith(("retries", "written", "finished"))} == {
        "counter"
    }
    assert kinds["windtunnel_slots"] == "gauge"
    assert ("heartbeat_age_seconds", "e") not in parsed(metrics_text(snapshot())), "there was none yet"


def test_several_experiments_make_one_text() -> None:
    values = parsed(metrics_text(snapshot("a", retried=1), snapshot("b", retried=2)))
    assert (values["retries_total", "a"], values["retries_total", "b"]) == (1, 2)


async def scraped(address: str) -> dict[tuple[str, ...], float]:
    def scrape() -> str:
        with urllib.request.urlopen(address, timeout=5) as answer:
            assert answer.headers["content-type"].startswith("text/plain")
            return str(answer.read(), "utf-8")

    return parsed(await anyio.to_thread.run_sync(scrape))


def _serves() -> bool:
    return any("serve_forever" in thread.name for thread in threading.enumerate())


async def test_a_running_scheduler_is_scraped(url: str) -> None:
    runs, release = anyio.Event(), anyio.Event()

    async def hold(params: Mapping[str, Any], emit: Emit) -> dict[str, float]:
        await emit("qps", 1.0)
        runs.set()
        await release.wait()
        return {"t": params["x"]}

    async with (
        windtunnel.open_scheduler(
            hold, SPACE, objectives={"t": "min"}, trials=3, storage=url, experiment_id="e"
        ) as scheduler,
        serving_metrics(scheduler, port=0) as address,
        anyio.create_task_group() as group,
    ):
        group.start_soon(scheduler.run)
        with anyio.fail_after(10):
            await runs.wait()
            during = await scraped(address)
            assert (during["trials_running", "e"], during["trials_finished_total", "e", "succeeded"]) == (
                1,
                0,
            )
            assert _serves()
            assert (during["slots", "e"], during["slots_free", "e"]) == (1, 0)
            release.set()
            while (await scraped(address))["trials_finished_total", "e", "succeeded"] < 3:
                await anyio.sleep(0.01)
    assert not _serves(), "its thread has ended too"
    with pytest.raises(urllib.error.URLError):
        await scraped(address)


async def test_a_loop_that_has_no_time_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus, "_SNAPSHOT_LIMIT_S", 0.05)
    watched = _Watched()
    latest = prometheus._Latest([watched.as_scheduler])
    told: list[Snapshot] = []
    scrape = threading.Thread(target=lambda: told.extend(latest.snapshots()))
    watched.now = snapshot(retried=1)
    scrape.start()
    scrape.join(5)  # in the loop's own thread, which so has no time
    assert [one.retried for one in told] == [0], "the newest there were"
    assert [one.retried for one in await anyio.to_thread.run_sync(latest.snapshots)] == [1]


async def test_a_port_in_use_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}.*choose another port"):
            async with serving_metrics(_Watched().as_scheduler, port=port):
                pytest.fail("it was served")


@pytest.mark.parametrize(
    ("module", "library", "extra"),
    [("prometheus", "prometheus_client", "prometheus"), ("otel", "opentelemetry.context", "otel")],
)
def test_a_missing_library_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, module: str, library: str, extra: str
) -> None:
    monkeypatch.delitem(sys.modules, f"windtunnel.observing.{module}")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConfigError, match=rf"pip install 'windtunnel\[{extra}\]'"):
        importlib.import_module(f"windtunnel.observing.{module}")


# OpenTelemetry


class _Traces:
    """A tracer provider of the real SDK, and what it has exported."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    @property
    def trials(self) -> dict[tuple[int, int], ReadableSpan]:
        """``(trial, attempt)`` → its span."""
        return {
            (one.attributes["trial_id"], one.attributes["attempt"]): one  # type: ignore[index,misc]
            for one in self._exporter.get_finished_spans()
            if one.name == "trial"
        }

    @property
    def steps(self) -> dict[tuple[int, int], list[str]]:
        """``(trial, attempt)`` → the names of its span's children, in order."""
        names = defaultdict(list)
        for one in sorted(self._exporter.get_finished_spans(), key=lambda span: span.start_time or 0):
            if one.parent is not None:
                names[one.parent.span_id].append(one.name)
        return {key: names[span.context.span_id] for key, span in self.trials.items() if span.context}

    @property
    def outcomes(self) -> dict[tuple[int, int], object]:
        return {key: (one.attributes or {}).get("status") for key, one in self.trials.items()}


async def test_each_trial_is_a_trace_with_its_steps(url: str) -> None:
    async def odd_fails(params: Mapping[str, Any]) -> dict[str, float]:
        if params["x"] != 4:
            raise RuntimeError("only the default works")
        return {"t": 1.0}

    traces = _Traces()
    async with (
        windtunnel.open_scheduler(
            odd_fails,
            SPACE,
            objectives={"t": "min"},
            trials=2,
            optimizer={"name": "grid"},
            storage=url,
            experiment_id="e",
        ) as scheduler,
        tracing(scheduler, traces.provider),
    ):
        summary = await scheduler.run()
    assert (summary.succeeded, summary.failed) == (1, 1)
    assert sorted(traces.outcomes.values(), key=str) == ["failed", "succeeded"]
    assert set(map(tuple, traces.steps.values())) == {("setup", "run", "teardown")}
    for span in traces.trials.values():
        attributes = dict(span.attributes or {})
        assert span.parent is None
        assert (attributes["experiment_id"], attributes["host"], attributes["attempt"]) == (
            "e",
            "localhost",
            1,
        )
        assert attributes["config_id"] in (1, 2)
        if attributes["status"] == "failed":
            assert span.status.status_code is StatusCode.ERROR
            assert "only the default works" in str(span.status.description)
            assert attributes["failure"] == span.status.description
        else:
            assert span.status.status_code is StatusCode.UNSET
            assert "failure" not in attributes


async def test_spans_of_a_cancelled_run_end_with_their_outcome(url: str) -> None:
    runs = anyio.Event()

    async def hang(_: Mapping[str, Any]) -> None:
        runs.set()
        await anyio.sleep_forever()

    traces = _Traces()

    async def conduct() -> None:
        async with (
            windtunnel.open_scheduler(
                hang, SPACE, objectives={"t": "min"}, storage=url, experiment_id="e"
            ) as scheduler,
            tracing(scheduler, traces.provider),
        ):
            await scheduler.run()

    async with anyio.create_task_group() as group:
        group.start_soon(conduct)
        await runs.wait()
        group.cancel_scope.cancel()
    assert traces.outcomes == {(1, 1): "canceled"}
    assert traces.steps == {(1, 1): ["setup", "run", "teardown"]}


def trial(trial_id: int, attempt: int = 1) -> Trial:
    return Trial(experiment_id="e", trial_id=trial_id, config_id=1, tunables=SPACE, attempt=attempt)


def started(trial_id: int, attempt: int = 1) -> TrialStarted:
    return TrialStarted(trial(trial_id, attempt), "node-1", 1)


def running(trial_id: int, attempt: int = 1) -> StepStarted:
    return StepStarted(trial(trial_id, attempt), "run", "node-1", 1)


def finished(trial_id: int, attempt: int = 1) -> TrialFinished:
    result = RunResult(Status.SUCCEEDED, utc_now(), {"t": 1})
    return TrialFinished(trial(trial_id, attempt), result, None, "node-1")


async def test_attempts_are_spans_of_their_own() -> None:
    watched, traces = _Watched(), _Traces()
    async with tracing(watched.as_scheduler, traces.provider):
        watched.bus.publish(started(1))
        watched.bus.publish(TrialRetried(trial(1), "setup failed", timedelta(seconds=1)))
        watched.bus.publish(started(1, attempt=2))
        watched.bus.publish(TrialLost(trial(1, attempt=2), "its lease was lost"))
        watched.bus.publish(started(1, attempt=4))
    assert traces.outcomes == {(1, 1): "retried", (1, 2): "lost", (1, 4): "unknown"}
    assert traces.trials[1, 1].status.description == "setup failed"


async def test_an_attempt_that_was_lost_may_wind_up_when_the_next_has_begun() -> None:
    watched, traces = _Watched(), _Traces()
    async with tracing(watched.as_scheduler, traces.provider):
        watched.bus.publish(started(1))
        watched.bus.publish(started(1, attempt=2))
        watched.bus.publish(running(1))
        watched.bus.publish(TrialLost(trial(1), "its lease was lost"))
        watched.bus.publish(running(1, attempt=2))
        watched.bus.publish(finished(1, attempt=2))
    assert traces.outcomes == {(1, 1): "lost", (1, 2): "succeeded"}
    assert traces.steps == {(1, 1): ["setup", "run"], (1, 2): ["setup", "run"]}


async def test_a_trial_whose_end_was_dropped_leaves_no_span_open() -> None:
    watched, traces = _Watched(), _Traces()
    watched.capacity = 4
    async with tracing(watched.as_scheduler, traces.provider):
        for event in (started(1), running(1), started(2), running(2)):
            watched.bus.publish(event)
        watched.bus.publish(finished(1))  # dropped
        watched.now = snapshot(running=(2,))
        await anyio.wait_all_tasks_blocked()
        assert traces.outcomes == {(1, 1): "unknown"}, "2 still runs"
        watched.bus.publish(finished(2))
    assert traces.outcomes == {(1, 1): "unknown", (2, 1): "succeeded"}
    assert traces.steps == {(1, 1): ["setup", "run"], (2, 1): ["setup", "run"]}


async def test_an_error_of_the_block_passes_as_it_is() -> None:
    with pytest.raises(StorageUnavailable, match="gone"):
        async with tracing(_Watched().as_scheduler, _Traces().provider):
            raise StorageUnavailable("gone")


class _Broken(SpanProcessor):
    def on_start(self, *_: object, **__: object) -> None:
        raise RuntimeError("no disk")


async def test_a_broken_tracer_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    watched, traces = _Watched(), _Traces()
    traces.provider.add_span_processor(_Broken())
    async with tracing(watched.as_scheduler, traces.provider):
        watched.bus.publish(started(1))
        await anyio.wait_all_tasks_blocked()
        assert not watched.bus.is_heard, "it listens no more"
    assert "the tracing has ended" in caplog.text
