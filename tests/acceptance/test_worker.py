"""Several processes on one experiment: they share it, replace each other, join late and leave early."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

import windtunnel
from windtunnel.cli.joining import description_of
from windtunnel.config.stored import restore, seed_of
from windtunnel.errors import ConfigError
from windtunnel.objectives import parse_objectives
from windtunnel.optimizers.registry import make_optimizer
from windtunnel.tunables import TunableGroups

pytestmark = pytest.mark.timeout(60)

WINDTUNNEL = [sys.executable, "-m", "windtunnel"]
TUNABLES: dict[str, Any] = {"g": {"params": {"x": {"type": "int", "range": [0, 1000], "default": 7}}}}
SHARED: dict[str, Any] = {
    "experiment": "shared",
    "objectives": {"x": "min"},
    "trials": 12,
    "optimizer": {"name": "random", "seed": 5},
    "tunables": TUNABLES,
    "environment": {
        "class": "LocalEnv",
        "config": {
            "shell_env_params": ["x"],
            "run": [
                'echo "$trial_id" >> "$config_dir/begins.$WHO"',
                # Those up to the number in the file `gate` go through, the others wait until it is raised.
                'until [ "$trial_id" -le "$(cat "$config_dir/gate")" ]; do sleep 0.05; done',
                'echo "$trial_id" >> "$config_dir/finishes"',
                'echo "x: $x"',
            ],
            "results_stdout_pattern": r"^(?P<metric>\w+): (?P<value>\S+)$",
        },
    },
}


class Farm:
    """A folder with an experiment, and the processes that work on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[str]] = []
        folder.mkdir()
        self.open_gate(0)

    @property
    def storage(self) -> str:
        return f"sqlite:///{self.folder.parent}/shared.db"

    def describe(self, **changes: Any) -> str:
        (self.folder / "e.json").write_text(json.dumps({**SHARED, **changes}))
        return str(self.folder / "e.json")

    def open_gate(self, number: int) -> None:
        """Replace the file in one step, since scripts read it all the time."""
        (self.folder / "gate.new").write_text(str(number))
        (self.folder / "gate.new").rename(self.folder / "gate")

    def start(self, who: str, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*WINDTUNNEL, *arguments, "--storage", self.storage],
            cwd=self.folder.parent,
            env={**os.environ, "WHO": who},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.processes.append(process)
        return process

    def run(self, *arguments: str) -> subprocess.Popen[str]:
        return self.start("run", "run", str(self.folder / "e.json"), *arguments)

    def worker(self, who: str, *arguments: str) -> subprocess.Popen[str]:
        return self.start(who, "worker", "shared", *arguments)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.folder.parent / "shared.db", timeout=5)) as connection:
            try:
                return connection.execute(sql).fetchall()
            except sqlite3.OperationalError:  # its tables are being made
                return []

    def succeeded(self) -> int:
        return len(self.rows("SELECT trial_id FROM trial WHERE status = 4"))

    def begins(self, who: str) -> list[int]:
        return numbers(self.folder / f"begins.{who}")

    def finishes(self) -> Counter[int]:
        return Counter(numbers(self.folder / "finishes"))

    def scripts(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("config_dir") == str(self.folder):
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return [p for p in found if p.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    farm = Farm(tmp_path / "folder")
    yield farm
    for process in farm.processes:
        process.kill()
        process.communicate()


def free_port() -> int:
    with closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def numbers(file: Path) -> list[int]:
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def wait_until(condition: Callable[[], object], what: str, limit_s: float = 20) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=30)
    assert "Traceback" not in output
    return process.returncode, output


def test_two_workers_and_a_run_share_an_experiment(farm: Farm) -> None:
    farm.describe()
    run = farm.run()
    wait_until(lambda: farm.begins("run"), "the run")
    port = free_port()
    first = farm.worker("a", "--until-idle", "--metrics-port", str(port))
    second = farm.worker("b", "--until-idle", "--concurrency", "2")
    wait_until(lambda: farm.begins("a") and len(farm.begins("b")) == 2, "every worker to have its trials")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        metrics = answer.read().decode()
    assert 'windtunnel_trials_running{experiment="shared"} 1.0' in metrics
    farm.open_gate(99)
    for process in (run, first, second):
        code, output = ended(process)
        assert code == 0, output
        assert "12 trials: 12 succeeded" in output
    assert farm.finishes() == dict.fromkeys(range(1, 13), 1), "each was run once"
    begins = [trial for who in ("run", "a", "b") for trial in farm.begins(who)]
    assert sorted(begins) == list(range(1, 13)), "nothing was begun twice"
    assert farm.rows("SELECT count(DISTINCT owner) FROM trial") == [(3,)]
    configs = farm.rows("SELECT params FROM trial JOIN config ON id = config_id ORDER BY trial_id")
    assert [json.loads(params) for (params,) in configs] == alone({"name": "random", "seed": 5}, 12)


def alone(optimizer: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """What one process would have tried."""
    options = {key: value for key, value in optimizer.items() if key not in ("name", "seed")}
    made = make_optimizer(
        optimizer["name"],
        tunables=TunableGroups(TUNABLES),
        objectives=parse_objectives({"x": "min"}),
        seed=optimizer.get("seed"),
        options=options,
    )
    return [dict(one) for one in made.ask(count)]


@pytest.mark.parametrize("optimizer", [{"name": "random", "seed": 5}, {"name": "grid", "points": 10}])
def test_when_the_leader_is_killed_another_goes_on_with_its_sequence(
    farm: Farm, optimizer: dict[str, Any]
) -> None:
    farm.describe(optimizer=optimizer, trials=10, concurrency=2)
    farm.open_gate(3)
    leader = farm.run()
    wait_until(lambda: farm.succeeded() == 3 and len(farm.begins("run")) == 5, "the leader to be busy")
    other = farm.worker("other", "--until-idle")
    wait_until(lambda: len(farm.begins("other")) == 2, "the worker to be busy")
    leader.kill()
    leader.wait()
    farm.open_gate(99)
    code, output = ended(other)
    assert code == 0, output
    assert farm.rows("SELECT status, count(*) FROM trial GROUP BY status") == [(4, 10)]
    configs = farm.rows("SELECT params FROM trial JOIN config ON id = config_id ORDER BY trial_id")
    assert [json.loads(params) for (params,) in configs] == alone(optimizer, 10)
    assert farm.finishes() == dict.fromkeys(range(1, 11), 1)
    assert not farm.scripts()


def test_a_worker_joins_late_leaves_early_and_others_run_its_trials(farm: Farm) -> None:
    farm.describe(trials=4)
    run = farm.run("--json")
    wait_until(lambda: farm.begins("run") == [1], "the run")
    late = farm.worker("late")
    wait_until(lambda: farm.begins("late"), "the worker")
    (taken,) = farm.begins("late")
    late.send_signal(signal.SIGTERM)
    code, output = ended(late)
    assert code == 3, output
    assert "stopping: running trials are cancelled and torn down" in output
    assert farm.rows("SELECT count(*) FROM trial WHERE status = 3") == [(1,)], "its trial is released"
    farm.open_gate(99)
    code, output = ended(run)
    assert code == 0, output
    assert taken in farm.begins("run")
    assert farm.finishes() == dict.fromkeys(range(1, 5), 1)


def test_a_worker_elsewhere_waits_for_new_trials(farm: Farm, tmp_path: Path) -> None:
    farm.describe(trials=2, globals={"unused": "$HOME"})
    farm.open_gate(99)
    assert ended(farm.run())[0] == 0
    there = tmp_path / "there"
    shutil.move(farm.folder, there)
    waiting = farm.worker("w", "--config-dir", str(there))
    assert waiting.stdout is not None
    assert waiting.stdout.readline().startswith("shared: 2 trials, 1 at once")
    anyio.run(enqueue, farm.storage)
    wait_until(lambda: farm.succeeded() == 3, "the trial that was added")
    waiting.send_signal(signal.SIGTERM)
    code, output = ended(waiting)
    assert code == 0, f"nothing was left to do: {output}"
    assert numbers(there / "begins.w") == [3]


async def enqueue(url: str) -> None:
    async with windtunnel.open_storage(url) as storage:
        await (await storage.open_experiment("shared")).enqueue({"x": 42})


async def test_who_cannot_join_is_told_why(url: str) -> None:
    async with windtunnel.open_storage(url) as storage:
        async with storage.experiment(experiment_id="old", tunables={}, opt_targets={"x": "min"}):
            pass
        await windtunnel.tune(
            lambda _: {"x": 1}, {}, objectives={"x": "min"}, trials=1, storage=storage, experiment_id="f"
        )
        text = await description_of("f", storage)
        with pytest.raises(ConfigError, match="'f' runs a Python function; start another worker by calling"):
            restore(text, experiment_id="f")
        with pytest.raises(ConfigError, match="how experiment 'old' is run is not stored; run its file once"):
            await description_of("old", storage)
        with pytest.raises(ConfigError, match=r"no experiment 'other'; there are: old, f; begin it with"):
            await description_of("other", storage)


def test_an_unknown_experiment_is_a_wrong_command(farm: Farm) -> None:
    anyio.run(made, farm.storage)
    code, output = ended(farm.worker("a"))
    assert (code, output) == (
        2,
        "error: there is no experiment 'shared'; there are: old; begin it with 'windtunnel run FILE'\n",
    )


async def made(url: str) -> None:
    async with (
        windtunnel.open_storage(url) as storage,
        storage.experiment(experiment_id="old", tunables={}, opt_targets={"x": "min"}),
    ):
        pass


async def test_a_seed_that_was_drawn_is_kept(url: str) -> None:
    described = {
        "experiment": "seeds",
        "objectives": {"score": "min"},
        "optimizer": "random",
        "tunables": TUNABLES,
        "environment": {"class": "MockEnv"},
    }
    async with windtunnel.open_storage(url) as storage:
        for trials in (3, 6):
            await windtunnel.run(described, storage=storage, trials=trials)
        seed = seed_of(await description_of("seeds", storage))
        assert seed is not None
        experiment = await storage.open_experiment("seeds")
        configs = [dict(trial.config) async for trial in experiment.trials()]
        assert configs == alone({"name": "random", "seed": seed}, 6)
        await windtunnel.run(described, storage=storage, seed=seed + 1)
        assert seed_of(await description_of("seeds", storage)) == seed + 1
