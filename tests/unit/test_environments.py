"""The lifecycle in the base, parameters, the registry, FunctionEnv and MockEnv."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import anyio
import pytest

from windtunnel.environments import CommonOptions, Environment, FunctionEnv, MockEnv, environment_class
from windtunnel.environments.parameters import FixedParameters
from windtunnel.errors import ConfigError, EnvironmentFailed, ResultsInvalid, StepTimedOut
from windtunnel.model import RunResult, Status, utc_now
from windtunnel.testing.environments import TRIAL, TUNABLES, SampleList, torn_down
from windtunnel.tunables import TunableGroups


class Recorded(Environment):
    """Writes down which of its hooks were called, and fails where it is told."""

    def __init__(self, *, failing: str = "", error: Exception | None = None, **kwargs: Any) -> None:
        super().__init__(name="recorded", tunables=TUNABLES, **{"config": {}, **kwargs})
        self.calls: list[str] = []
        self.failing = failing
        self.error = error or EnvironmentFailed("told to fail")

    def _call(self, step: str) -> None:
        self.calls.append(step)
        if step == self.failing:
            raise self.error

    async def _setup(self) -> None:
        self._call("setup")

    async def _run(self) -> RunResult:
        self._call("run")
        return RunResult(Status.SUCCEEDED, utc_now(), {})

    async def _abort(self) -> None:
        self._call("abort")

    async def _teardown(self) -> None:
        self._call("teardown")


# The lifecycle


async def test_abort_concerns_a_begun_setup_only() -> None:
    environment = Recorded()
    await environment.abort()
    await environment.setup(TUNABLES, TRIAL)
    await environment.abort()
    await environment.teardown()
    await environment.abort()
    assert environment.calls == ["setup", "abort", "teardown"]


async def test_a_half_finished_setup_can_be_aborted() -> None:
    environment = Recorded(failing="setup")
    assert not await environment.setup(TUNABLES, TRIAL)
    await environment.abort()
    assert environment.calls == ["setup", "abort"]


async def test_a_failed_abort_leaves_the_teardown_due() -> None:
    environment = Recorded(failing="abort")
    await environment.setup(TUNABLES, TRIAL)
    with pytest.raises(EnvironmentFailed, match="told to fail"):
        await environment.abort()
    assert not environment.is_clean
    await environment.teardown()
    assert environment.is_clean


async def test_setup_is_skipped_for_the_same_values_only() -> None:
    environment = Recorded()
    assert await environment.setup(TUNABLES, TRIAL)
    assert await environment.setup(TUNABLES, {**TRIAL, "trial_id": 2})
    assert environment.calls == ["setup"]
    assert await environment.setup(TUNABLES.assign({"x": 1}), TRIAL)
    assert environment.calls == ["setup", "teardown", "setup"]


async def test_a_failed_setup_is_torn_down_and_can_be_repeated() -> None:
    environment = Recorded(failing="setup")
    assert not await environment.setup(TUNABLES, TRIAL)
    assert environment.failure == "told to fail"
    assert (await environment.run()).status is Status.PENDING
    environment.failing = ""
    assert await environment.setup(TUNABLES, TRIAL)
    assert environment.calls == ["setup", "teardown", "setup"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (EnvironmentFailed("no"), Status.FAILED),
        (StepTimedOut(step="run", seconds=1), Status.TIMED_OUT),
        (ResultsInvalid("no"), Status.FAILED),
    ],
)
async def test_a_failed_run_is_a_result(error: Exception, status: Status) -> None:
    environment = Recorded(failing="run", error=error)
    async with torn_down(environment):
        await environment.setup(TUNABLES, TRIAL)
        result = await environment.run()
    assert (result.status, result.metrics) == (status, None)
    assert environment.failure == str(error)


async def test_a_failed_teardown_stays_due() -> None:
    environment = Recorded(failing="teardown")
    await environment.setup(TUNABLES, TRIAL)
    with pytest.raises(EnvironmentFailed):
        await environment.teardown()
    environment.failing = ""
    await environment.teardown()
    await environment.teardown()
    assert environment.calls == ["setup", "teardown", "teardown"]


async def test_our_own_bugs_are_not_hidden() -> None:
    environment = Recorded(failing="setup", error=ZeroDivisionError("bug"))
    with pytest.raises(ZeroDivisionError):
        await environment.setup(TUNABLES, TRIAL)
    await environment.teardown()
    assert environment.calls == ["setup", "teardown"]


# Parameters


@pytest.mark.parametrize(
    ("chosen", "names"),
    [({}, {"x", "y", "mode"}), ({"tunable_params": ["words"]}, {"mode"}), ({"tunable_params": []}, set())],
)
def test_it_uses_the_groups_it_names_or_all(chosen: dict[str, Any], names: set[str]) -> None:
    environment = Recorded(config=chosen)
    assert environment.tunable_params.keys() == names
    assert environment.parameters == dict.fromkeys(names)


async def test_globals_override_constants_and_fill_required_ones() -> None:
    config = {"const_args": {"a": 1, "b": 2}, "required_args": ["c", "trial_id"], "tunable_params": []}
    environment = Recorded(config=config, global_config={"b": 20, "c": 30, "d": 40})
    assert environment.parameters == {"a": 1, "b": 20, "c": 30}
    await environment.setup(TUNABLES, {**TRIAL, "a": 10})
    assert environment.parameters == {"a": 10, "b": 20, "c": 30, "trial_id": 1}
    with pytest.raises(ConfigError, match="'trial_id'"):
        await environment.setup(TUNABLES)


async def test_names_expand_when_the_trial_begins() -> None:
    config = {
        "const_args": {"label": "t-$trial_id-${mode}", "copy": "$x"},
        "tunable_params": ["numbers", "words"],
    }
    environment = Recorded(config=config)
    assert environment.parameters["label"] == "t-$trial_id-${mode}"
    await environment.setup(TUNABLES, TRIAL)
    assert environment.parameters["label"] == "t-1-off"
    assert environment.parameters["copy"] == 50


@pytest.mark.parametrize(
    ("constants", "given", "values"),
    [
        ({"a": "$g"}, {"g": 5}, {"a": 5}),
        ({"a": "$g!"}, {"g": 5}, {"a": "5!"}),
        ({"a": "$b", "b": "$c", "c": 1}, {}, {"a": 1, "b": 1, "c": 1}),
        ({"a": "$b", "b": 2}, {"b": 3}, {"a": 3, "b": 3}),
        ({"a": "$a"}, {"a": 4}, {"a": 4}),
        ({"a": ["$g", 1], "b": {"k": "$g"}}, {"g": 5}, {"a": [5, 1], "b": {"k": 5}}),
        ({"a": "$$g $$"}, {"g": 5}, {"a": "$g $"}),
    ],
)
def test_constants_may_name_each_other(
    constants: dict[str, Any], given: dict[str, Any], values: dict[str, Any]
) -> None:
    assert FixedParameters(constants, ()).values(given, {}) == values


def test_constants_may_not_run_in_circles() -> None:
    with pytest.raises(ConfigError, match=r"in a circle: (a → b → a|b → a → b)"):
        FixedParameters({"a": "$b", "b": "$a"}, ()).values({}, {})


# The registry


@pytest.mark.parametrize("name", ["CompositeEnv", "FunctionEnv", "LocalEnv", "MockEnv"])
def test_short_names(name: str) -> None:
    assert environment_class(name).__name__ == name


def test_dotted_paths() -> None:
    assert environment_class("windtunnel.environments.mock.MockEnv") is MockEnv
    assert environment_class("windtunnel.environments.mock:MockEnv") is MockEnv


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("MockEnvv", "did you mean 'MockEnv'"),
        (".MockEnv", "unknown environment class '.MockEnv'; did you mean 'MockEnv'"),
        ("mock..MockEnv", "unknown environment class 'mock..MockEnv'"),
        ("no_such_package.Env", "no module 'no_such_package'"),
        ("windtunnel.no_such_module.Env", "no module 'windtunnel.no_such_module'"),
        ("windtunnel.environments.mock.MokEnv", "did you mean 'MockEnv'"),
        ("windtunnel.model.Status", "not a subclass"),
        ("windtunnel.environments.base.Environment", "does not define _run"),
        ("broken_module.Env", "ZeroDivisionError: division by zero"),
    ],
)
def test_unknown_classes(name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_module.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=message) as caught:
        Environment.new(env_name="x", class_name=name, config={})
    assert caught.value.path == ("class",)


def test_classes_without_options_of_their_own_keep_all_keys() -> None:
    environment = Recorded(config={"anything": 1})
    assert isinstance(environment.options, CommonOptions)
    assert environment.options.model_extra == {"anything": 1}
    assert environment.pprint(indent=2, level=2) == "    Recorded :: 'recorded'"


# FunctionEnv


async def outcome(function: Any, **kwargs: Any) -> tuple[RunResult, FunctionEnv, SampleList]:
    environment = FunctionEnv(name="f", config={}, tunables=TUNABLES, function=function, **kwargs)
    sink = SampleList()
    async with torn_down(environment):
        assert await environment.setup(TUNABLES, TRIAL)
        with environment.streaming_to(sink):
            return await environment.run(), environment, sink


class Bench:
    async def __call__(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return {"x": params["x"]}

    def method(self, params: Mapping[str, Any], emit: Any) -> dict[str, Any]:
        emit("seen", 1)
        return {"x": params["x"]}


async def _scaled(factor: int, params: Mapping[str, Any]) -> dict[str, Any]:
    return {"x": params["x"] * factor}


@pytest.mark.parametrize(
    "function",
    [
        Bench(),
        Bench().method,
        partial(_scaled, 1),
        lambda params: {"x": params["x"]},
        lambda p: _scaled(1, p),
    ],
)
async def test_any_callable_works(function: Any) -> None:
    result, environment, _ = await outcome(function)
    assert (result.status, result.metrics) == (Status.SUCCEEDED, {"x": 50}), environment.failure


async def test_none_means_no_metrics() -> None:
    assert (await outcome(lambda params: None))[0].metrics == {}


async def test_a_plain_function_emits_from_its_thread() -> None:
    threads = []

    def function(params: Mapping[str, Any], emit: Any) -> None:
        threads.append(threading.current_thread())
        emit("a", 1)
        emit("b", 2.5, utc_now())

    _, _, sink = await outcome(function)
    assert [sample[1:] for sample in sink.samples] == [("a", 1), ("b", 2.5)]
    assert threads != [threading.main_thread()]


async def test_an_async_function_emits() -> None:
    async def function(params: Mapping[str, Any], emit: Any) -> None:
        await emit("a", 1)

    _, _, sink = await outcome(function)
    assert [sample[1:] for sample in sink.samples] == [("a", 1)]


@pytest.mark.parametrize("returned", [1.5, "text", [1], {"a": None}, {"a": [1]}, {1: 2}])
async def test_what_is_no_metrics_fails_the_trial(returned: object) -> None:
    result, environment, _ = await outcome(lambda params: returned)
    assert result.status is Status.FAILED
    assert environment.failure is not None
    assert "expected" in environment.failure


async def test_foreign_numbers_become_plain_ones() -> None:
    class Number(float):
        pass

    result, _, _ = await outcome(lambda params: {"a": Number(1.5), "b": True})
    assert result.metrics == {"a": 1.5, "b": True}
    assert type(result.metrics["a"]) is float


async def test_an_exception_is_told_with_its_place() -> None:
    async def function(params: Mapping[str, Any]) -> None:
        raise LookupError("nothing there")

    line = function.__code__.co_firstlineno + 1
    result, environment, _ = await outcome(function)
    assert result.status is Status.FAILED
    assert environment.failure == f"run failed: LookupError: nothing there ({__file__}:{line})"


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_function_that_exits_ends_its_trial_and_nothing_else(is_async: bool) -> None:
    async def exits(params: Mapping[str, Any]) -> None:
        sys.exit("no server")

    result, environment, _ = await outcome(exits if is_async else lambda params: sys.exit("no server"))
    assert result.status is Status.FAILED
    assert environment.failure is not None
    assert environment.failure.startswith("run failed: SystemExit: no server (")


async def test_a_cancelled_thread_is_left_and_cannot_emit_any_more() -> None:
    begun, go_on, refused = threading.Event(), threading.Event(), threading.Event()

    def function(params: Mapping[str, Any], emit: Any) -> None:
        begun.set()
        go_on.wait(10)
        try:
            emit("late", 1)
        except RuntimeError:
            refused.set()

    environment = FunctionEnv(name="f", config={}, tunables=TUNABLES, function=function)
    async with torn_down(environment), anyio.create_task_group() as group:
        await environment.setup(TUNABLES, TRIAL)
        group.start_soon(environment.run)
        assert await anyio.to_thread.run_sync(begun.wait, 10)
        group.cancel_scope.cancel()
    go_on.set()
    assert await anyio.to_thread.run_sync(refused.wait, 10)
    assert (await environment.status()).telemetry == []


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (None, "no function was given"),
        ("nodots", "expected package.module:callable"),
        ("no_such_package:f", "no module"),
        ("math:nope", "has no 'nope'"),
        ("math:pi", "is not callable"),
    ],
)
def test_functions_named_in_files(path: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        FunctionEnv(name="f", config={"function": path} if path else {})
    assert caught.value.path == ("config", "function")


def test_a_function_must_take_the_parameters() -> None:
    with pytest.raises(ConfigError, match="must take the parameters"):
        FunctionEnv(name="f", config={}, function=lambda: None)
    with pytest.raises(ConfigError, match="expected a function, found 5"):
        FunctionEnv(name="f", config={}, function=cast("Any", 5))


# MockEnv


async def mocked(tunables: TunableGroups = TUNABLES, trial_id: int = 1, **config: Any) -> RunResult:
    environment = MockEnv(name="m", config=config, tunables=tunables)
    async with torn_down(environment):
        assert await environment.setup(tunables, {**TRIAL, "trial_id": trial_id})
        return await environment.run()


@pytest.mark.parametrize(
    ("values", "score"),
    [
        ({"x": 0, "y": 0.0, "mode": "off"}, 0.0),
        ({"x": 100, "y": 1.0, "mode": "on"}, 1.0),
        ({"x": 50, "y": 0.5, "mode": "off"}, 0.5 / 3),
    ],
)
async def test_the_score_is_the_mean_of_squared_positions(values: dict[str, Any], score: float) -> None:
    assert (await mocked(TUNABLES.assign(values))).metrics == {"score": pytest.approx(score)}
    scaled = await mocked(TUNABLES.assign(values), mock_env_range=[10, 20], mock_env_metrics=["a", "b"])
    assert scaled.metrics == {"a": pytest.approx(10 + 10 * score), "b": pytest.approx(10 + 10 * score)}


async def test_a_special_value_outside_the_range_is_at_its_end() -> None:
    config = {"type": "int", "range": [10, 20], "special": [-1, 99], "default": 15}
    tunables = TunableGroups({"g": {"params": {"x": config}}})
    scores = [(await mocked(tunables.assign({"x": x}))).metrics for x in (-1, 99)]
    assert scores == [{"score": 0.0}, {"score": 1.0}]


async def test_one_category_and_no_tunables_work() -> None:
    only = TunableGroups({"g": {"params": {"c": {"type": "categorical", "values": ["a"], "default": "a"}}}})
    assert (await mocked(only)).metrics == {"score": 0.0}
    assert (await mocked(TunableGroups({}))).metrics == {"score": 0.0}


async def test_noise_is_repeatable_for_a_trial_and_differs_between_trials() -> None:
    first = (await mocked(mock_env_seed=3)).metrics
    assert first == (await mocked(mock_env_seed=3)).metrics
    assert first != (await mocked(mock_env_seed=3, trial_id=2)).metrics
    assert first != (await mocked(mock_env_seed=4)).metrics
    assert (await mocked(mock_env_seed=-1)).metrics == (await mocked()).metrics


async def test_it_fails_on_request() -> None:
    assert (await mocked(fail=True)).status is Status.FAILED
    assert (await mocked(fail=0)).status is Status.SUCCEEDED
    outcomes = {(await mocked(fail=0.5, trial_id=i)).status for i in range(30)}
    assert outcomes == {Status.FAILED, Status.SUCCEEDED}
    environment = MockEnv(name="m", config={"fail_setup": True}, tunables=TUNABLES)
    assert not await environment.setup(TUNABLES, TRIAL)
    assert environment.failure == "setup failed, as fail_setup asks"


async def test_a_run_takes_its_duration() -> None:
    began = anyio.current_time()
    await mocked(duration="50ms", telemetry=4)
    assert anyio.current_time() - began >= 0.05


@pytest.mark.parametrize(
    "config", [{"fail": 2}, {"mock_env_range": [1, 1]}, {"telemetry": -1}, {"durations": 1}]
)
def test_bad_mock_options(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        MockEnv(name="m", config=config)


async def test_a_configuration_error_of_the_users_function_fails_its_trial_only() -> None:
    async def bench(_params: dict[str, Any]) -> None:
        raise ConfigError("their own, not ours")

    env = FunctionEnv(name="f", config={}, function=bench)
    await env.setup(TunableGroups({}))
    result = await env.run()
    assert result.status is Status.FAILED
    assert env.failure is not None
    assert "ConfigError: their own, not ours" in env.failure
