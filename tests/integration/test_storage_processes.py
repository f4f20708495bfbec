"""Several programs and one file: a trial goes to one of them, a killed one loses nothing it was told."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
import pytest
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream

from windtunnel.model import Status
from windtunnel.storage import open_storage
from windtunnel.testing.storage_fixtures import TARGETS, TUNABLES, new

_PRELUDE = """
import sys
from datetime import timedelta
import anyio
from windtunnel.storage import open_storage
from windtunnel.testing.storage_fixtures import TARGETS, TUNABLES, at, claim_one, ended, new, point

async def main():
    url, me = sys.argv[1:]
    print("ready", flush=True)
    sys.stdin.readline()
    async with open_storage(url) as storage:
        async with storage.experiment(experiment_id="e", tunables=TUNABLES, opt_targets=TARGETS) as stored:
            await work(stored, me)
"""
_OPEN = """
async def work(experiment, me):
    print("open", flush=True)
"""
_CLAIM = """
async def work(experiment, me):
    while trials := await experiment.claim(me, limit=3, lease=timedelta(minutes=1)):
        for trial in trials:
            await experiment.finish(trial, ended(me))
            print(trial.trial_id, flush=True)
"""
_LEAD = """
import os

async def work(experiment, me):
    led, file = 0, sys.argv[1].removeprefix("sqlite:///") + ".led"
    while led < 15:
        if await experiment.lead(me, lease=timedelta(minutes=1), is_dead=lambda owner: False):
            os.close(os.open(file, os.O_CREAT | os.O_EXCL))  # fails if another leads, too
            await anyio.lowlevel.checkpoint()
            os.unlink(file)
            led += 1
            await experiment.resign(me)
    print(led)
"""
_WRITE_FOR_EVER = """
async def one(experiment, me):
    while True:
        await experiment.add_trials([new()])
        trial = await claim_one(experiment, me)
        await experiment.record(trial, [point(1, "m", float(trial.trial_id))])
        await experiment.finish(trial, ended(float(trial.trial_id)))
        print(trial.trial_id, flush=True)

async def work(experiment, me):
    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(one, experiment, me)
"""


class Program:
    """One of our programs, started and waiting for its word."""

    def __init__(self, process: Process) -> None:
        assert process.stdout is not None
        self.process = process
        self._out = TextReceiveStream(process.stdout)
        self._text = ""

    async def line(self) -> str:
        while "\n" not in self._text:
            self._text += await self._out.receive()
        line, self._text = self._text.split("\n", 1)
        return line

    async def go(self) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.send(b"\n")

    async def rest(self) -> list[str]:
        """What it still says until its end."""
        async for part in self._out:
            self._text += part
        await self.process.wait()
        return self._text.splitlines()


async def _start(script: str, url: str, name: str) -> Program:
    command = [sys.executable, "-c", f"{_PRELUDE}{script}\nanyio.run(main)", url, name]
    return Program(await anyio.open_process(command, stderr=None))


async def _race(script: str, url: str, names: list[str]) -> dict[str, list[str]]:
    """What each of several programs says that begin their work at the same moment."""
    said: dict[str, list[str]] = {}

    async def listen(name: str, program: Program) -> None:
        said[name] = await program.rest()
        assert program.process.returncode == 0

    programs = {name: await _start(script, url, name) for name in names}
    for program in programs.values():
        assert await program.line() == "ready"
    async with anyio.create_task_group() as tasks:
        for name, program in programs.items():
            tasks.start_soon(listen, name, program)
            await program.go()
    for program in programs.values():
        await program.process.aclose()
    return said


async def test_programs_that_open_a_new_file_at_once_all_succeed(url: str) -> None:
    said = await _race(_OPEN, url, ["a", "b", "c"])
    assert said == {"a": ["open"], "b": ["open"], "c": ["open"]}


async def test_each_trial_goes_to_one_program(url: str) -> None:
    async with (
        open_storage(url) as storage,
        storage.experiment(experiment_id="e", tunables=TUNABLES, opt_targets=TARGETS) as experiment,
    ):
        await experiment.add_trials([new(i) for i in range(300)])
        said = await _race(_CLAIM, url, ["a", "b"])
        claimed = {name: [int(line) for line in lines] for name, lines in said.items()}
        assert sorted(claimed["a"] + claimed["b"]) == list(range(1, 301))
        history = await experiment.load()
        assert [score["score"] for score in history.scores if score] == [
            "a" if trial_id in claimed["a"] else "b" for trial_id in history.trial_ids
        ]


async def test_one_program_leads_at_a_time(url: str) -> None:
    async with (
        open_storage(url) as storage,
        storage.experiment(experiment_id="e", tunables=TUNABLES, opt_targets=TARGETS),
    ):
        assert await _race(_LEAD, url, ["a", "b"]) == {"a": ["15"], "b": ["15"]}


@pytest.mark.parametrize("acknowledged", [5, 60])
async def test_what_was_acknowledged_survives_a_kill(url: str, tmp_path: Path, acknowledged: int) -> None:
    program = await _start(_WRITE_FOR_EVER, url, "victim")
    assert await program.line() == "ready"
    await program.go()
    told = [await program.line() for _ in range(acknowledged)]
    program.process.kill()
    rest = await program.rest()
    await program.process.aclose()
    finished = {int(line) for line in told + [line for line in rest if line.isdecimal()]}

    async with open_storage(url) as storage:
        experiment = await storage.open_experiment("e")
        records = {record.trial_id: record async for record in experiment.trials()}
        for trial_id in finished:
            assert records[trial_id].status is Status.SUCCEEDED
            assert records[trial_id].metrics == {"score": float(trial_id)}
            assert [s.value for s in await experiment.load_telemetry(trial_id)] == [float(trial_id)]
        running = [r.trial_id for r in records.values() if r.status is Status.RUNNING]
        assert await experiment.recover(lambda owner: owner == "victim") == len(running)
        check = await storage._database.read(
            lambda connection: connection.exec_driver_sql("PRAGMA integrity_check").scalar()
        )
        assert check == "ok"
