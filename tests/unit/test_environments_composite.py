"""CompositeEnv: order, failure, sharing, cancellation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from windtunnel.environments import CompositeEnv, Environment
from windtunnel.errors import ConfigError, EnvironmentFailed
from windtunnel.model import RunResult, Sample, Status, StatusReport, utc_now
from windtunnel.testing.environments import TRIAL, TUNABLES, SampleList, torn_down

CALLS: list[str] = []
SCOPE: list[anyio.CancelScope] = []
"""The scope that a hanging step cancels."""


@pytest.fixture(autouse=True)
def calls() -> Iterator[list[str]]:
    yield CALLS
    CALLS.clear()
    SCOPE.clear()


class Child(Environment):
    """Notes its calls; ``fail`` and ``hang`` in its config name steps."""

    async def _step(self, step: str) -> None:
        CALLS.append(f"{step} {self.name}")
        extra = self.options.model_extra or {}
        if extra.get("hang") == step:
            SCOPE[-1].cancel()
            await anyio.sleep_forever()
        if step in extra.get("fail", []):
            raise EnvironmentFailed(f"{step} of {self.name} failed")

    async def _setup(self) -> None:
        await self._step("setup")

    async def _run(self) -> RunResult:
        await self._step("run")
        await self._emit([Sample(utc_now(), self.name, 1)])
        return RunResult(Status.SUCCEEDED, utc_now(), {self.name: 1, "last": self.name})

    async def _abort(self) -> None:
        await self._step("abort")

    async def _teardown(self) -> None:
        await self._step("teardown")


class Polled(Child):
    async def _status(self) -> StatusReport:
        return StatusReport(Status.FAILED, utc_now(), [Sample(utc_now(), "polled", 1)])


def child(name: str, kind: type[Environment] = Child, **config: Any) -> dict[str, Any]:
    return {"class": f"{__name__}.{kind.__name__}", "name": name, "config": config}


def make(
    *children: dict[str, Any], global_config: dict[str, Any] | None = None, **config: Any
) -> CompositeEnv:
    return CompositeEnv(
        name="all",
        config={"children": list(children), **config},
        tunables=TUNABLES,
        global_config=global_config,
    )


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Test modules are not packages; the registry must find the classes above all the same."""
    monkeypatch.setattr(
        "windtunnel.environments.registry.imported", lambda path: globals()[path.rpartition(".")[2]]
    )


async def test_order_and_merged_results() -> None:
    environment = make(child("a"), child("b"))
    sink = SampleList()
    async with torn_down(environment):
        assert await environment.setup(TUNABLES, TRIAL)
        with environment.streaming_to(sink):
            result = await environment.run()
    assert result.metrics == {"a": 1, "b": 1, "last": "b"}
    assert [sample.metric for sample in sink.samples] == ["a", "b"]
    assert CALLS == ["setup a", "setup b", "run a", "run b", "teardown b", "teardown a"]


async def test_setup_stops_at_the_first_failure_and_what_began_is_torn_down() -> None:
    environment = make(child("a"), child("b", fail=["setup"]), child("c"))
    async with torn_down(environment):
        assert not await environment.setup(TUNABLES, TRIAL)
        assert environment.failure == "b: setup of b failed"
    assert CALLS == ["setup a", "setup b", "teardown b", "teardown a"]


async def test_run_stops_at_the_first_failure() -> None:
    environment = make(child("a"), child("b", fail=["run"]), child("c"))
    async with torn_down(environment):
        assert await environment.setup(TUNABLES, TRIAL)
        result = await environment.run()
    assert (result.status, result.metrics) == (Status.FAILED, None)
    assert environment.failure == "b: run of b failed"
    assert CALLS[3:] == ["run a", "run b", "teardown c", "teardown b", "teardown a"]


@pytest.mark.parametrize("step", ["abort", "teardown"])
async def test_every_child_has_its_turn_in_reverse_though_others_fail(step: str) -> None:
    environment = make(child("a", fail=[step]), child("b"), child("c", fail=[step]))
    await environment.setup(TUNABLES, TRIAL)
    with pytest.raises(EnvironmentFailed, match=f"{step} of c failed") as caught:
        await (environment.abort() if step == "abort" else environment.teardown())
    assert caught.value.__notes__ == [f"and then: {step} of a failed"]
    assert CALLS[3:] == [f"{step} c", f"{step} b", f"{step} a"]


async def test_children_that_were_not_begun_are_not_aborted() -> None:
    environment = make(child("a"), child("b", fail=["setup"]), child("c"))
    await environment.setup(TUNABLES, TRIAL)
    await environment.abort()
    assert CALLS == ["setup a", "setup b", "abort b", "abort a"]


@pytest.mark.parametrize("step", ["setup", "run", "abort", "teardown"])
async def test_cancelled_during(step: str) -> None:
    environment = make(child("a"), child("b", hang=step), child("c"))
    with anyio.CancelScope() as scope:
        SCOPE.append(scope)
        try:
            await environment.setup(TUNABLES, TRIAL)
            await environment.run()
        finally:
            for undo in (environment.abort, environment.teardown):
                with anyio.CancelScope(shield=True) as grace:
                    SCOPE.append(grace)
                    await undo()
    begun = {"setup": "ba"}.get(step, "cba")
    for name in ("abort", "teardown"):
        assert [call for call in CALLS if call.startswith(name)] == [f"{name} {n}" for n in begun]


async def test_cancelled_before_setup_and_after_run() -> None:
    environment = make(child("a"), child("b"))
    for cancel_first in (True, False):
        with anyio.CancelScope() as scope:
            async with torn_down(environment):
                if cancel_first:
                    scope.cancel()
                    await anyio.lowlevel.checkpoint()
                await environment.setup(TUNABLES, TRIAL)
                await environment.run()
                scope.cancel()
                await anyio.lowlevel.checkpoint()
    assert CALLS == ["setup a", "setup b", "run a", "run b", "teardown b", "teardown a"]


async def test_parameters_flow_from_parent_and_earlier_children() -> None:
    environment = make(
        child("a", const_args={"port": 5432, "own": "a"}, tunable_params=["numbers"]),
        child(
            "b",
            required_args=["port", "top", "x"],
            const_args={"own": "b", "url": "$own:$port", "top2": "$top"},
        ),
        const_args={"top": "$trial_id"},
    )
    first, second = environment.children
    assert second.parameters["port"] == 5432
    async with torn_down(environment):
        assert await environment.setup(TUNABLES, TRIAL)
        assert second.parameters == {
            "port": 5432,
            "top": 1,
            "own": "b",
            "url": "b:5432",
            "top2": 1,
            **TUNABLES,
        }
        assert first.parameters == {"port": 5432, "own": "a", "x": 50, "y": 0.5}
        assert environment.parameters == {**second.parameters, **first.parameters}
        assert environment.tunable_params == TUNABLES


async def test_globals_reach_the_children_and_win() -> None:
    environment = make(child("a", const_args={"port": 1}), global_config={"port": 2}, const_args={"port": 3})
    assert environment.children[0].parameters["port"] == 2


async def test_the_same_values_do_nothing_and_others_set_all_up_anew() -> None:
    environment = make(child("a", tunable_params=["numbers"]), child("b", tunable_params=["words"]))
    async with torn_down(environment):
        assert await environment.setup(TUNABLES, TRIAL)
        assert await environment.setup(TUNABLES, {**TRIAL, "trial_id": 2})
        assert CALLS == ["setup a", "setup b"]
        assert await environment.setup(TUNABLES.assign({"mode": "on"}), TRIAL)
        assert environment.children[1].parameters["mode"] == "on"
        assert CALLS[2:] == ["teardown b", "teardown a", "setup a", "setup b"]


async def test_status_merges_the_children() -> None:
    quiet, polled = make(child("a")), make(child("a"), child("p", Polled))
    assert not quiet.is_polled
    assert polled.is_polled
    report = await polled.status()
    assert report.status is Status.FAILED
    assert [sample.metric for sample in report.telemetry] == ["polled"]


def test_pprint_shows_the_tree() -> None:
    environment = make(child("a"), {"class": "CompositeEnv", "config": {"children": [child("b")]}})
    assert environment.pprint(indent=2) == (
        "CompositeEnv :: 'all'\n  Child :: 'a'\n  CompositeEnv :: 'CompositeEnv'\n    Child :: 'b'"
    )


@pytest.mark.parametrize(
    ("children", "path"),
    [
        ([], ("config", "children")),
        ([{"class": "Nope"}], ("config", "children", 0, "class")),
        ([{"klass": "MockEnv"}], ("config", "children", 0, "klass")),
        ([child("a"), {"class": "MockEnv", "config": {"x": 1}}], ("config", "children", 1, "config", "x")),
        ([child("a", tunable_params=["nope"])], ("config", "children", 0, "config", "tunable_params")),
    ],
)
def test_errors_lead_to_the_child(children: list[dict[str, Any]], path: tuple[Any, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        make(*children)
    assert caught.value.path == path
