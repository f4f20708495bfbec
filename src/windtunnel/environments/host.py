"""Starting and stopping the trial's host."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field

from windtunnel.environments.base import CommonOptions, Environment
from windtunnel.environments.hosts import remote_service
from windtunnel.model import RunResult, Status, utc_now
from windtunnel.protocols import HostOps

__all__ = ["HostEnv", "HostOptions"]


class HostOptions(CommonOptions):
    """The ``config`` of a HostEnv. How long each may take is an option of the host."""

    model_config = ConfigDict(extra="forbid")

    host: str = Field(default="$host", min_length=1, description="which one; default $host, the trial's")
    on_setup: Literal["start", "reboot"] = Field(
        default="start",
        description="start: unless it runs already; reboot: before every trial; default start",
    )
    on_teardown: Literal["leave", "stop", "reboot"] = Field(
        default="leave", description="reboot does not wait for the host; default leave"
    )


class HostEnv(Environment):
    """Has the trial's host running before the environments after it in a composite are set up.

    A run of it does nothing.
    """

    options_class = HostOptions
    options: HostOptions

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._operations: HostOps = remote_service(
            self._services,
            HostOps,  # type: ignore[type-abstract]  # a protocol is its own key
            asker="HostEnv",
        )

    @property
    def metrics(self) -> frozenset[str] | None:
        return frozenset()

    def _host(self) -> str:
        return self._expand(self.options.host)

    async def _setup(self) -> None:
        if self.options.on_setup == "reboot":
            await self._operations.reboot(self._host())
        else:
            await self._operations.start(self._host())

    async def _run(self) -> RunResult:
        return RunResult(Status.SUCCEEDED, utc_now(), {})

    async def _teardown(self) -> None:
        if self.options.on_teardown == "stop":
            await self._operations.stop(self._host())
        elif self.options.on_teardown == "reboot":
            await self._operations.reboot(self._host(), wait=False)
