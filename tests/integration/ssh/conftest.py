"""The servers of all tests here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.integration.ssh.servers import Fleet, Server, find_sshd, fleet
from windtunnel.services.ssh import SshService


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    if find_sshd() is None:
        pytest.skip("NOTHING IS TESTED OVER SSH: sshd is not installed (apt-get install openssh-server)")
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
