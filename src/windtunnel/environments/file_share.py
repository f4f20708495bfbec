"""Scripts on this machine, with files that are brought to the trial's host and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from windtunnel.environments.hosts import remote_service
from windtunnel.environments.script_options import ScriptOptions, Transfers
from windtunnel.environments.scripts import EXPORTED, ScriptEnv
from windtunnel.environments.sites import LocalSite
from windtunnel.model import RunResult
from windtunnel.protocols import FileShare, LocalExec

__all__ = ["LocalFileShareEnv", "LocalFileShareOptions"]


class LocalFileShareOptions(ScriptOptions):
    """The ``config`` of a LocalFileShareEnv. Files of this machine are relative to the trial's directory."""

    host: str = Field(default="$host", min_length=1, description="whose files; default $host, the trial's")
    upload: Transfers = Field(default=(), description="files to bring there after setup; default none")
    download: Transfers = Field(default=(), description="files to fetch before run; default none")


class LocalFileShareEnv(ScriptEnv):
    """Runs scripts on this machine; see ``ScriptEnv``. They prepare files for the trial's host, or read its.

    ``setup`` makes them, then ``upload`` brings them there. Before ``run`` reads them, ``download`` fetches
    them: in a composite, after the environments before it have run. Paths of the host are absolute, or
    relative to where one is after a login.
    """

    options_class = LocalFileShareOptions
    options: LocalFileShareOptions
    exported = ("config_dir", *EXPORTED)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._services.get(LocalExec)  # type: ignore[type-abstract]  # a protocol is its own key
        if self.options.upload or self.options.download:
            self._files()

    def _files(self) -> FileShare:
        return remote_service(self._services, FileShare, asker="LocalFileShareEnv")  # type: ignore[type-abstract]

    def _make_site(self) -> LocalSite:
        return LocalSite(self._services)

    async def _setup(self) -> None:
        await super()._setup()
        for transfer in self.options.upload:
            await self._files().upload(
                self._host(), self._here(transfer.source), self._expand(transfer.target)
            )

    async def _run(self) -> RunResult:
        for transfer in self.options.download:
            await self._files().download(
                self._host(), self._expand(transfer.source), self._here(transfer.target)
            )
        return await super()._run()

    def _host(self) -> str:
        return self._expand(self.options.host)

    def _here(self, path: str) -> Path:
        assert isinstance(self._site, LocalSite), "only called between setup and teardown"  # noqa: S101
        directory = self._site.directory
        return directory / Path(self._expand(path, PWD=str(directory))).expanduser()
