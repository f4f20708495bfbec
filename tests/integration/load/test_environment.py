"""Load tests inside trials."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.integration.load.server import Server, closed_port
from windtunnel.cli.main import main
from windtunnel.environments import Environment, LoadEnv
from windtunnel.errors import ConfigError
from windtunnel.loadgen.hdrlog import decoded
from windtunnel.model import Status
from windtunnel.testing.environments import SampleList, torn_down
from windtunnel.tunables import TunableGroups

RATE = TunableGroups({"load": {"params": {"rate": {"type": "int", "range": [10, 1000], "default": 50}}}})


def environment(url: str, /, **options: Any) -> Environment:
    load = {"rate": "$rate", "duration": "1s", "url": url, **options}
    return LoadEnv(name="load", config={"load": load, "keep_invalid": True}, tunables=RATE)


async def test_rate_is_a_tunable_and_percentiles_are_metrics(server: Server) -> None:
    sink = SampleList()
    async with torn_down(environment(server.url)) as load:
        assert await load.setup(RATE.assign({"rate": 80}))
        with load.streaming_to(sink):
            status, _, metrics = await load.run()
    assert status is Status.SUCCEEDED, load.failure
    assert metrics is not None
    assert (metrics["sent"], metrics["completed"], metrics["errors"]) == (80, 80, 0)
    assert 0 < metrics["p50_ms"] <= metrics["p99_ms"] <= metrics["max_ms"]
    told = {sample.metric: sample.value for sample in sink.samples}
    assert {"rate", "p99_ms", "in_flight", "schedule_error_p99_ms"} <= told.keys()
    histogram = decoded(str(told["latency_histogram"]))
    assert histogram.count == 80
    assert histogram.quantile(0.5) / 1e6 == pytest.approx(metrics["p50_ms"], rel=0.002)


async def test_limits_make_a_metric_that_is_0_when_they_are_missed(server: Server) -> None:
    load = {"rate": "$rate", "duration": "500ms", "url": server.url}
    found = []
    for limits in (["p99<10s", "errors<1%"], ["p99<10s", "rate>9999"]):
        config = {"load": load, "keep_invalid": True, "slo": limits}
        async with torn_down(LoadEnv(name="load", config=config, tunables=RATE)) as environment:
            assert await environment.setup(RATE)
            _, _, metrics = await environment.run()
        assert metrics is not None, environment.failure
        found.append((metrics["slo_kept"], metrics["rate_within_slo"], metrics["rate"]))
    (kept, within, rate), missed = found
    assert (kept, within) == (1, rate)
    assert missed[:2] == (0, 0)


def test_limit_that_is_none_is_told_with_its_place() -> None:
    config = {"load": {"url": "http://127.0.0.1:1/", "rate": 1}, "slo": ["errors<1%", "p99<50"]}
    with pytest.raises(ConfigError, match="has no unit of time") as caught:
        LoadEnv(name="load", config=config)
    assert tuple(caught.value.path) == ("config", "slo", 1)


async def test_target_that_is_down_fails_the_trial(server: Server) -> None:
    async with torn_down(environment("http://127.0.0.1:1/")) as load:
        assert await load.setup(RATE)
        assert (await load.run()).status is Status.FAILED
        assert "connection refused" in (load.failure or "")


async def test_cancelled_trial_leaves_nothing(server: Server) -> None:
    async with torn_down(environment(server.url, duration="30s")) as load:
        assert await load.setup(RATE)
        with anyio.move_on_after(1.5) as scope:
            await load.run()
        assert scope.cancelled_caught


async def set_up(options: dict[str, Any]) -> None:
    await environment("http://127.0.0.1:1/", **options).setup(RATE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conections": 5}, "did you mean 'connections'"),
        ({"url": "http://192.0.2.1/"}, "confirmed: true"),
        ({"rate": "$rte"}, "expected a number"),
    ],
)
def test_wrong_plan_is_told_before_anything_runs(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        anyio.run(set_up, options)
    assert message in str(caught.value)


EXPERIMENT = """
experiment: capacity
objectives: {{rate: max}}
trials: 2
optimizer: {{name: capacity, slo: ["errors<1"]}}
tunables:
  load: {{params: {{rate: {{type: float, range: [10, 400], default: 30}}}}}}
environment:
  class: CompositeEnv
  config:
    children:
      - class: LocalEnv
        config:
          setup:
            - '"{python}" -S "{server}" --port {port} > port &'
            - 'until [ -s port ]; do sleep 0.05; done'
      - class: LoadEnv
        config:
          keep_invalid: true
          load: {{url: "http://127.0.0.1:{port}/", rate: $rate, duration: 500ms}}
"""


def test_search_for_the_capacity_is_an_experiment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each trial starts its own server, loads it, and ends it."""
    file = tmp_path / "capacity.yaml"
    program = Path(__file__).with_name("server.py")
    file.write_text(EXPERIMENT.format(python=sys.executable, server=program, port=closed_port()))
    storage = f"sqlite:///{tmp_path / 'runs.db'}"
    assert main(["run", str(file), "--storage", storage, "--json"]) == 0
    trials = json.loads(capsys.readouterr().out)["trials"]
    first, second = (trial["config"]["rate"] for trial in trials)
    assert first == 30
    assert 1.5 < second / first <= 2
    assert all(trial["metrics"]["errors"] == 0 for trial in trials)
