"""Several workers of one experiment that have hosts of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from windtunnel.config import from_mapping
from windtunnel.config.build import assemble
from windtunnel.errors import ConfigError
from windtunnel.model import Summary


def described(url: str, folder: Path) -> dict[str, Any]:
    return {
        "experiment": "e",
        "storage": url,
        "objectives": {"score": "min"},
        "trials": 12,
        "hosts": [{"name": "db[1-3]"}, {"name": "spare"}],
        "environment": {
            "class": "LocalEnv",
            "config": {
                # A slot that is taken twice at once is found locked.
                "run": [f'mkdir "{folder}/$host"', "sleep 0.05", f'rmdir "{folder}/$host"', "echo score: 1"],
                "results_stdout_pattern": r"^(?P<metric>score): (?P<value>\S+)$",
            },
        },
    }


async def test_workers_with_hosts_of_their_own_do_not_meet(url: str, tmp_path: Path) -> None:
    loaded = await anyio.to_thread.run_sync(from_mapping, described(url, tmp_path))
    owners: dict[str, set[str]] = {}
    summaries: list[Summary] = []

    async def work(only: str) -> None:
        async with assemble(loaded, only=only) as (engine, experiment):
            summaries.append(await engine.run())
            async for record in experiment.trials():
                story = await experiment.story(record.trial_id)
                owners.setdefault(str(story.attempts[-1].owner), set()).add(str(record.host))

    async with anyio.create_task_group() as workers:
        workers.start_soon(work, "db1")
        workers.start_soon(work, "db[2-3]")
    assert [(one.succeeded, one.failed) for one in summaries] == [(12, 0)] * 2
    assert sorted(map(sorted, owners.values())) == [["db1"], ["db2", "db3"]]


@pytest.mark.parametrize(
    ("more", "only", "message"),
    [
        ({}, "db[3-4]", "there is no host 'db4'; did you mean"),
        ({"hosts": None}, "db1", "the experiment has none"),
        ({"hosts_per_trial": {"server": 2}}, "db1", "expected 2 hosts, found 1 among hosts"),
    ],
)
async def test_what_cannot_be_chosen_is_said(
    url: str, tmp_path: Path, more: dict[str, Any], only: str, message: str
) -> None:
    loaded = await anyio.to_thread.run_sync(from_mapping, {**described(url, tmp_path), **more})
    with pytest.raises(ConfigError, match=message):
        async with assemble(loaded, only=only):
            pass
