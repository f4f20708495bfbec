"""How long do 500 running scripts take to be gone when the scheduler is stopped?

500 trials of a LocalEnv whose ``run`` is ``sleep 600``, all at once, in a process of its own. Another looks
at the processes of the system, finds theirs by an environment variable, and has ``scheduler.stop()`` called
when all 500 sleep. Measured from the call.

* until the last of their processes is gone: at most 2 s
* until ``scheduler.run`` has returned, every trial torn down and its outcome stored: at most 2 s

That is with the teardown that each of these trials needs, which removes its directory. With a shell line as
``teardown`` there are 500 shells more to start; that is measured as well, without a bar.

For comparison, in the same run: 500 times a bare ``sh -c "sleep 600"`` as a child of asyncio, each killed
with its process group and waited for.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import anyio.to_thread

from _report import TUNABLES, Figure, parser, report, scratch
from windtunnel import open_scheduler

TRIALS = 500
BAR_S = 2
MARK, NOTES = "WINDTUNNEL_BENCHMARK", "WINDTUNNEL_BENCHMARK_NOTES"
LIMIT_S, LOOK_S, SEARCH_S = 120.0, 0.005, 0.1


class Cost(NamedTuple):
    """Seconds from the call of ``stop``, and processor time of the stopping process."""

    gone_s: float
    returned_s: float
    cpu_s: float


class Told(NamedTuple):
    """By the process that stops: on the clock that all processes share, and its processor time."""

    stopped_at: float
    returned_at: float
    cpu_s: float


# The process that runs the scripts and stops them


async def plain(folder: Path) -> Told:
    return await ours(folder, {"run": "sleep 600"})


async def with_teardown(folder: Path) -> Told:
    told = await ours(folder, {"run": "sleep 600", "teardown": f'echo "$trial_id" >> "${NOTES}"'})
    noted = len(set((folder / "notes").read_text(encoding="utf-8").split()))
    if noted != TRIALS:
        raise RuntimeError(f"expected {TRIALS} teardowns, found {noted}")
    return told


async def ours(folder: Path, scripts: dict[str, str]) -> Told:
    description: dict[str, Any] = {
        "experiment": "cancel",
        "objectives": {"score": "min"},
        "trials": TRIALS,
        "concurrency": TRIALS,
        "storage": f"sqlite:///{folder / 'trials.db'}",
        "tunables": TUNABLES,
        "environment": {"class": "LocalEnv", "config": scripts},
    }
    returned_at = 0.0
    async with open_scheduler(description) as scheduler, anyio.create_task_group() as group:

        async def run() -> None:
            nonlocal returned_at
            summary = await scheduler.run()
            returned_at = time.monotonic()
            if summary.canceled != TRIALS:
                raise RuntimeError(f"expected {TRIALS} trials that were cancelled, found {summary}")

        group.start_soon(run, name="scheduler")
        await anyio.to_thread.run_sync(sys.stdin.readline)
        stopped_at, cpu_s = time.monotonic(), time.process_time()
        scheduler.stop()
    if left := list((folder / "tmp").iterdir()):
        raise RuntimeError(f"{len(left)} directories of trials were left")
    return Told(stopped_at, returned_at, time.process_time() - cpu_s)


async def bare(_folder: Path) -> Told:
    children = [
        await asyncio.create_subprocess_exec("sh", "-c", "sleep 600", start_new_session=True)
        for _ in range(TRIALS)
    ]
    await anyio.to_thread.run_sync(sys.stdin.readline)
    stopped_at, cpu_s = time.monotonic(), time.process_time()
    for child in children:
        os.killpg(child.pid, signal.SIGTERM)
    for child in children:
        await child.wait()
    return Told(stopped_at, time.monotonic(), time.process_time() - cpu_s)


CASES = {"plain": plain, "with_teardown": with_teardown, "bare_children": bare}


# The process that looks on


def measured(case: str, folder: Path) -> Cost:
    mark = uuid.uuid4().hex
    (folder / "tmp").mkdir()
    names = {MARK: mark, NOTES: str(folder / "notes"), "TMPDIR": str(folder / "tmp")}
    command = [sys.executable, __file__, "--case", case, str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **names}
    ) as process:
        try:
            processes = all_asleep(f"{MARK}={mark}".encode(), process)
            assert process.stdin is not None
            process.stdin.write("stop\n")
            process.stdin.flush()
            gone_at = all_gone(f"{MARK}={mark}".encode(), processes, process)
            told = Told(*json.loads(process.communicate(timeout=LIMIT_S)[0]))
        finally:
            process.kill()
    return Cost(gone_at - told.stopped_at, told.returned_at - told.stopped_at, told.cpu_s)


def all_asleep(mark: bytes, parent: subprocess.Popen[str]) -> set[int]:
    """The processes that carry the mark, as soon as all trials sleep."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        found = marked(mark) - {parent.pid}
        if sum(command_of(pid) == b"sleep" for pid in found) == TRIALS:
            return found
        if time.monotonic() > deadline or parent.poll() is not None:
            raise TimeoutError(f"expected {TRIALS} scripts to run, found {len(found)} processes")
        time.sleep(SEARCH_S)


def all_gone(mark: bytes, processes: set[int], parent: subprocess.Popen[str]) -> float:
    """When the last of them, and of those that were started meanwhile, was gone."""
    deadline = time.monotonic() + LIMIT_S
    gone_at = time.monotonic()
    while processes or parent.poll() is None:
        for pid in processes:
            while is_alive(pid):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"process {pid} is not gone")
                time.sleep(LOOK_S)
            gone_at = time.monotonic()
        time.sleep(SEARCH_S)
        processes = marked(mark) - {parent.pid}  # teardowns, if any
    return gone_at


def marked(mark: bytes) -> set[int]:
    pids = {int(name) for name in os.listdir("/proc") if name.isdecimal()}
    return {pid for pid in pids if mark in read(pid, "environ").split(b"\0") and is_alive(pid)}


def is_alive(pid: int) -> bool:
    """Whether it has not ended; whether somebody has heard of its end does not matter."""
    stat = read(pid, "stat").rpartition(b")")[2].split()
    return bool(stat) and stat[0] not in (b"Z", b"X")


def command_of(pid: int) -> bytes:
    return read(pid, "comm").strip()


def read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def main() -> int:
    options = parser(__doc__, peers=False)
    options.add_argument("--case", nargs=2, metavar=("CASE", "FOLDER"), help="be the process that is stopped")
    chosen = options.parse_args()
    if chosen.case is not None:
        case, folder = chosen.case
        print(json.dumps(asyncio.run(CASES[case](Path(folder)))))
        return 0
    costs: dict[str, list[Cost]] = {case: [] for case in CASES}
    for _ in range(chosen.runs):
        for case, found in costs.items():
            with scratch() as folder:
                found.append(measured(case, folder))
    figures = {
        f"{case}_{part}": Figure(
            unit="s",
            runs=[getattr(cost, part) for cost in costs[case]],
            bar=("at most", BAR_S) if case == "plain" and part != "cpu_s" else None,
        )
        for case in CASES
        for part in Cost._fields
    }
    ratio = statistics.median(
        a.gone_s / b.gone_s for a, b in zip(costs["plain"], costs["bare_children"], strict=True)
    )
    return report(__doc__, figures, ratios={"gone_s: plain / bare_children": ratio})


if __name__ == "__main__":
    sys.exit(main())
