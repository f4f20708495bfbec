"""What users' classes, optimizers and databases do wrong, and that it harms nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest
from sqlalchemy import Connection

from tests.integration.engines import (
    SPACE,
    Counting,
    Lab,
    Learning,
    ScriptedEnv,
    forever,
    opened,
    scheduler,
    statuses,
)
from windtunnel import (
    ConfigError,
    Environment,
    Experiment,
    Host,
    NewTrial,
    OptimizerError,
    RunResult,
    Sample,
    Status,
    StorageError,
    StorageUnavailable,
    TunableGroups,
)
from windtunnel.events import TrialRetried
from windtunnel.model import History, utc_now
from windtunnel.storage import claiming
from windtunnel.storage.requests import Extension

SHORT = timedelta(milliseconds=300)


# Environments


class PlainEnv(Environment):
    """Overrides the lifecycle itself and speaks plain tuples, as environments of mlos_bench do."""

    log: list[str]
    result: Any = (Status.SUCCEEDED, datetime(2026, 1, 1), {"score": 1.5})  # noqa: DTZ001 - UTC without saying so
    ready: Any = True

    async def setup(self, tunables: TunableGroups, global_config: dict[str, Any] | None = None) -> bool:
        assert global_config is not None
        self.log.append("setup")
        return self.ready  # type: ignore[no-any-return]  # whatever a user returns

    async def run(self) -> RunResult:
        self.log.append("run")
        while "status" not in self.log:
            await anyio.sleep(0.001)
        return self.result  # type: ignore[no-any-return]  # whatever a user returns

    async def status(self) -> Any:
        self.log.append("status")
        naive = datetime(2026, 1, 1, 12, 0, len(self.log) % 60)  # noqa: DTZ001 - UTC without saying so
        return (Status.RUNNING, naive, [(naive, "load", 0.5)])

    async def teardown(self) -> None:
        self.log.append("teardown")


def plain(**attributes: Any) -> tuple[list[str], Any]:
    """The log and the maker of a ``PlainEnv``."""
    log: list[str] = []
    kind = type("Plain", (PlainEnv,), {"log": log, **attributes})
    return log, lambda _host, _runner: kind(name="plain", config={}, tunables=SPACE)


async def test_an_environment_of_plain_tuples_that_overrides_the_lifecycle_itself_works(url: str) -> None:
    log, make = plain()
    async with opened(url) as experiment:
        period = timedelta(milliseconds=2)
        summary = await scheduler(
            experiment, Lab(), trials=2, slots=1, make_environment=make, poll_period=period
        ).run()
        record = await anext(experiment.trials())
        telemetry = await experiment.load_telemetry(1)
    assert summary.succeeded == 2
    assert record.metrics == {"score": 1.5}
    assert record.ended == datetime(2026, 1, 1, tzinfo=UTC)
    assert {(sample.metric, sample.value) for sample in telemetry} == {("load", 0.5)}
    assert all(sample.timestamp.hour == 12 for sample in telemetry)
    assert [step for step in log if step != "status"] == ["setup", "run", "teardown"] * 2


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"ready": None}, "setup must return True or False, found None"),
        ({"ready": 0}, "setup must return True or False, found 0"),
        ({"ready": False}, "setup failed"),
        ({"result": None}, "run must return (status, timestamp, metrics or None), found None"),
        ({"result": (1, 2)}, "run must return (status, timestamp, metrics or None), found (1, 2)"),
        ({"result": (Status.SUCCEEDED, utc_now(), [1])}, "run must return"),
        (
            {"result": (Status.SUCCEEDED, utc_now(), None)},
            "the run gave no objective 'score'; it gave nothing",
        ),
        (
            {"result": (Status.RUNNING, utc_now(), None)},
            "run ended with status RUNNING, which is not an outcome",
        ),
        ({"result": (Status.SUCCEEDED, utc_now(), {"score": 10**400})}, "must be a finite number"),
    ],
)
async def test_what_a_step_must_not_return_fails_its_trial_and_says_so(
    url: str, wrong: dict[str, Any], said: str
) -> None:
    log, make = plain(**wrong)
    log.append("status")
    async with opened(url) as experiment:
        await scheduler(experiment, Lab(), trials=1, make_environment=make).run()
        record = await anext(experiment.trials())
    assert record.status is Status.FAILED
    assert record.failure is not None
    assert said in record.failure
    assert "teardown" in log


async def test_an_environment_that_cannot_be_made_fails_its_trials_only(url: str) -> None:
    lab = Lab()

    def make(_host: Host, runner_id: int) -> Environment:
        if runner_id == 2:
            raise OSError("the port is taken")
        return ScriptedEnv(lab)

    async with opened(url) as experiment:
        summary = await scheduler(experiment, lab, trials=2, slots=2, make_environment=make).run()
        second = [record async for record in experiment.trials()][1]
    assert (summary.succeeded, summary.failed) == (1, 1)
    assert second.failure is not None
    assert second.failure.startswith("its environment could not be made: OSError: the port is taken")


async def test_an_environment_described_wrongly_leaves_no_claimed_trial_behind(url: str) -> None:
    def make(_host: Host, runner_id: int) -> Environment:
        if runner_id > 1:
            raise ConfigError("no such key")
        return ScriptedEnv(Lab())

    async with opened(url) as experiment:
        await experiment.add_trials([NewTrial(tunables=SPACE)] * 4)
        with pytest.raises(ConfigError, match="no such key"):
            await scheduler(experiment, Lab(), trials=4, make_environment=make).run()
        assert Status.RUNNING not in (await statuses(experiment)).values()


async def test_telemetry_that_cannot_be_used_fails_nothing(url: str) -> None:
    class Talkative(ScriptedEnv):
        async def status(self) -> Any:
            return (Status.RUNNING, utc_now(), [(utc_now(), "load", object())])

    lab = Lab()
    async with opened(url) as experiment:
        summary = await scheduler(
            experiment, lab, trials=1, make_environment=lambda _host, _runner: Talkative(lab)
        ).run()
    assert summary.succeeded == 1


async def test_what_was_emitted_before_a_cancellation_is_kept_however_much_it_is(url: str) -> None:
    lab = Lab()
    samples = [Sample(utc_now() + timedelta(microseconds=i), "load", i) for i in range(12_000)]
    async with opened(url) as experiment, anyio.create_task_group() as group:

        async def run(env: ScriptedEnv) -> None:
            await env._emit(samples)
            group.cancel_scope.cancel()
            await anyio.sleep_forever()

        lab.on_run = run
        group.start_soon(scheduler(experiment, lab, trials=1).run)
    async with opened(url) as experiment:
        assert await statuses(experiment) == {1: Status.CANCELED}
        assert len(await experiment.load_telemetry(1)) == 12_000


# Optimizers


class Answering(Counting):
    """Returns whatever it is told to, whatever it is asked."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self._answer = answer

    def ask(self, count: int = 1) -> list[TunableGroups]:
        return self._answer  # type: ignore[no-any-return]  # whatever a user returns


OTHER = TunableGroups({"h": {"params": {"y": {"type": "int", "range": [0, 1], "default": 0}}}})


@pytest.mark.parametrize("answer", [None, 7, [{"x": 1}], [SPACE, None], [OTHER]])
async def test_an_optimizer_that_proposes_something_else_is_reported(url: str, answer: Any) -> None:
    async with opened(url) as experiment:
        await experiment.add_trials([NewTrial(tunables=SPACE)])
        with pytest.raises(OptimizerError, match="expected ask to return"):
            await scheduler(experiment, Lab(), trials=9, optimizer=Answering(answer)).run()
        assert await statuses(experiment) == {1: Status.SUCCEEDED}, "the others finish"


@pytest.mark.parametrize("answer", [[SPACE] * 50, [SPACE]])
async def test_too_many_equal_suggestions_make_no_trial_too_many(
    url: str, answer: list[TunableGroups]
) -> None:
    async with opened(url) as experiment:
        summary = await scheduler(experiment, Lab(), trials=7, optimizer=Answering(answer)).run()
    assert (summary.trials, summary.succeeded) == (7, 7)


class Deaf(Learning):
    def _tell(self, history: History) -> None:
        raise RuntimeError("the engine broke")


async def test_an_optimizer_that_cannot_learn_is_reported_and_loses_nothing(url: str) -> None:
    async with opened(url) as experiment:
        with pytest.raises(OptimizerError, match="RuntimeError: the engine broke"):
            await scheduler(experiment, Lab(), trials=5, slots=2, optimizer=Deaf()).run()
        before = await statuses(experiment)
        assert set(before.values()) == {Status.SUCCEEDED}
        with pytest.raises(OptimizerError, match="RuntimeError: the engine broke"):
            await scheduler(experiment, Lab(), trials=5, slots=2, optimizer=Deaf()).run()


async def test_a_learning_optimizer_hears_of_every_trial_also_when_it_is_asked_no_more(url: str) -> None:
    optimizer = Learning()
    async with opened(url) as experiment:
        await experiment.add_trials([NewTrial(tunables=SPACE)] * 20)
        await scheduler(experiment, Lab(), trials=20, slots=4, optimizer=optimizer).run()
    assert sorted(optimizer.told) == list(range(1, 21))


async def test_a_stopped_scheduler_asks_for_nothing(url: str) -> None:
    class Asked(Learning):
        def _ask(self, index: int, count: int) -> Sequence[TunableGroups]:
            raise AssertionError("it was asked")

    async with opened(url) as experiment:
        engine = scheduler(experiment, Lab(), trials=5, optimizer=Asked())
        engine.stop()
        assert (await engine.run()).trials == 0


@pytest.mark.parametrize(
    "wrong",
    [{"slots": 0}, {"repeats": 0}, {"trials": -1}, {"lease": timedelta(0)}, {"poll_period": timedelta(0)}],
)
async def test_numbers_that_make_no_sense_are_refused(url: str, wrong: dict[str, Any]) -> None:
    async with opened(url) as experiment:
        with pytest.raises(ConfigError, match="expected at least"):
            scheduler(experiment, Lab(), **{"trials": 1, **wrong})


# Leases and databases


async def test_a_trial_that_lost_its_lease_for_a_while_is_run_again(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Lab()
    genuine, down = claiming.extend, True

    def extend(connection: Connection, extensions: Sequence[Extension]) -> list[dict[int, int]]:
        if down:
            raise StorageUnavailable("the network is down")
        return genuine(connection, extensions)

    async def run(_: ScriptedEnv) -> None:
        if down:
            await anyio.sleep_forever()

    async def teardown(_: ScriptedEnv) -> None:
        nonlocal down
        down = False

    monkeypatch.setattr(claiming, "extend", extend)
    lab.on_run, lab.on_teardown = run, teardown
    async with opened(url) as experiment:
        engine = scheduler(experiment, lab, trials=1, lease=SHORT)
        with anyio.fail_after(5):
            with engine.events() as events:
                summary = await engine.run()
                told = [event for event in events.drain() if isinstance(event, TrialRetried)]
        record = await anext(experiment.trials())
    assert (summary.succeeded, record.attempt) == (1, 2)
    assert [event.trial.trial_id for event in told] == [1]


async def test_an_outcome_refused_by_the_database_once_is_stored_at_the_end(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, failed = Lab(), False
    genuine = Experiment.finish

    async def finish(self: Experiment, *args: Any, **kwargs: Any) -> None:
        nonlocal failed
        if not failed:
            failed = True
            raise StorageUnavailable("the disk is full") from OSError("errno 28")
        await genuine(self, *args, **kwargs)

    async def run(env: ScriptedEnv) -> None:
        if env.trial_id > 1:
            await forever()

    monkeypatch.setattr(Experiment, "finish", finish)
    lab.on_run = run
    async with opened(url) as experiment:
        with pytest.raises(StorageUnavailable, match="the disk is full") as caught:
            await scheduler(experiment, lab, trials=5, slots=3).run()
        found = await statuses(experiment)
        record = await anext(experiment.trials())
    assert isinstance(caught.value.__cause__, OSError), "where it came from is still known"
    assert record.metrics == {"score": 0}
    assert found[1] is Status.SUCCEEDED
    assert Status.RUNNING not in found.values()
    assert sorted(lab.steps("setup")) == sorted(lab.steps("teardown"))


async def test_two_failures_at_once_are_one_error(url: str) -> None:
    lab, both = Lab(), anyio.Event()

    async def setup(env: ScriptedEnv) -> None:
        if env.trial_id == 2:
            both.set()
        await both.wait()
        raise ConfigError(f"wrong in {env.trial_id}")

    lab.on_setup = setup
    async with opened(url) as experiment:
        with pytest.raises(ConfigError, match=r"wrong in \d"):
            await scheduler(experiment, lab, trials=2, slots=2).run()
        assert Status.RUNNING not in (await statuses(experiment)).values()


async def test_telemetry_the_database_did_not_take_is_written_with_the_outcome(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, failed = Lab(), anyio.Event()
    genuine = Experiment.record_many

    async def record_many(self: Experiment, batches: Any) -> list[StorageError | None]:
        if not failed.is_set():
            failed.set()
            raise StorageUnavailable("the disk is full")
        return await genuine(self, batches)

    async def run(env: ScriptedEnv) -> None:
        await env.emit("load", 0.5)
        await failed.wait()

    monkeypatch.setattr(Experiment, "record_many", record_many)
    lab.on_run = run
    async with opened(url) as experiment:
        with pytest.raises(StorageUnavailable):
            await scheduler(experiment, lab, trials=1).run()
        assert [sample.value for sample in await experiment.load_telemetry(1)] == [0.5]
        assert Status.RUNNING not in (await statuses(experiment)).values()


async def test_who_listens_too_late_hears_the_end_at_once(url: str) -> None:
    async with opened(url) as experiment:
        engine = scheduler(experiment, Lab(), trials=1)
        await engine.run()
        with anyio.fail_after(1):
            with engine.events() as events:
                assert [event async for event in events] == []
