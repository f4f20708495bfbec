"""Scripts on the host that the trial was given."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import Field

from windtunnel.environments.hosts import remote_service
from windtunnel.environments.script_options import ScriptOptions, Transfers
from windtunnel.environments.scripts import ScriptEnv
from windtunnel.environments.sites import RemoteSite
from windtunnel.model import RunResult
from windtunnel.options import Duration, expand
from windtunnel.protocols import FileShare, HostOps, RemoteExec

__all__ = ["RemoteEnv", "RemoteOptions"]


class RemoteOptions(ScriptOptions):
    """The ``config`` of a RemoteEnv. Files of the host are relative to the trial's directory there."""

    host: str = Field(default="$host", min_length=1, description="where to run; default $host, the trial's")
    wait_boot: bool = Field(
        default=False, description="wait before set-up until the host can be reached; default false"
    )
    boot_timeout: Duration = Field(
        default=timedelta(minutes=5), description="limit of that wait; default 5min"
    )
    upload: Transfers = Field(
        default=(),
        description="files to bring there before setup, from beside the config; default none",
    )
    download: Transfers = Field(
        default=(), description="files to fetch after run, to beside the config; default none"
    )


class RemoteEnv(ScriptEnv):
    """Runs scripts on the trial's host; see ``ScriptEnv``.

    A trial whose host is lost fails with HostFailed, in whatever step it is; its teardown lines are then not
    run, but what its scripts left there is ended.
    """

    options_class = RemoteOptions
    options: RemoteOptions

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        options = self.options
        self._need(RemoteExec)
        if options.wait_boot:
            self._need(HostOps)
        files = (options.dump_params_file, options.dump_meta_file, options.read_results_file)
        if options.upload or options.download or options.read_telemetry_file or any(files):
            self._need(FileShare)

    def _need(self, protocol: type[Any]) -> Any:
        return remote_service(self._services, protocol, asker=type(self).__name__)

    def _make_site(self) -> RemoteSite:
        return RemoteSite(self._services, self._host())

    def _host(self) -> str:
        return self._expand(self.options.host)

    def _runs_on(self, names: Mapping[str, Any]) -> str:
        return expand(self.options.host, names, missing_ok=True)

    async def _setup(self) -> None:
        if self.options.wait_boot:
            operations: HostOps = self._need(HostOps)
            await operations.wait_until_reachable(self._host(), timeout=self.options.boot_timeout)
        await self._open()
        for transfer in self.options.upload:
            site, files = self._transferring()
            local, remote = self._beside(transfer.source), site.path(self._expand(transfer.target))
            await files.upload(site.host, local, remote)
        await self._script("setup", self.options.setup)

    async def _run(self) -> RunResult:
        result = await super()._run()
        for transfer in self.options.download:
            site, files = self._transferring()
            remote, local = site.path(self._expand(transfer.source)), self._beside(transfer.target)
            await files.download(site.host, remote, local)
        return result

    def _transferring(self) -> tuple[RemoteSite, FileShare]:
        assert isinstance(self._site, RemoteSite), "only called between setup and teardown"  # noqa: S101
        return self._site, self._need(FileShare)

    def _beside(self, path: str) -> Path:
        """A path of this machine: relative to where the description of the experiment is."""
        return Path(str(self._overlay.get("config_dir", "."))) / Path(self._expand(path)).expanduser()
