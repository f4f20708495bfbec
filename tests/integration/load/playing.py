"""Plays a few sessions in the test's own event loop, and says what was noted."""

from __future__ import annotations

import contextlib
import time
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from windtunnel.loadgen.compile import Part, client_of, resource_of
from windtunnel.loadgen.driver import OpenLoop
from windtunnel.loadgen.plan import LoadPlan
from windtunnel.loadgen.recorder import Recorder, Window
from windtunnel.options import parse_options

__all__ = ["played"]

_LIMIT_S = 15


async def played(
    count: int = 10, *, directory: Path = Path(), apart_s: float = 0.002, prepare: int = 1, **options: Any
) -> Window:
    """Begin ``count`` sessions ``apart_s`` apart, and wait for their ends."""
    plan = parse_options(LoadPlan, {"rate": 1, **options})
    recorder = Recorder()
    async with contextlib.AsyncExitStack() as stack:
        shared = await anyio.to_thread.run_sync(resource_of, plan, directory)
        resource = None if shared is None else await stack.enter_async_context(shared)
        made = partial(client_of, plan, recorder, Part(), directory, resource)
        client = await stack.enter_async_context(await anyio.to_thread.run_sync(made))
        if prepare:
            await client.prepare(prepare)
        begin = time.monotonic_ns()
        loop = OpenLoop(client, (begin + round(number * apart_s * 1e9) for number in range(count)))
        async with anyio.create_task_group() as beside:

            async def sweep() -> None:
                while True:
                    client.sweep(time.monotonic_ns())
                    await anyio.sleep(0.02)

            beside.start_soon(sweep)
            loop.start()
            with anyio.fail_after(_LIMIT_S):
                await loop.done()
            beside.cancel_scope.cancel()
        return recorder.take(0, in_flight=client.in_flight, received=client.take_received())
