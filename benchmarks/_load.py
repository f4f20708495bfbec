"""What the benchmarks of the load generator share: a server on one core, the generator on another."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import anyio

from windtunnel.loadgen.generators import Watcher, run_load
from windtunnel.loadgen.result import Result

__all__ = ["Nginx", "loaded", "nginx", "on_own_core", "program"]

_START_S = 10.0
_CONFIG = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error;
events {{ worker_connections 8192; }}
http {{
    access_log off; keepalive_requests 1000000000;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{ listen 127.0.0.1:{port} backlog=4096; root {folder}; }}
}}
"""


class Nginx:
    """A server of one process."""

    def __init__(self, process: subprocess.Popen[bytes], url: str) -> None:
        self.process = process
        self.url = url


def program(name: str, package: str) -> str:
    """Where a program is; without it there is no benchmark."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        sys.exit(f"this benchmark needs {name}; on Debian: apt-get install {package}")
    return found


@contextmanager
def nginx(port: int = 18_732) -> Iterator[Nginx]:
    """It serves a small file from the last core, while this process and its children have the first."""
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="windtunnel-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "index.html").write_text("x" * 128)
        config = folder / "nginx.conf"
        config.write_text(_CONFIG.format(folder=folder, port=port))
        command = [program("nginx", "nginx-light"), "-c", str(config), "-p", name]
        os.sched_setaffinity(0, cores[-1:])
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            os.sched_setaffinity(0, cores[:1])
            try:
                url = f"http://127.0.0.1:{port}/index.html"
                _wait_for(url)
                yield Nginx(process, url)
            finally:
                process.kill()
                os.sched_setaffinity(0, cores)


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            urlopen(url, timeout=1).close()
        except URLError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def on_own_core() -> None:
    """Leave the last core to the server."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])


def loaded(plan: Mapping[str, Any], *, watch: Watcher | None = None) -> Result:
    """One load test."""

    async def run() -> Result:
        return await run_load(plan, directory=Path(), watch=watch)

    return anyio.run(run)
