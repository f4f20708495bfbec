"""Scripts on this machine, in a directory of their own."""

from __future__ import annotations

from typing import Any

from windtunnel.environments.scripts import EXPORTED, ScriptEnv
from windtunnel.environments.sites import LocalSite
from windtunnel.protocols import LocalExec

__all__ = ["LocalEnv"]


class LocalEnv(ScriptEnv):
    """Runs scripts on this machine; see ``ScriptEnv``."""

    exported = ("config_dir", *EXPORTED)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._services.get(LocalExec)  # type: ignore[type-abstract]  # a protocol is its own key

    def _make_site(self) -> LocalSite:
        return LocalSite(self._services)
