"""What every environment must do. Subclass ``EnvironmentContract`` and say how yours is made."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import anyio.to_thread

from windtunnel.environments.base import Environment
from windtunnel.errors import HostUnreachable
from windtunnel.model import Sample, Status, utc_now
from windtunnel.protocols import HostFacts, RemoteExec
from windtunnel.tunables import TunableGroups

__all__ = ["TRIAL", "TUNABLES", "EnvironmentContract", "FakeHosts", "SampleList", "torn_down"]

TRIAL: dict[str, Any] = {"experiment_id": "e", "trial_id": 1, "trial_runner_id": 0, "host": "localhost"}
TUNABLES = TunableGroups(
    {
        "numbers": {
            "params": {
                "x": {"type": "int", "range": [0, 100], "default": 50},
                "y": {"type": "float", "range": [0.0, 1.0], "default": 0.5},
            }
        },
        "words": {"params": {"mode": {"type": "categorical", "values": ["off", "on"], "default": "off"}}},
    }
)


class SampleList:
    """A telemetry sink that keeps everything."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self.arrived = anyio.Event()

    async def emit(self, metric: str, value: float | str, timestamp: datetime | None = None) -> None:
        await self.emit_many([Sample(timestamp or utc_now(), metric, value)])

    async def emit_many(self, samples: Iterable[Sample]) -> None:
        self.samples += samples
        self.arrived.set()


@asynccontextmanager
async def torn_down(environment: Environment) -> AsyncIterator[Environment]:
    """Tear the environment down after the block, also when it is cancelled, as a scheduler does."""
    try:
        yield environment
    finally:
        with anyio.move_on_after(10, shield=True):
            await environment.teardown()


class EnvironmentContract(ABC):
    """The tests. A run must emit the sample ``seen`` and give the metric ``score``."""

    @abstractmethod
    def make(self) -> Environment:
        """An environment whose run ends by itself; it uses all of ``TUNABLES``."""

    @abstractmethod
    def make_endless(self) -> Environment:
        """One whose run emits ``seen`` and then never ends, unless it is cancelled."""

    async def test_parameters_are_none_before_setup_and_set_after_it(self) -> None:
        environment = self.make()
        assert [environment.parameters[name] for name in TUNABLES] == [None, None, None]
        async with torn_down(environment):
            assert await environment.setup(TUNABLES.assign({"x": 7}), TRIAL)
            assert environment.parameters["x"] == 7
            assert environment.tunable_params["x"] == 7

    async def test_run_gives_metrics_and_telemetry(self) -> None:
        sink = SampleList()
        async with torn_down(self.make()) as environment:
            assert await environment.setup(TUNABLES, TRIAL)
            with environment.streaming_to(sink):
                status, timestamp, metrics = await environment.run()
        assert status is Status.SUCCEEDED
        assert timestamp.utcoffset() == datetime.now(UTC).utcoffset()
        assert metrics is not None
        assert isinstance(metrics["score"], int | float)
        assert [sample.metric for sample in sink.samples] == ["seen"]
        assert sink.samples[0].timestamp.tzinfo is not None

    async def test_without_a_sink_status_hands_telemetry_over_once(self) -> None:
        async with torn_down(self.make()) as environment:
            assert await environment.setup(TUNABLES, TRIAL)
            await environment.run()
            assert [sample.metric for sample in (await environment.status()).telemetry] == ["seen"]
            assert (await environment.status()).telemetry == []

    async def test_run_before_setup_is_refused(self) -> None:
        environment = self.make()
        assert (await environment.run()).status is Status.PENDING
        assert environment.failure is not None
        assert "setup" in environment.failure

    async def test_setup_and_teardown_may_be_repeated(self) -> None:
        environment = self.make()
        await environment.teardown()
        assert await environment.setup(TUNABLES, TRIAL)
        assert await environment.setup(TUNABLES, TRIAL)
        assert (await environment.run()).status is Status.SUCCEEDED
        await environment.teardown()
        await environment.teardown()
        assert (await environment.run()).status is Status.PENDING

    async def test_it_serves_one_trial_after_the_other(self) -> None:
        environment = self.make()
        for x in (1, 2):
            async with torn_down(environment):
                assert await environment.setup(TUNABLES.assign({"x": x}), {**TRIAL, "trial_id": x})
                assert (await environment.run()).status is Status.SUCCEEDED

    async def test_setup_with_other_values_replaces_the_old_ones(self) -> None:
        async with torn_down(self.make()) as environment:
            assert await environment.setup(TUNABLES, TRIAL)
            assert await environment.setup(TUNABLES.assign({"x": 9}), TRIAL)
            assert environment.parameters["x"] == 9
            assert (await environment.run()).status is Status.SUCCEEDED

    async def test_status_follows_the_lifecycle(self) -> None:
        environment = self.make_endless()
        sink = SampleList()
        assert (await environment.status()).status is Status.PENDING
        async with torn_down(environment):
            assert await environment.setup(TUNABLES, TRIAL)
            assert (await environment.status()).status is Status.READY
            async with anyio.create_task_group() as group:
                with environment.streaming_to(sink):
                    group.start_soon(environment.run)
                    await sink.arrived.wait()
                    assert (await environment.status()).status is Status.RUNNING
                    group.cancel_scope.cancel()
        assert (await environment.status()).status is Status.PENDING

    async def test_cancelled_before_setup(self) -> None:
        environment = self.make()
        with anyio.CancelScope() as scope:
            async with torn_down(environment):
                scope.cancel()
                await environment.setup(TUNABLES, TRIAL)
                await environment.run()
        await self._serves_again(environment)

    async def test_cancelled_during_run(self) -> None:
        environment = self.make_endless()
        sink = SampleList()
        async with anyio.create_task_group() as group:

            async def trial() -> None:
                async with torn_down(environment):
                    assert await environment.setup(TUNABLES, TRIAL)
                    with environment.streaming_to(sink):
                        await environment.run()

            group.start_soon(trial)
            await sink.arrived.wait()
            group.cancel_scope.cancel()
        assert (await environment.status()).status is Status.PENDING
        assert await environment.setup(TUNABLES, TRIAL)
        await environment.teardown()

    async def test_a_run_that_was_cancelled_can_be_aborted(self) -> None:
        environment = self.make_endless()
        await environment.abort()
        sink = SampleList()
        async with torn_down(environment):
            assert await environment.setup(TUNABLES, TRIAL)
            async with anyio.create_task_group() as group:
                with environment.streaming_to(sink):
                    group.start_soon(environment.run)
                    await sink.arrived.wait()
                    group.cancel_scope.cancel()
            await environment.abort()
        assert environment.is_clean
        await environment.abort()
        assert await environment.setup(TUNABLES, TRIAL)
        await environment.teardown()

    async def test_cancelled_after_run(self) -> None:
        environment = self.make()
        with anyio.CancelScope() as scope:
            async with torn_down(environment):
                assert await environment.setup(TUNABLES, TRIAL)
                await environment.run()
                scope.cancel()
                await anyio.sleep_forever()
        await self._serves_again(environment)

    async def _serves_again(self, environment: Environment) -> None:
        async with torn_down(environment):
            assert await environment.setup(TUNABLES, TRIAL)
            assert (await environment.run()).status is Status.SUCCEEDED

    def test_pprint_indents(self) -> None:
        environment = self.make()
        assert environment.pprint(indent=2, level=1).startswith(f"  {type(environment).__name__} :: ")


class FakeHosts:
    """Notes what is asked of hosts; implements ``HostOps``.

    :ivar calls: such as ``reboot web``.
    :ivar on_reboot: called when a host is booted.
    :ivar fail: whether hosts cannot be reached any more.
    """

    def __init__(self, service: RemoteExec) -> None:
        self.service = service
        self.calls: list[str] = []
        self.on_reboot: Callable[[], object] = lambda: None
        self.fail = False

    async def start(self, host: str) -> None:
        self._call("start", host)

    async def stop(self, host: str) -> None:
        self._call("stop", host)

    async def reboot(self, host: str, *, wait: bool = True) -> None:
        self._call("reboot" if wait else "reboot without waiting for", host)
        await anyio.to_thread.run_sync(self.on_reboot)

    async def wait_until_reachable(
        self, host: str, *, timeout: timedelta | None = None, booted_since: str | None = None
    ) -> None:
        self._call("wait for", host)

    async def boot_id(self, host: str) -> str:
        return f"{host} {len(self.calls)}"

    async def facts(self, host: str) -> HostFacts:
        return HostFacts()

    def _call(self, what: str, host: str) -> None:
        self.calls.append(f"{what} {host}")
        if self.fail:
            raise HostUnreachable(host, "it is not there")
