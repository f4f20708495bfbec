"""The contract of environments, over all of ours."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio

from windtunnel.environments import CompositeEnv, Environment, FunctionEnv, LocalEnv, MockEnv
from windtunnel.protocols import LocalExec, Services
from windtunnel.services.local_exec import LocalExecService
from windtunnel.testing.environments import TUNABLES, EnvironmentContract

Emit = Callable[..., Awaitable[None]]

SERVICES = Services({LocalExec: LocalExecService()})
SCRIPT: dict[str, Any] = {
    "shell_env_params": ["x"],
    "setup": ["echo 1 > made"],
    "run": ["cat made > /dev/null", 'echo "seen=$x"', 'echo "score: $x"'],
    "teardown": ["rm made"],
    "telemetry_stdout_pattern": r"^(?P<metric>seen)=(?P<value>\S+)$",
    "results_stdout_pattern": r"^(?P<metric>score): (?P<value>\S+)$",
}
ENDLESS = {**SCRIPT, "run": ["echo seen=1", "sleep 1000"]}


class TestMock(EnvironmentContract):
    def make(self) -> Environment:
        config = {"telemetry": 1, "mock_env_metrics": ["score"]}
        return _Renamed(name="mock", config=config, tunables=TUNABLES)

    def make_endless(self) -> Environment:
        return _Renamed(name="mock", config={"telemetry": 1, "hang": True}, tunables=TUNABLES)


class _Renamed(MockEnv):
    """Emits under the name that the contract expects."""

    async def _emit(self, samples: Any) -> None:
        await super()._emit([sample._replace(metric="seen") for sample in samples])


class TestFunction(EnvironmentContract):
    def make(self) -> Environment:
        async def function(params: Mapping[str, Any], emit: Emit) -> dict[str, Any]:
            await emit("seen", 1)
            return {"score": params["x"]}

        return FunctionEnv(name="function", config={}, tunables=TUNABLES, function=function)

    def make_endless(self) -> Environment:
        async def function(params: Mapping[str, Any], emit: Emit) -> None:
            await emit("seen", 1)
            await anyio.sleep_forever()

        return FunctionEnv(name="function", config={}, tunables=TUNABLES, function=function)


class TestLocal(EnvironmentContract):
    def make(self) -> Environment:
        return LocalEnv(name="local", config=SCRIPT, tunables=TUNABLES, service=SERVICES)

    def make_endless(self) -> Environment:
        return LocalEnv(name="local", config=ENDLESS, tunables=TUNABLES, service=SERVICES)


class TestComposite(EnvironmentContract):
    def make(self) -> Environment:
        return self._make(SCRIPT)

    def make_endless(self) -> Environment:
        return self._make(ENDLESS)

    def _make(self, script: dict[str, Any]) -> Environment:
        children = [{"class": "MockEnv", "config": {}}, {"class": "LocalEnv", "config": script}]
        return CompositeEnv(name="both", config={"children": children}, tunables=TUNABLES, service=SERVICES)
