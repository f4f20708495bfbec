"""The servers of all tests here."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.integration.ssh.servers import NEEDS_OPENSSH, Fleet, Server, find_sshd, fleet, missing
from windtunnel.services.ssh import SshService


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    if find_sshd() is None and os.environ.get("WINDTUNNEL_CI"):
        missing("sshd is not installed")
    with fleet(tmp_path_factory.mktemp("ssh")) as started:
        yield started


@pytest.fixture(scope="session")
def server(servers: Fleet) -> Server:
    """One with the settings that OpenSSH comes with."""
    return servers.server()


@pytest.fixture
async def service(server: Server) -> AsyncIterator[SshService]:
    """It knows one host, ``web``."""
    async with SshService(hosts={"web": server.options()}) as service:
        yield service


@pytest.fixture(scope="session")
def openssh() -> None:
    """For tests that end the server's process of one connection: the stand-in is one process for all."""
    if find_sshd() is None:
        missing(NEEDS_OPENSSH)
