"""How many requests a second does one core send, who waits for each answer, and what do its notes cost?

Closed loop with 32 connections to nginx, which serves 128 bytes from a core of its own; the generator has the
other. In the same run:

* wrk with one thread: at least 0.7 of its requests
* Locust with one process, where it is installed: at least 5 times its requests
* the bare client: a protocol and httptools on uvloop that counts answers and notes nothing else. Recording,
  checks and telemetry: at most 15 % on top of it, by the processor time of a request
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from _load import loaded, nginx, program
from _report import Figure, parser, report

CONNECTIONS = 32


class _Bare(asyncio.Protocol):
    """Sends, and sends again when there was an answer."""

    answers = 0
    until = 0.0

    def __init__(self, request: bytes) -> None:
        import httptools

        self._request = request
        self._feed = httptools.HttpResponseParser(self).feed_data

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._write = cast("asyncio.Transport", transport).write
        self._write(self._request)

    def data_received(self, data: bytes) -> None:
        self._feed(data)

    def on_message_complete(self) -> None:
        _Bare.answers += 1
        self._write(self._request)


async def _bare(port: int, seconds: float) -> None:
    request = b"GET /index.html HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: bare\r\nAccept: */*\r\n\r\n"
    loop = asyncio.get_running_loop()
    for _ in range(CONNECTIONS):
        await loop.create_connection(lambda: _Bare(request), "127.0.0.1", port)
    answers, cpu = _Bare.answers, time.process_time()
    await asyncio.sleep(seconds)
    print(
        json.dumps([(_Bare.answers - answers) / seconds, time.process_time() - cpu, _Bare.answers - answers])
    )


def _run_bare(port: int, seconds: float) -> tuple[float, float]:
    """Requests a second, and microseconds of processor time for each."""
    command = [sys.executable, __file__, "--bare", str(port), str(seconds)]
    rate, cpu_s, answers = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return rate, cpu_s / answers * 1e6


def _run_wrk(url: str, seconds: float) -> float:
    command = [program("wrk", "wrk"), "-t1", f"-c{CONNECTIONS}", f"-d{seconds:.0f}", url]
    text = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
    found = re.search(r"Requests/sec:\s+([\d.]+)", text)
    if found is None:
        raise RuntimeError(f"wrk told no rate: {text}")
    return float(found[1])


def _run_locust(url: str, seconds: float) -> float:
    command = [sys.executable, "-m", "locust", "-f", str(Path(__file__).with_name("_peer_locust.py"))]
    command += ["--headless", "--json", "-u", str(CONNECTIONS), "-r", str(CONNECTIONS)]
    command += ["-t", f"{seconds:.0f}s", "-H", url.removesuffix("/index.html")]
    text = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    (page,) = json.loads(text)
    return page["num_requests"] / (page["last_request_timestamp"] - page["start_time"])  # type: ignore[no-any-return]


def main() -> int:
    options = parser(__doc__, peers=False)
    options.add_argument("--seconds", type=float, default=4.0, metavar="N", help="of each (default 4)")
    given = options.parse_args()
    ours: list[float] = []
    wrk: list[float] = []
    bare: list[float] = []
    cost: list[float] = []
    bare_cost: list[float] = []
    locust: list[float] = []
    with nginx() as server:
        for _ in range(given.runs):
            wrk.append(_run_wrk(server.url, given.seconds))
            if find_spec("locust") is not None:
                locust.append(_run_locust(server.url, given.seconds))
            rate, each_us = _run_bare(18_732, given.seconds)
            bare.append(rate)
            bare_cost.append(each_us)
            result = loaded({"url": server.url, "users": CONNECTIONS, "duration": given.seconds})
            ours.append(result.rate)
            cost.append(result.total.cpu_s / result.total.completed * 1e6)
    shares = [one / other for one, other in zip(ours, wrk, strict=True)]
    added = [(one / other - 1) * 100 for one, other in zip(cost, bare_cost, strict=True)]
    figures = {
        "ours": Figure(unit="requests/s", runs=ours),
        "wrk": Figure(unit="requests/s", runs=wrk),
        "bare": Figure(unit="requests/s", runs=bare),
        "share_of_wrk": Figure(unit="of wrk", runs=shares, bar=("at least", 0.7)),
        "cost": Figure(unit="µs of a core a request", runs=cost),
        "notes": Figure(unit="% over the bare client", runs=added, bar=("at most", 15)),
    }
    if locust:
        times = [one / other for one, other in zip(ours, locust, strict=True)]
        figures["locust"] = Figure(unit="requests/s", runs=locust)
        figures["times_locust"] = Figure(unit="times Locust", runs=times, bar=("at least", 5))
    return report(__doc__, figures)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--bare"]:
        import uvloop

        uvloop.run(_bare(int(sys.argv[2]), float(sys.argv[3])))
    else:
        sys.exit(main())
