"""Children on the hosts of a role, several at once, and environments that start hosts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from windtunnel.environments import CompositeEnv, Environment, HostEnv
from windtunnel.environments.together import at_once
from windtunnel.errors import ConfigError, EnvironmentFailed, HostFailed, HostUnreachable, MissingService
from windtunnel.model import RunResult, Sample, Status, StatusReport, utc_now
from windtunnel.protocols import HostOps, Services
from windtunnel.services.ssh import SshService
from windtunnel.testing.environments import TRIAL, TUNABLES, FakeHosts, SampleList, torn_down

CALLS: list[str] = []
ROLES = {
    "host": "s1",
    "server_hosts": "s1",
    "server_addresses": "10.0.0.1",
    "client_hosts": "c1,c2",
    "client_addresses": "10.0.0.2,10.0.0.3",
}


@pytest.fixture(autouse=True)
def calls() -> Iterator[list[str]]:
    yield CALLS
    CALLS.clear()


class Child(Environment):
    """Notes its calls with its host; ``fail`` and ``hang`` in its config name steps and hosts."""

    async def _step(self, step: str) -> None:
        call = f"{step} {self._expand('$host $trial_id')}"
        CALLS.append(call)
        extra = self.options.model_extra or {}
        for what in extra.get("hang", []):
            if call.startswith(what):
                await anyio.sleep_forever()
        for what in extra.get("fail", []):
            if call.startswith(what):
                raise EnvironmentFailed(f"{call} failed")
        for what in extra.get("lose", []):
            if call.startswith(what):
                raise HostUnreachable(str(self._overlay["host"]), "gone")

    async def _setup(self) -> None:
        await self._step("setup")

    async def _run(self) -> RunResult:
        await self._step("run")
        await self._emit([Sample(utc_now(), "seen", 1)])
        index = self._overlay.get("host_index", 9)
        return RunResult(
            Status.SUCCEEDED, utc_now(), {"n": index, "text": "x", **({"odd": 1} if index else {})}
        )

    async def _status(self) -> StatusReport:
        return StatusReport(Status.RUNNING, utc_now(), [Sample(utc_now(), "polled", 1)])

    async def _abort(self) -> None:
        await self._step("abort")

    async def _teardown(self) -> None:
        await self._step("teardown")


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "windtunnel.environments.registry.imported", lambda path: globals()[path.rpartition(".")[2]]
    )


def child(on: str | None = None, aggregate: object = None, **config: Any) -> dict[str, Any]:
    given = {"class": f"{__name__}.Child", "name": "child", "config": config, "on": on}
    return given if aggregate is None else {**given, "aggregate": aggregate}


def make(*children: dict[str, Any], **config: Any) -> CompositeEnv:
    return CompositeEnv(
        name="all",
        config={"children": list(children), **config},
        tunables=TUNABLES,
        global_config=ROLES,
    )


async def metrics_of(environment: Environment) -> dict[str, Any]:
    async with torn_down(environment):
        assert await environment.setup(TUNABLES, TRIAL), environment.failure
        result = await environment.run()
        assert result.metrics is not None, environment.failure
        return result.metrics


async def test_each_child_is_on_its_hosts_whatever_the_trials_own_is() -> None:
    await metrics_of(make(child(), child("server"), child("client")))
    assert CALLS[:2] == ["setup localhost 1", "setup s1 1"]
    assert sorted(CALLS[2:4]) == ["setup c1 1", "setup c2 1"]
    assert sorted(CALLS[-4:-2]) == ["teardown c1 1", "teardown c2 1"]
    assert CALLS[-2:] == ["teardown s1 1", "teardown localhost 1"]


async def test_the_next_trial_is_heard_of_on_all_hosts() -> None:
    environment = make(child("client"))
    async with torn_down(environment):
        assert await environment.setup(TUNABLES, TRIAL)
        assert await environment.setup(TUNABLES, {**TRIAL, "trial_id": 2})
        await environment.run()
    assert sorted(CALLS) == [
        *(f"run c{n} 2" for n in (1, 2)),
        *(f"setup c{n} 1" for n in (1, 2)),
        *(f"teardown c{n} 2" for n in (1, 2)),
    ]


@pytest.mark.parametrize(
    ("aggregate", "plain"),
    [
        (None, {}),
        ("mean", {"n": 0.5}),
        ({"n": "sum", "text": "max"}, {"n": 1}),
        ({"*": "min", "n": "max"}, {"n": 1}),
    ],
)
async def test_metrics_have_the_hosts_index_and_perhaps_a_plain_name(
    aggregate: object, plain: dict[str, float]
) -> None:
    """What is no number, or not of all hosts, has no aggregate."""
    indexed = {"n.0": 0, "n.1": 1, "text.0": "x", "text.1": "x", "odd.1": 1}
    assert await metrics_of(make(child("client", aggregate))) == {**indexed, **plain}


async def test_one_host_needs_no_index() -> None:
    assert await metrics_of(make(child("server", "sum"))) == {"n": 0, "text": "x"}


async def test_telemetry_has_the_hosts_index() -> None:
    environment, sink = make(child("client")), SampleList()
    async with torn_down(environment):
        assert await environment.setup(TUNABLES, TRIAL)
        with environment.streaming_to(sink):
            await environment.run()
        assert sorted(sample.metric for sample in sink.samples) == ["seen.0", "seen.1"]
        await environment.run()
        found = [sample.metric for sample in (await environment.status()).telemetry]
    assert sorted(found) == ["polled.0", "polled.1", "seen.0", "seen.1"]


@pytest.mark.parametrize("step", ["setup", "run"])
async def test_the_first_that_fails_has_the_others_cancelled(step: str) -> None:
    environment = make(child("client", fail=[f"{step} c2"], hang=[f"{step} c1"]))
    with anyio.fail_after(5):
        async with torn_down(environment):
            if await environment.setup(TUNABLES, TRIAL):
                assert (await environment.run()).status is Status.FAILED
            assert environment.failure == f"child on client: child.1: {step} c2 1 failed"
    assert sorted(CALLS[-2:]) == ["teardown c1 1", "teardown c2 1"]


@pytest.mark.parametrize("step", ["setup", "run"])
async def test_a_lost_host_is_raised_by_name(step: str) -> None:
    environment = make(child("client", lose=[f"{step} c2"], hang=[f"{step} c1"]))

    async def trial() -> None:
        async with torn_down(environment):
            await environment.setup(TUNABLES, TRIAL)
            await environment.run()

    with anyio.fail_after(5), pytest.raises(HostFailed) as caught:
        await trial()
    assert caught.value.host == "c2"
    assert sorted(CALLS[-2:]) == ["teardown c1 1", "teardown c2 1"]


@pytest.mark.parametrize("step", ["abort", "teardown"])
async def test_every_host_has_its_turn_though_another_fails(step: str) -> None:
    environment = make(child("client", fail=[f"{step} c1"]))
    assert await environment.setup(TUNABLES, TRIAL)
    with pytest.raises(EnvironmentFailed, match=f"{step} c1 1 failed"):
        await (environment.abort() if step == "abort" else environment.teardown())
    assert sorted(CALLS[2:]) == [f"{step} c1 1", f"{step} c2 1"]


async def test_concurrent_children_all_end_or_none_does() -> None:
    waiting = anyio.Event()

    async def first() -> int:
        await waiting.wait()
        return 1

    async def second() -> int:
        waiting.set()
        return 2

    assert await at_once([first, second]) == [1, 2]
    environment = make(child("server", hang=["run"]), child(fail=["run"]), concurrent=True)
    with anyio.fail_after(5):
        async with torn_down(environment):
            assert await environment.setup(TUNABLES, TRIAL)
            assert (await environment.run()).status is Status.FAILED
    assert environment.failure == "child: run localhost 1 failed"


async def test_a_host_that_failed_explains_the_other_errors() -> None:
    seen = anyio.Event()

    async def symptom() -> None:
        seen.set()
        raise EnvironmentFailed("no answer")

    async def cause() -> None:
        try:
            await seen.wait()
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            raise HostUnreachable("web", "gone") from None

    with pytest.raises(HostUnreachable) as caught:
        await at_once([symptom, cause])
    assert caught.value.__notes__ == ["and then: no answer"]


async def test_cancelling_ends_all() -> None:
    environment = make(child("client", hang=["run"]), concurrent=True)
    async with torn_down(environment):
        assert await environment.setup(TUNABLES, TRIAL)
        with anyio.move_on_after(0):
            await environment.run()
    assert environment.is_clean


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on": "sevrer"}, "did you mean 'server'"),
        ({"on": "client", "aggregate": "median"}, "expected 'mean', 'sum', 'min' or 'max'"),
    ],
)
def test_wrong_roles_and_aggregates_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make({**child(), **options})


# HostEnv


@pytest.mark.parametrize(
    ("config", "calls"),
    [
        ({}, ["start web"]),
        ({"on_setup": "reboot", "on_teardown": "stop"}, ["reboot web", "stop web"]),
        ({"host": "$other", "on_teardown": "reboot"}, ["start db", "reboot without waiting for db"]),
    ],
)
async def test_hosts_are_started_and_stopped_around_a_trial(config: dict[str, Any], calls: list[str]) -> None:
    hosts = FakeHosts(SshService())
    environment = HostEnv(
        name="host",
        config=config,
        service=Services({HostOps: hosts}),
        global_config={"other": "db"},
    )
    async with torn_down(environment):
        assert await environment.setup(TUNABLES, {**TRIAL, "host": "web"})
        assert (await environment.run()).metrics == {}
        # Ready with these values, it does nothing.
        assert await environment.setup(TUNABLES, {**TRIAL, "host": "web"})
    assert hosts.calls == calls


async def test_a_host_that_does_not_start_has_failed() -> None:
    hosts = FakeHosts(SshService())
    hosts.fail = True
    environment = HostEnv(name="host", config={}, service=Services({HostOps: hosts}))
    with pytest.raises(HostUnreachable):
        await environment.setup(TUNABLES, {**TRIAL, "host": "web"})
    await environment.teardown()


def test_hosts_need_somebody_who_starts_them() -> None:
    with pytest.raises(MissingService, match="HostEnv works on other hosts"):
        HostEnv(name="host", config={})
