"""The example of a web service, over real HTTP: experiments begin, are watched and cancelled, two at once."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import pytest
import uvicorn

import windtunnel
from windtunnel.events import EventBus, Subscription
from windtunnel.examples.service.app import Benchmark, make_app
from windtunnel.model import Status

pytestmark = pytest.mark.anyio
Emit = Callable[..., Awaitable[None]]


class Gate:
    """A benchmark that tells that it runs and ends when it may."""

    def __init__(self) -> None:
        self.open = anyio.Event()
        self.torn_down = 0

    async def benchmark(self, params: Mapping[str, Any], emit: Emit) -> Mapping[str, Any]:
        try:
            await emit("qps", params["size"])
            await self.open.wait()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.05)  # tidying up takes a moment
            self.torn_down += 1
        return {"latency_ms": params["size"]}


@asynccontextmanager
async def served(function: Benchmark, url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application, which a real server serves."""
    config = uvicorn.Config(make_app(function, url), log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)

    async def serve(listening: socket.socket) -> None:
        with anyio.CancelScope(shield=True):  # so that a failed test leaves nothing behind either
            await server.serve([listening])

    with socket.create_server(("127.0.0.1", 0)) as listening:
        base_url = "http://{}:{}".format(*listening.getsockname())
        async with anyio.create_task_group() as group:
            group.start_soon(serve, listening)
            try:
                # verify: certificates take long to load, and nothing here needs them
                async with httpx.AsyncClient(base_url=base_url, verify=False, timeout=10) as client:
                    yield client
            finally:
                server.should_exit = True


@asynccontextmanager
async def streamed(client: httpx.AsyncClient, name: str) -> AsyncIterator[AsyncIterator[tuple[str, Any]]]:
    """``(event, data)`` as they come."""
    async with client.stream("GET", f"/experiments/{name}/telemetry") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.aiter_lines()

        async def events() -> AsyncIterator[tuple[str, Any]]:
            async for line in lines:
                if line.startswith("event: "):
                    data = await anext(lines)
                    yield line.removeprefix("event: "), json.loads(data.removeprefix("data: "))

        yield events()


async def post(client: httpx.AsyncClient, **wanted: Any) -> httpx.Response:
    return await client.post("/experiments", json=wanted)


async def until_ended(client: httpx.AsyncClient, name: str) -> None:
    with anyio.fail_after(10):
        while (await client.get(f"/experiments/{name}")).status_code != 404:
            await anyio.sleep(0.01)


async def statuses(url: str, name: str) -> list[Status]:
    async with windtunnel.open_storage(url) as storage:
        experiment = await storage.open_experiment(name)
        return [record.status async for record in experiment.trials()]


async def test_telemetry_is_streamed_while_the_trial_runs_and_outcomes_follow(url: str) -> None:
    gate = Gate()
    async with served(gate.benchmark, url) as client:
        assert (await post(client, experiment="a", trials=3, seed=1)).status_code == 201
        async with streamed(client, "a") as events:
            event, data = await anext(events)
            assert (event, data["trial"], data["samples"][0][1:]) == ("telemetry", 1, ["qps", 4])
            now = (await client.get("/experiments/a")).json()
            assert (now["state"], list(now["running"]), now["finished"]) == ("running", ["1"], {})
            gate.open.set()
            rest = [one async for one in events]
        outcomes = [(data["trial"], data["status"]) for event, data in rest if event == "outcome"]
        assert outcomes == [(1, "SUCCEEDED"), (2, "SUCCEEDED"), (3, "SUCCEEDED")]
        assert rest[-1][0] == "end"
        await until_ended(client, "a")
        assert (await post(client, experiment="a", trials=4)).status_code == 201, "it can be extended"
        await until_ended(client, "a")
    assert await statuses(url, "a") == [Status.SUCCEEDED] * 4


async def test_a_cancelled_experiment_leaves_nothing_running_and_goes_on_when_posted_again(url: str) -> None:
    gate = Gate()
    async with served(gate.benchmark, url) as client:
        await post(client, experiment="a", trials=4, concurrency=2)
        async with streamed(client, "a") as events:
            assert {(await anext(events))[1]["trial"] for _ in range(2)} == {1, 2}
            answer = await client.delete("/experiments/a")
            assert (answer.status_code, gate.torn_down) == (204, 2), "it answers when they are torn down"
            rest = [one async for one in events]
        assert [data["status"] for event, data in rest if event == "outcome"] == ["CANCELED"] * 2
        assert rest[-1][0] == "end"
        assert (await client.delete("/experiments/a")).status_code == 404
        assert Status.RUNNING not in await statuses(url, "a")
        gate.open.set()
        await post(client, experiment="a", trials=4)
        await until_ended(client, "a")
    assert await statuses(url, "a") == [Status.SUCCEEDED] * 4


async def test_two_at_once_are_independent(url: str) -> None:
    gate = Gate()
    async with served(gate.benchmark, url) as client:
        for name in ("a", "b"):
            assert (await post(client, experiment=name, trials=1)).status_code == 201
        async with streamed(client, "a") as of_a, streamed(client, "b") as of_b:
            await anext(of_a)
            await anext(of_b)
            assert (await client.delete("/experiments/a")).status_code == 204
            assert (await client.get("/experiments/b")).json()["running"] == {"1": "run"}
            gate.open.set()
            assert [data["status"] async for event, data in of_b if event == "outcome"] == ["SUCCEEDED"]
    assert (await statuses(url, "a"), await statuses(url, "b")) == ([Status.CANCELED], [Status.SUCCEEDED])


async def test_a_client_that_goes_away_costs_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    buses: list[EventBus] = []
    subscribe = EventBus.subscribe

    def noted(bus: EventBus, *, capacity: int) -> Subscription:
        buses.append(bus)
        return subscribe(bus, capacity=capacity)

    def is_heard() -> bool:
        return buses[0].is_heard

    monkeypatch.setattr(EventBus, "subscribe", noted)
    gate = Gate()
    async with served(gate.benchmark, url) as client:
        await post(client, experiment="a", trials=2)
        async with streamed(client, "a") as events:
            await anext(events)
            assert is_heard()
        with anyio.fail_after(5):
            while is_heard():
                await anyio.sleep(0.01)
        async with streamed(client, "a") as events:
            gate.open.set()
            assert [data["status"] async for event, data in events if event == "outcome"] == ["SUCCEEDED"] * 2
    assert await statuses(url, "a") == [Status.SUCCEEDED] * 2


async def test_the_end_of_the_application_cancels_what_runs(url: str) -> None:
    gate = Gate()
    async with served(gate.benchmark, url) as client:
        await post(client, experiment="a", trials=2)
        async with streamed(client, "a") as events:
            await anext(events)
    assert gate.torn_down == 1
    assert Status.RUNNING not in await statuses(url, "a")


async def test_wrong_requests_are_refused_with_the_reason(url: str) -> None:
    async with served(Gate().benchmark, url) as client:
        for wanted, said in (
            ({"trials": 3}, "'experiment'"),
            ({"experiment": "a", "storage": "x"}, "concurrency, repeats"),
            ({"experiment": "a", "trials": "many"}, "trials"),
        ):
            answer = await post(client, **wanted)
            assert (answer.status_code, said in answer.text) == (422, True), answer.text
        assert (await client.post("/experiments", content="{")).status_code == 422
        assert (await client.get("/experiments/a/telemetry")).status_code == 404
        assert (await post(client, experiment="a")).status_code == 201
        assert (await post(client, experiment="a")).status_code == 409
