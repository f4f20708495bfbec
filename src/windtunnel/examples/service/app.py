"""A web service that runs experiments: to try, to copy and to change. Needs starlette and uvicorn. ::

    uvicorn --factory windtunnel.examples.service.app:make_app --timeout-graceful-shutdown 5

    curl localhost:8000/experiments -d '{"experiment": "first", "trials": 40, "concurrency": 4}'
    curl -N localhost:8000/experiments/first/telemetry    # server-sent events, until it ends
    curl localhost:8000/experiments/first                 # how far it is
    curl -X DELETE localhost:8000/experiments/first       # cancel it; POST it again to go on

Experiments are tasks of one group, in one event loop and on one open storage; they end with the application.
"""

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
from anyio.abc import TaskGroup, TaskStatus
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

import windtunnel
from windtunnel.events import EventsDropped, Subscription, TelemetryRecorded, TrialFinished

Benchmark = Callable[..., Awaitable[Mapping[str, Any]]]

TUNABLES = {"pool": {"cost": 1, "params": {"size": {"type": "int", "range": [1, 64], "default": 4}}}}
OBJECTIVES: dict[str, Any] = {"latency_ms": "min"}
OPTIONS = {"trials", "concurrency", "repeats", "seed"}


async def benchmark(params: Mapping[str, Any], emit: Callable[..., Awaitable[None]]) -> Mapping[str, Any]:
    """Put your own here. This one pretends that a pool of 12 is the best."""
    latency = 5 + abs(params["size"] - 12) / 4
    for second in range(20):
        await anyio.sleep(0.1)
        await emit("latency_ms", latency + second % 3)
    return {"latency_ms": latency}


@dataclass
class Running:
    scheduler: windtunnel.Scheduler
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    ended: anyio.Event = field(default_factory=anyio.Event)


class Service:
    """The experiments that run now, by their names."""

    def __init__(self, function: Benchmark, storage: windtunnel.Storage, group: TaskGroup) -> None:
        self.running: dict[str, Running] = {}
        self._open = partial(windtunnel.open_scheduler, function, TUNABLES, storage=storage)
        self._group, self._one_at_a_time = group, anyio.Lock()

    async def start(self, name: str, options: Mapping[str, Any]) -> None:
        """Return when it runs; what is wrong with the request is raised here, by the task that begins."""
        async with self._one_at_a_time:
            if name in self.running:
                raise HTTPException(409, f"{name!r} runs already")
            await self._group.start(self._conduct, name, options)

    def find(self, request: Request) -> Running:
        if running := self.running.get(request.path_params["name"]):
            return running
        raise HTTPException(404, "no such experiment is running")

    async def _conduct(self, name: str, options: Mapping[str, Any], *, task_status: TaskStatus[None]) -> None:
        async with self._open(objectives=OBJECTIVES, experiment_id=name, **options) as scheduler:
            running = self.running[name] = Running(scheduler)
            task_status.started()
            try:
                with running.scope:
                    await scheduler.run()
            except windtunnel.WindtunnelError as exc:  # from here on its own matter: the others go on
                logging.getLogger(__name__).warning("%s has ended: %s", name, exc)
            finally:
                del self.running[name]
                running.ended.set()


async def start(request: Request) -> Response:
    match await request.json():
        case {"experiment": str(name), **options} if options.keys() <= OPTIONS and name.strip("/"):
            await request.state.service.start(name, options)
            return JSONResponse({"experiment": name}, 201)
    raise HTTPException(422, f"expected an object with 'experiment' and maybe {', '.join(sorted(OPTIONS))}")


async def show(request: Request) -> Response:
    now = request.state.service.find(request).scheduler.snapshot()
    steps = {trial.trial_id: trial.step for trial in now.running}
    counts = {status.name: count for status, count in now.finished.items()}
    return JSONResponse({"state": now.state, "pending": now.pending, "finished": counts, "running": steps})


async def cancel(request: Request) -> Response:
    (running := request.state.service.find(request)).scope.cancel()
    await running.ended.wait()  # not for ever: teardowns have a time limit
    return Response(status_code=204)


async def stream(request: Request) -> Response:
    events = request.state.service.find(request).scheduler.events()
    return StreamingResponse(messages(events), media_type="text/event-stream")


async def messages(events: Subscription) -> AsyncIterator[str]:
    with events:  # a client that goes away ends this generator, and nobody listens any more
        async for event in events:
            match event:
                case TelemetryRecorded(trial=trial, samples=samples):
                    yield message("telemetry", {"trial": trial.trial_id, "samples": samples})
                case TrialFinished(trial=trial, result=result, failure=failure):
                    outcome = {"status": result.status.name, "metrics": result.metrics, "failure": failure}
                    yield message("outcome", {"trial": trial.trial_id, **outcome})
                case EventsDropped(count=count):  # the client reads too slowly; nobody waits for it
                    yield message("missed", {"events": count})
    yield message("end", {})


def message(event: str, data: object) -> str:
    return f"event: {event}\ndata: {json.dumps(data, default=str)}\n\n"


def make_app(function: Benchmark = benchmark, storage: str = "sqlite:///service.db") -> Starlette:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Service]]:
        async with windtunnel.open_storage(storage) as opened, anyio.create_task_group() as group:
            yield {"service": Service(function, opened, group)}
            group.cancel_scope.cancel()

    async def refused(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, 422)

    routes = [
        Route("/experiments", start, methods=["POST"]),
        Route("/experiments/{name:path}/telemetry", stream, methods=["GET"]),
        Route("/experiments/{name:path}", show, methods=["GET"]),
        Route("/experiments/{name:path}", cancel, methods=["DELETE"]),
    ]
    refusals = dict.fromkeys((windtunnel.ConfigError, json.JSONDecodeError, UnicodeDecodeError), refused)
    return Starlette(lifespan=lifespan, routes=routes, exception_handlers=refusals)
