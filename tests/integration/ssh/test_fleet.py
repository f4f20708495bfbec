"""Whole experiments over SSH, from their description to their results."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import anyio
import pytest

import windtunnel
from tests.integration.ssh.servers import Fleet, kill
from windtunnel import Status, open_storage
from windtunnel.events import StepStarted, TelemetryRecorded


def described(servers: Fleet, tmp_path: Path, names: list[str], **more: Any) -> dict[str, Any]:
    """An experiment over hosts of these names, each a server of its own."""
    hosts = []
    for name in names:
        options = servers.server().options()
        hosts.append(
            {
                "name": name,
                "address": options.hostname,
                "port": options.port,
                "user": options.username,
                "key": [str(path) for path in options.key or ()],
                "known_hosts": [str(path) for path in options.known_hosts or ()],
                "slots": 2,
            }
        )
    return {
        "experiment": "fleet",
        "objectives": {"score": "min"},
        "trials": 8,
        "storage": f"sqlite:///{tmp_path / 'fleet.db'}",
        "optimizer": {"name": "random", "seed": 3},
        "tunables": {"g": {"params": {"x": {"type": "int", "range": [0, 99], "default": 5}}}},
        "hosts": hosts,
        **more,
    }


REMOTE: dict[str, Any] = {
    "class": "RemoteEnv",
    "config": {
        "shell_env_params": ["x"],
        "run": ['echo "qps=$x"', 'echo "score: $x"', "echo \"where: '$host'\""],
        "results_stdout_pattern": r"^(?P<metric>score): (?P<value>\S+)$",
        "telemetry_stdout_pattern": r"^(?P<metric>qps)=(?P<value>\S+)$",
    },
}


@pytest.mark.timeout(60)
async def test_trials_run_on_all_hosts_and_their_telemetry_arrives(servers: Fleet, tmp_path: Path) -> None:
    description = described(servers, tmp_path, ["web1"], environment=REMOTE, repeats=1)
    summary = await windtunnel.run(description)
    assert (summary.succeeded, summary.failed) == (8, 0)
    async with open_storage(description["storage"]) as storage:
        experiment = await storage.open_experiment("fleet")
        records = [record async for record in experiment.trials()]
        telemetry = await experiment.load_telemetry(1)
        stories = [await experiment.story(record.trial_id) for record in records]
    assert {record.host for record in records} == {"web1"}
    assert [record.metrics for record in records] == [{"score": record.config["x"]} for record in records]
    assert [(s.metric, s.value) for s in telemetry] == [("qps", records[0].config["x"])]
    (facts,) = {tuple(story.attempts[0].host_facts.items()) for story in stories}
    assert dict(facts)["kernel"] == platform.release()
    assert dict(facts)["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert {"os", "cpus", "memory", "clock_offset", "latency", "server"} <= dict(facts).keys()


@pytest.mark.timeout(60)
async def test_when_a_host_dies_its_trials_are_run_on_another(
    servers: Fleet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Whatever runs on db2 tells something and does not end.
    run = [REMOTE["config"]["run"][0], '[ "$host" != db2 ] || sleep 1000', *REMOTE["config"]["run"]]
    environment = {**REMOTE, "config": {**REMOTE["config"], "run": run}}
    description = described(servers, tmp_path, ["db1", "db2"], environment=environment)
    dying = servers.servers[-1]
    there: set[int] = set()
    async with windtunnel.open_scheduler(description) as engine:
        with engine.events() as events:
            async with anyio.create_task_group() as group:
                await group.start(engine.run)
                async for event in events:
                    if isinstance(event, StepStarted) and (event.step, event.host) == ("run", "db2"):
                        there.add(event.trial.trial_id)
                    if isinstance(event, TelemetryRecorded) and event.trial.trial_id in there:
                        break
                kill(dying.pid, *dying.sessions())
        assert "db2" in engine.snapshot().quarantined
    assert "host 'db2' gets no trials for 10 s: " in caplog.text
    async with open_storage(description["storage"]) as storage:
        experiment = await storage.open_experiment("fleet")
        records = [record async for record in experiment.trials()]
        again = [record.trial_id for record in records if record.attempt > 1]
        kept = {one: await experiment.load_telemetry(one, attempt=1) for one in again}
    assert any(sample.metric == "qps" for samples in kept.values() for sample in samples)
    found = [(record.status, record.attempt, record.host) for record in records]
    assert {status for status, _, _ in found} == {Status.SUCCEEDED}, [one.failure for one in records]
    assert any(attempt > 1 for _, attempt, _ in found), "what ran there was run again"
    assert {host for _, attempt, host in found if attempt > 1} == {"db1"}


@pytest.mark.timeout(60)
async def test_a_trial_over_several_hosts_knows_them_by_their_roles(servers: Fleet, tmp_path: Path) -> None:
    run = ['echo "seen: $role_host"', 'echo "score: $x"']
    child = {**REMOTE["config"], "run": run, "shell_env_params": ["x", "role_host"]}
    child["results_stdout_pattern"] = r"^(?P<metric>score|seen): (?P<value>\S+)$"
    environment = {
        "class": "CompositeEnv",
        "config": {
            "children": [
                {"class": "RemoteEnv", "on": "server", "config": REMOTE["config"]},
                {
                    "class": "RemoteEnv",
                    "on": "client",
                    "config": {**child, "const_args": {"role_host": "$server_host"}},
                },
            ]
        },
    }
    description = described(servers, tmp_path, ["n1", "n2"], environment=environment, trials=4)
    description["hosts"][0]["labels"] = ["db"]
    description["hosts"][1]["labels"] = ["load"]
    description["hosts_per_trial"] = {"server": {"labels": ["db"]}, "client": {"labels": ["load"]}}
    summary = await windtunnel.run(description)
    assert (summary.succeeded, summary.failed) == (4, 0), summary
    assert summary.best is not None
    assert summary.best.metrics is not None
    assert summary.best.metrics["seen"] == "n1", "the client ran elsewhere and knew its server"
