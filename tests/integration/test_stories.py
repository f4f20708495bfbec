"""Everything about a trial is kept, and can be read."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

import windtunnel
from tests.integration.engines import Lab, ScriptedEnv, opened, scheduler
from windtunnel import EnvironmentFailed, Host, NewTrial, NotFound, Status, open_storage
from windtunnel.errors import HostLost
from windtunnel.protocols import HostFacts
from windtunnel.scheduling.facts import gather

from .engines import SPACE


async def test_every_attempt_is_told_with_its_worker_its_time_and_its_reason(url: str) -> None:
    lab = Lab()

    async def run(env: ScriptedEnv) -> None:
        await env.emit("qps", 1.0)
        raise EnvironmentFailed("the disk is on fire")

    lab.on_run = run
    async with opened(url) as experiment:
        await experiment.add_trials([NewTrial(tunables=SPACE, parameters={"zone": "b"}, priority=3)])
        (lost,) = await experiment.claim("elsewhere/1/1/x", limit=1, lease=timedelta(seconds=60))
        await experiment.release(lost, reason="its worker left")
        engine = scheduler(experiment, lab, trials=1, facts={"cpus": 2, "git": {"dirty": False}})
        await engine.run()
        story = await experiment.story(1)
        with pytest.raises(NotFound, match="no trial 9"):
            await experiment.story(9)
    first, second = story.attempts
    assert (first.attempt, first.status, first.owner) == (1, Status.CANCELED, "elsewhere/1/1/x")
    assert (first.reason, first.facts) == ("its worker left", {})
    assert (second.attempt, second.status, second.owner) == (2, Status.FAILED, engine.owner)
    assert second.reason == "the disk is on fire"
    assert second.facts == {"cpus": 2, "git": {"dirty": False}}
    assert (first.points, second.points) == (0, 1)
    assert first.started is not None
    assert second.started is not None
    assert second.ended is not None
    assert story.created <= first.started <= second.started <= second.ended
    assert (story.priority, story.parameters) == (3, {"zone": "b"})


async def test_what_a_host_is_is_kept_and_whoever_does_not_tell_fails_no_trial(url: str) -> None:
    asked: list[str] = []

    async def news(host: str) -> HostFacts | None:
        asked.append(host)
        if host == "mute":
            raise HostLost(host, doing="asking", reason="it hung up")
        return HostFacts(kernel="6.1", cpus=8, boot_id="b7") if asked.count(host) == 1 else None

    hosts = [Host(name="db1", address="10.0.0.1"), Host(name="mute", address="10.0.0.2"), Host(name="here")]
    async with opened(url) as experiment:
        engine = scheduler(experiment, Lab(), trials=12, hosts=hosts, host_news=news)
        assert (await engine.run()).succeeded == 12
        stories = [await experiment.story(i) for i in range(1, 13)]
    facts = {(story.attempts[0].host, *story.attempts[0].host_facts.items()) for story in stories}
    assert facts == {("db1", ("kernel", "6.1"), ("cpus", 8), ("boot_id", "b7")), ("mute",), ("here",)}
    assert set(asked) == {"db1", "mute"}, "this machine's facts are those of the session"


async def test_a_run_remembers_the_machine_and_the_versions(url: str) -> None:
    async def bench(params: dict[str, object]) -> dict[str, object]:
        return {"x": params["x"]}

    space = {"g": {"params": {"x": {"type": "int", "range": [0, 9], "default": 1}}}}
    await windtunnel.tune(bench, space, objectives={"x": "min"}, trials=1, storage=url, experiment_id="e")
    async with open_storage(url) as storage:
        story = await (await storage.open_experiment("e")).story(1)
    facts = story.attempts[0].facts
    assert facts["cpus"] >= 1
    assert facts["memory_mib"] > 0
    assert facts["windtunnel"]
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))


def test_the_commit_of_the_configuration_is_known_and_whether_it_was_changed(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    file = tmp_path / "e.yaml"
    file.write_text("a: 1\n", encoding="utf-8")
    assert "git" not in gather(str(file)), "there is no repository"
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    git("remote", "add", "origin", "https://me:hunter2@example.org/bench.git")
    facts = gather(str(file))["git"]
    assert facts == {
        "repository": "https://example.org/bench.git",
        "commit": git("rev-parse", "HEAD"),
        "dirty": False,
    }
    file.write_text("a: 2\n", encoding="utf-8")
    assert gather(str(file))["git"]["dirty"] is True


def test_the_command_tells_it_in_words_and_as_json(tmp_path: Path) -> None:
    (tmp_path / "e.json").write_text(
        json.dumps(
            {
                "experiment": "e",
                "objectives": {"score": "min"},
                "trials": 1,
                "environment": {"class": "LocalEnv", "config": {"run": ["echo so far; exit 3"]}},
            }
        ),
        encoding="utf-8",
    )

    def windtunnel_says(*words: str) -> str:
        command = [sys.executable, "-m", "windtunnel", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout

    windtunnel_says("run", "e.json")
    said = windtunnel_says("show", "e", "--trial", "1")
    for fragment in (
        "trial 1  failed",
        "attempt 1 on localhost",
        "status 3",
        "so far",
        "cpus: ",
        "windtunnel: ",
    ):
        assert fragment in said
    data = json.loads(windtunnel_says("show", "e", "--trial", "1", "--json"))
    assert data["status"] == "FAILED"
    assert data["attempts"][0]["facts"]["config"].endswith("e.json")
