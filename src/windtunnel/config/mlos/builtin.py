"""What mlos_bench brings with it and trees name without having it: known by path, in JSON5."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["BUILTIN"]


def _class(name: str, config: str, more: str = "") -> str:
    return f"{{class: 'mlos_bench.{name}', config: {{{config}}}{more}}}"


def _optimizer(name: str, config: str) -> str:
    return _class(f"optimizers.{name}", config)


def _storage(config: str) -> str:
    return _class("storage.sql.storage.SqlStorage", config, ", resolve_config_property_paths: ['database']")


def _ssh(name: str) -> str:
    return _class(f"services.remote.ssh.{name}", "ssh_known_hosts_path: null")


_SCORE = "optimization_targets: {score: 'min'}"
_HUNDRED = f"{_SCORE}, max_suggestions: 100"
_SERVER = "database: 'osat', host: 'localhost', password: ''"

BUILTIN: Mapping[str, str] = MappingProxyType(
    {
        "optimizers/manual_opt.jsonc": _optimizer(
            "ManualOptimizer", "max_cycles: 30, tunable_values_cycle: [{}]"
        ),
        "optimizers/mlos_core_default_opt.jsonc": _optimizer("MlosCoreOptimizer", _HUNDRED),
        "optimizers/mlos_core_flaml.jsonc": _optimizer(
            "MlosCoreOptimizer", f"{_HUNDRED}, optimizer_type: 'FLAML'"
        ),
        "optimizers/mlos_core_smac.jsonc": _optimizer(
            "MlosCoreOptimizer", f"{_HUNDRED}, optimizer_type: 'SMAC', output_directory: null"
        ),
        "optimizers/mock_opt.jsonc": _optimizer("MockOptimizer", f"{_SCORE}, max_suggestions: 5, seed: 42"),
        "schedulers/sync_scheduler.jsonc": _class(
            "schedulers.SyncScheduler", "trial_config_repeat_count: 3, max_trials: -1, teardown: false"
        ),
        "services/local/local_exec_service.jsonc": _class("services.local.LocalExecService", ""),
        "services/remote/ssh/ssh_fileshare_service.jsonc": _ssh("SshFileShareService"),
        "services/remote/ssh/ssh_host_service.jsonc": _ssh("SshHostService"),
        "storage/in-memory.jsonc": _storage("drivername: 'sqlite', database: ':memory:'"),
        "storage/mysql.jsonc": _storage(f"drivername: 'mysql', {_SERVER}, username: 'root', port: 3306"),
        "storage/postgresql.jsonc": _storage(
            f"drivername: 'postgresql', {_SERVER}, username: 'postgres', port: 5432"
        ),
        "storage/sqlite.jsonc": _storage("drivername: 'sqlite', database: 'mlos_bench.sqlite'"),
        "tunables/dummy-tunables.jsonc": (
            "{dummy_params: {cost: 0, params: "
            "{dummy_param: {type: 'categorical', values: ['dummy'], default: 'dummy'}}}}"
        ),
    }
)
"""Path → text. Keys are there to be overridden by globals of the same name, as ``--database NAME``."""
