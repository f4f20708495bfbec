"""A tree of mlos_bench whose scripts run on a host, with files brought there and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread

from tests.integration.ssh.servers import Server
from tests.mlos_trees import read, written
from windtunnel.config.build import assemble
from windtunnel.config.mlos import Tree

_LOCAL = "mlos_bench.environments.local.LocalFileShareEnv"
_REQUIRED = ["experiment_id", "trial_id", "folder"]


def tree(folder: Path, server: Server) -> Tree:
    """It dumps the tunables here, has the host double one, and reads the result here."""
    options = server.options()
    config = {
        "ssh_port": options.port,
        "ssh_username": options.username,
        "ssh_priv_key_path": str(server.key),
        "ssh_known_hosts_path": str(server.known_hosts),
    }
    services = [
        {"class": f"mlos_bench.services.remote.ssh.{name}", "config": config}
        for name in ("ssh_host_service.SshHostService", "ssh_fileshare.SshFileShareService")
    ]
    there = "$folder/$experiment_id/$trial_id"
    children: list[dict[str, Any]] = [
        {
            "name": "prepare",
            "class": _LOCAL,
            "config": {
                "tunable_params": ["$server"],
                "required_args": _REQUIRED,
                "dump_params_file": "params.json",
                "upload": [
                    {"from": "params.json", "to": f"{there}/params.json"},
                    {"from": "scripts/double.sh", "to": f"{there}/double.sh"},
                ],
            },
        },
        {
            "name": "measure",
            "class": "mlos_bench.environments.remote.RemoteEnv",
            "config": {
                "required_args": [*_REQUIRED, "ssh_hostname"],
                "const_args": {"unit": 'it\'s "ms"'},
                "shell_env_params": [*_REQUIRED, "unit"],
                "run": [f"cd {there}", "sh double.sh params.json > doubled", 'echo "unit=$unit"'],
                "results_stdout_pattern": "(unit)=(.*)",
            },
        },
        {
            "name": "collect",
            "class": _LOCAL,
            "config": {
                "required_args": _REQUIRED,
                "download": [{"from": f"{there}/doubled", "to": "$PWD/doubled.csv"}],
                "read_results_file": "doubled.csv",
            },
        },
    ]
    files: dict[str, Any] = {
        "ssh.jsonc": {"services": services},
        "scripts/double.sh": "x=$(sed 's/.*\"workers\": \\([0-9]*\\).*/\\1/' $1 | tr -dc 0-9)\n"
        "echo metric,value; echo score,$((2 * x))\n",
        "env.jsonc": {
            "name": "all",
            "class": "mlos_bench.environments.CompositeEnv",
            "include_services": ["ssh.jsonc"],
            "include_tunables": ["numbers.jsonc"],
            "config": {"const_args": {"folder": str(folder / "there")}, "children": children},
        },
        "numbers.jsonc": {
            "numbers": {"cost": 1, "params": {"workers": {"type": "int", "range": [1, 64], "default": 4}}}
        },
        "opt.jsonc": {"class": "mlos_bench.optimizers.MockOptimizer", "config": {"max_suggestions": 4}},
        "globals.jsonc": {"tunable_params_map": {"server": ["numbers"]}, "experiment_id": "far"},
    }
    written(folder, files)
    argv = ("--environment", "env.jsonc", "--optimizer", "opt.jsonc", "--globals", "globals.jsonc")
    return read(folder, *argv, "--ssh_hostname", server.address, "--num_trial_runners", "2")


@pytest.mark.timeout(60)
async def test_a_tree_over_ssh(server: Server, tmp_path: Path) -> None:
    loaded = await to_thread.run_sync(lambda: tree(tmp_path, server).load())
    async with assemble(loaded) as (scheduler, experiment):
        await scheduler.run()
        trials = [trial async for trial in experiment.trials()]
    assert [trial.failure for trial in trials] == [None] * 4
    for trial in trials:
        assert trial.metrics == {"score": 2 * trial.config["workers"], "unit": 'it\'s "ms"'}
        assert trial.host == server.address
    assert len({trial.config["workers"] for trial in trials}) > 1
