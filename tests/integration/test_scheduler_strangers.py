"""What an environment, its host application or the file system does that nobody would expect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.integration.engines import Lab, ScriptedEnv, opened, scheduler
from windtunnel import StorageUnavailable, tune
from windtunnel.environments import Environment
from windtunnel.errors import ResultsInvalid
from windtunnel.scheduling import Host

SPACE = {"g": {"params": {"x": {"type": "int", "range": [0, 1000], "default": 1}}}}


async def test_an_environment_that_cancels_its_own_task_fails_its_trial_only(url: str) -> None:
    lab = Lab()

    async def run(env: ScriptedEnv) -> None:
        if env.trial_id == 3:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        await anyio.sleep(0.001)

    lab.on_run = run
    async with opened(url) as experiment:
        summary = await scheduler(experiment, lab, trials=8).run()
        record = await experiment.record_of(3)
    assert (summary.succeeded, summary.failed, summary.canceled) == (7, 1, 0)
    assert "cancelled the task it runs in" in (record.failure or "")
    assert sorted(lab.steps("teardown")) == list(range(1, 9))


@pytest.mark.parametrize("step", ["make", "setup", "run", "teardown"])
async def test_an_environment_that_exits_fails_its_trial_only(url: str, step: str) -> None:
    lab, made = Lab(), 0

    def make(_host: Host, _runner_id: int) -> Environment:
        nonlocal made
        made += 1
        if step == "make" and made == 1:
            raise SystemExit(3)
        return ScriptedEnv(lab)

    async def leave(env: ScriptedEnv) -> None:
        if env.trial_id == 2:
            raise SystemExit(3)

    hooks: dict[str, str] = {"setup": "on_setup", "run": "on_run", "teardown": "on_teardown"}
    if step in hooks:
        setattr(lab, hooks[step], leave)
    async with opened(url) as experiment:
        summary = await scheduler(experiment, lab, trials=4, slots=1, make_environment=make).run()
    assert summary.succeeded == (4 if step == "teardown" else 3)


@pytest.mark.parametrize("how", ["cancel", "cancel twice", "timeout"])
@pytest.mark.parametrize("after_s", [0.0, 0.03, 0.1])
async def test_tune_that_is_cancelled_the_asyncio_way_ends_well_and_resumes(
    url: str, how: str, after_s: float
) -> None:
    """The thread that writes may outlive the task that was cancelled; the database is closed after it."""

    async def bench(params: Mapping[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(0.05)
        return {"score": params["x"]}

    def go() -> Any:
        options: Any = {"trials": 40, "concurrency": 8, "seed": 1, "storage": url, "experiment_id": "e"}
        return tune(bench, SPACE, objectives={"score": "min"}, **options)

    if how == "timeout":
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(after_s):
                await go()
    else:
        task = asyncio.get_running_loop().create_task(go())
        await asyncio.sleep(after_s)
        task.cancel()
        if how == "cancel twice":
            await asyncio.sleep(0.002)
            task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() or task.exception() is None
    summary = await go()
    assert summary.succeeded == 40


async def test_a_name_that_no_metric_can_have_is_refused_where_it_is_emitted(url: str) -> None:
    lab = Lab()
    refusals: list[str] = []
    wrong: list[Any] = ["n\0", "\ud800", 5, "x" * 513]

    async def run(env: ScriptedEnv) -> None:
        await env.emit("good", 1)
        for name in wrong:
            try:
                await env.emit(name, 1)
            except ResultsInvalid as exc:
                refusals.append(str(exc))
        await env.emit("good", 2)

    lab.on_run = run
    async with opened(url) as experiment:
        summary = await scheduler(experiment, lab, trials=1).run()
        points = [(s.metric, s.value) for s in await experiment.load_telemetry(1)]
    assert summary.succeeded == 1
    assert points == [("good", 1.0), ("good", 2.0)], "what was good is kept"
    assert len(refusals) == len(wrong)


@pytest.mark.parametrize("do", [Path.unlink, lambda path: path.rename(path.with_suffix(".old"))])
async def test_a_database_that_is_removed_ends_the_run_and_is_named(
    tmp_path: Path, do: Callable[[Path], Any]
) -> None:
    path, lab = tmp_path / "runs.db", Lab()

    async def run(env: ScriptedEnv) -> None:
        if env.trial_id == 3:
            await anyio.to_thread.run_sync(do, path)

    lab.on_run = run
    with pytest.raises(StorageUnavailable, match=r"runs\.db.*removed or replaced"):
        async with opened(f"sqlite:///{path}") as experiment:
            await scheduler(experiment, lab, trials=500, slots=1).run()
