"""The embedding interface, as an application would use it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

import windtunnel
from windtunnel import Status, TunableGroups

POOL: dict[str, Any] = {
    "db": {"cost": 1, "params": {"pool": {"type": "int", "range": [1, 64], "default": 4}}}
}
MS = {"latency_ms": "min"}


async def bench(params: dict[str, Any], emit: Callable[..., Awaitable[None]]) -> dict[str, float]:
    await emit("qps", 812.0)
    return {"latency_ms": float((params["pool"] - 12) ** 2)}


async def test_one_await_runs_a_durable_experiment(url: str) -> None:
    summary = await windtunnel.tune(
        bench,
        POOL,
        objectives={"latency_ms": "min"},
        trials=100,
        concurrency=10,
        optimizer="random",
        seed=1,
        storage=url,
        experiment_id="demo",
    )
    assert (summary.succeeded, summary.failed, summary.trials) == (100, 0, 100)
    assert summary.best is not None
    assert summary.best.metrics == {"latency_ms": (summary.best.config["pool"] - 12) ** 2}
    async with (
        windtunnel.open_storage(url) as storage,
        storage.experiment(
            experiment_id="demo", tunables=POOL, opt_targets={"latency_ms": "min"}
        ) as experiment,
    ):
        history = await experiment.load()
        assert len(history.trial_ids) == 100
        best = min(score["latency_ms"] for score in history.scores if score)
        assert summary.best.metrics["latency_ms"] == best
        assert history.configs[0] == {"pool": 4}, "the defaults come first"
        for trial_id in history.trial_ids:
            assert [(s.metric, s.value) for s in await experiment.load_telemetry(trial_id)] == [
                ("qps", 812.0)
            ]
        assert [t async for t in experiment.pending_trials(datetime.now(UTC), running=True)] == []


async def test_the_same_id_again_runs_only_what_is_missing(url: str) -> None:
    ran: list[int] = []

    async def count(params: dict[str, Any]) -> dict[str, float]:
        ran.append(params["pool"])
        return {"latency_ms": params["pool"]}

    async def go(trials: int) -> windtunnel.Summary:
        return await windtunnel.tune(
            count,
            POOL,
            objectives={"latency_ms": "min"},
            trials=trials,
            seed=3,
            storage=url,
            experiment_id="e",
        )

    assert (await go(10)).succeeded == 10
    assert (await go(10)).succeeded == 10
    assert len(ran) == 10, "nothing was run again"
    assert (await go(25)).succeeded == 25
    resumed = list(ran)
    ran.clear()
    other = await windtunnel.tune(
        count, POOL, objectives={"latency_ms": "min"}, trials=25, seed=3, storage=url, experiment_id="at once"
    )
    assert other.succeeded == 25
    assert ran == resumed, "the same suggestions as if it had never stopped"


async def test_a_plain_function_runs_in_a_thread_and_emits_plainly(url: str) -> None:
    def plain(params: dict[str, Any], emit: Callable[..., None]) -> dict[str, float]:
        for i in range(10):
            emit("step", i)
            time.sleep(0.001)
        return {"latency_ms": params["pool"]}

    summary = await windtunnel.tune(
        plain, POOL, objectives={"latency_ms": "min"}, trials=6, concurrency=3, storage=url, experiment_id="e"
    )
    assert summary.succeeded == 6
    async with windtunnel.open_storage(url) as storage:
        experiment = await storage.open_experiment("e")
        samples = await experiment.load_telemetry(1)
    assert [s.value for s in samples] == list(range(10))


async def test_a_failing_function_fails_its_trial_and_says_where(url: str) -> None:
    async def fragile(params: dict[str, Any]) -> dict[str, float]:
        if params["pool"] % 2:
            raise RuntimeError("odd pools leak")
        return {"latency_ms": params["pool"]}

    summary = await windtunnel.tune(
        fragile, POOL, objectives={"latency_ms": "min"}, trials=30, seed=1, storage=url, experiment_id="e"
    )
    assert summary.succeeded + summary.failed == 30
    assert summary.failed > 0
    async with windtunnel.open_storage(url) as storage:
        experiment = await storage.open_experiment("e")
        failures = [r.failure async for r in experiment.trials() if r.status is Status.FAILED]
    assert all(f and "RuntimeError: odd pools leak" in f and __file__ in f for f in failures)


async def test_cancelled_from_outside_it_is_resumed_by_the_next_call(url: str) -> None:
    started = anyio.Event()
    release = anyio.Event()

    async def wait(params: dict[str, Any]) -> dict[str, float]:
        started.set()
        await release.wait()
        return {"latency_ms": params["pool"]}

    async def go() -> windtunnel.Summary:
        return await windtunnel.tune(
            wait,
            POOL,
            objectives={"latency_ms": "min"},
            trials=8,
            concurrency=4,
            storage=url,
            experiment_id="e",
        )

    async with anyio.create_task_group() as group:
        group.start_soon(go)
        await started.wait()
        group.cancel_scope.cancel()
    async with windtunnel.open_storage(url) as storage:
        experiment = await storage.open_experiment("e")
        left = {r.status async for r in experiment.trials()}
    assert left <= {Status.CANCELED, Status.PENDING}
    release.set()
    summary = await go()
    assert (summary.trials, summary.succeeded) == (8, 8)


async def test_experiments_share_a_loop_and_a_storage(url: str) -> None:
    async with windtunnel.open_storage(url) as storage, anyio.create_task_group() as group:

        async def one(name: str) -> None:
            summary = await windtunnel.tune(
                bench,
                POOL,
                objectives={"latency_ms": "min"},
                trials=20,
                concurrency=5,
                storage=storage,
                experiment_id=name,
            )
            assert summary.succeeded == 20

        for name in ("a", "b", "c"):
            group.start_soon(one, name)


async def test_tunables_may_be_an_object_and_the_id_may_be_left_out(url: str) -> None:
    groups = TunableGroups(POOL).assign({"pool": 9})
    first = await windtunnel.tune(
        bench,
        groups,
        objectives={"latency_ms": "min"},
        trials=1,
        optimizer={"name": "oneshot"},
        storage=url,
    )
    again = await windtunnel.tune(
        bench, groups, objectives={"latency_ms": "min"}, trials=1, optimizer="oneshot", storage=url
    )
    assert first.best is not None
    assert first.best.config == {"pool": 9}
    assert again.experiment_id != first.experiment_id, "each call is an experiment of its own"
    assert first.experiment_id.startswith("bench-")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"objectives": "latency_ms"}, "objectives: expected a mapping, found 'latency_ms'"),
        ({"objectives": {}}, "objectives"),
        ({"objectives": {"latency_ms": "smallest"}}, "expected 'min' or 'max'"),
        ({"trials": 0}, "trials"),
        ({"concurrency": "many"}, "concurrency"),
        ({"optimizer": "randon"}, "did you mean 'random'"),
        ({"optimizer": {"name": "grid", "pionts": 3}}, "did you mean 'points'"),
        ({"storage": "redis://x"}, "redis"),
        ({"tunables": {"db": {"params": {"pool": {"type": "int", "range": [9, 1], "default": 4}}}}}, "pool"),
    ],
)
async def test_wrong_arguments_are_told_before_anything_runs(
    url: str, change: dict[str, Any], said: str
) -> None:
    arguments: dict[str, Any] = {"tunables": POOL, "objectives": MS, "trials": 3, "storage": url, **change}

    async def never(_: dict[str, Any]) -> None:
        raise AssertionError("it ran")

    with pytest.raises(windtunnel.ConfigError, match=said):
        await windtunnel.tune(never, **arguments)


def test_it_works_in_a_plain_asyncio_program(tmp_path: Path) -> None:
    summary = asyncio.run(
        windtunnel.tune(
            bench,
            POOL,
            objectives={"latency_ms": "min"},
            trials=5,
            storage=f"sqlite:///{tmp_path / 'x.db'}",
            experiment_id="e",
        )
    )
    assert summary.succeeded == 5


async def test_an_experiment_file_runs_with_one_await(tmp_path: Path, url: str) -> None:
    file = tmp_path / "experiment.yaml"
    file.write_text(
        """
        experiment: file
        objectives: {score: min}
        trials: $n
        globals: {n: 4}
        tunables: {g: {params: {x: {type: float, range: [0, 1], default: 0.5}}}}
        environment: {class: MockEnv}
        """,
        encoding="utf-8",
    )
    summary = await windtunnel.run(file, storage=url, globals={"n": 6})
    assert summary.succeeded == 6
