"""Engines think in a thread, while the loop goes on, and are told each outcome once, in order."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest

import windtunnel
from windtunnel import TunableGroups
from windtunnel.events import TrialFinished
from windtunnel.model import History
from windtunnel.optimizers import Optimizer, optimizer_class
from windtunnel.optimizers.registry import OPTIMIZERS

SPACE = TunableGroups(
    {
        "g": {
            "params": {
                "x": {"type": "float", "range": [0, 1], "default": 0.5},
                "n": {"type": "int", "range": [1, 100], "special": [0], "default": 0},
                "k": {"type": "categorical", "values": ["a", "b"], "default": "a"},
            }
        }
    }
)
SLOTS, TRIALS = 4, 16
DESCRIBED: dict[str, dict[str, Any] | list[dict[str, Any]]] = {
    "tpe": {"startup": 6},
    "gp": {"startup": 6},
    "cmaes": {},
    "nsga2": {},
    "smac": {"startup": 6, "challengers": 200},
    "flaml": {"startup": 6},
    "mixed": [{"name": "qmc", "trials": 6}, {"name": "tpe", "startup": 6}],
    "qmc": {},
    "random": {},
    "grid": {},
}


class Watch:
    """Where an engine is called, what it is told, and whether the loop ran meanwhile."""

    def __init__(self) -> None:
        self.ticks = 0
        self.threads: set[int] = set()
        self.told: list[int] = []
        self.held_up_s = 0.0

    async def tick(self) -> None:
        while True:
            self.ticks += 1
            await anyio.sleep(0.005)

    @contextmanager
    def call(self) -> Iterator[None]:
        self.threads.add(threading.get_ident())
        began, ticks = time.monotonic(), self.ticks
        yield
        if self.ticks == ticks:
            self.held_up_s = max(self.held_up_s, time.monotonic() - began)


def watched(engine: type[Optimizer], watch: Watch) -> type[Optimizer]:
    class Watched(engine):  # type: ignore[misc,valid-type] # a class that the test is given
        def ask(self, count: int = 1) -> list[TunableGroups]:
            with watch.call():
                return list(super().ask(count))

        def tell(self, history: History) -> None:
            with watch.call():
                watch.told += history.trial_ids
                super().tell(history)

    return Watched


async def bench(params: dict[str, Any]) -> dict[str, float]:
    for _ in range(params["n"] % 7):  # later ones overtake it
        await anyio.sleep(0)
    return {"score": float(params["x"] + params["n"])}


@pytest.mark.filterwarnings("ignore::RuntimeWarning:numpy")  # SMAC takes means of nothing for its log
@pytest.mark.parametrize("name", DESCRIBED)
async def test_an_engine_never_holds_up_the_loop_and_hears_of_each_trial_once_in_order(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing := OPTIMIZERS[name].missing:
        pytest.skip(f"needs {', '.join(missing)}: pip install 'windtunnel[{OPTIMIZERS[name].extra}]'")
    watch, described = Watch(), DESCRIBED[name]
    engine = watched(await anyio.to_thread.run_sync(optimizer_class, name), watch)
    monkeypatch.setattr(
        "windtunnel.optimizers.registry.optimizer_class",
        lambda wanted: engine if wanted == name else optimizer_class(wanted),
    )
    async with (
        anyio.create_task_group() as group,
        windtunnel.open_scheduler(
            bench,
            SPACE,
            objectives={"score": "min"},
            trials=TRIALS,
            concurrency=SLOTS,
            optimizer=described if isinstance(described, list) else {"name": name, **described},
            seed=3,
            storage="sqlite:///:memory:",
        ) as scheduler,
    ):
        events = scheduler.events()
        group.start_soon(watch.tick)
        summary = await scheduler.run()
        ended = [event.trial.trial_id async for event in events if isinstance(event, TrialFinished)]
        group.cancel_scope.cancel()
    assert summary.succeeded == TRIALS
    assert threading.get_ident() not in watch.threads
    assert watch.held_up_s < 0.25
    if engine.learns:
        assert watch.told == ended[: len(watch.told)]
        assert len(watch.told) >= TRIALS - SLOTS
