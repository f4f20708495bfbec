"""Other hosts over SSH. The options are known at once, asyncssh is loaded with what needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from windtunnel.services.ssh.options import SshOptions

if TYPE_CHECKING:
    from windtunnel.services.ssh.remote_exec import SshService

__all__ = ["SshOptions", "SshService"]


def __getattr__(name: str) -> object:
    if name != "SshService":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from windtunnel.services.ssh.remote_exec import SshService

    return SshService
