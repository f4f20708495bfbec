"""windtunnel puts systems under test.

It runs many benchmark trials at once, tunes the systems' parameters, streams telemetry, and keeps everything
in a database so that any crash can be resumed. Start with ``tune``, or with ``windtunnel demo`` on the
command line.

The names below are the public interface. They are loaded on first use, so that importing the package is
cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from windtunnel.api import open_scheduler, run, tune
    from windtunnel.environments import CompositeEnv, Environment, FunctionEnv, LocalEnv, MockEnv
    from windtunnel.errors import (
        CommandFailed,
        ConfigError,
        EnvironmentFailed,
        ExperimentMismatch,
        MergeCycle,
        MissingService,
        NotADatabase,
        NotFound,
        OptimizerError,
        ResultsInvalid,
        SchemaMismatch,
        StaleTrial,
        StepTimedOut,
        StorageError,
        StorageUnavailable,
        TrialAlreadyFinished,
        TunableError,
        WindtunnelError,
    )
    from windtunnel.model import (
        FailureKind,
        History,
        NewTrial,
        RunResult,
        Sample,
        Status,
        StatusReport,
        Summary,
        Timeouts,
        Trial,
        TrialRecord,
    )
    from windtunnel.objectives import Objective
    from windtunnel.optimizers import Optimizer
    from windtunnel.pruners import Abort, Pruner
    from windtunnel.scheduling import Host, Scheduler, Snapshot
    from windtunnel.storage import Experiment, Storage, open_storage
    from windtunnel.tunables import CovariantGroup, Tunable, TunableGroups

_HOMES = {
    "api": ("open_scheduler", "run", "tune"),
    "environments": ("CompositeEnv", "Environment", "FunctionEnv", "LocalEnv", "MockEnv"),
    "errors": (
        "CommandFailed",
        "ConfigError",
        "EnvironmentFailed",
        "ExperimentMismatch",
        "MergeCycle",
        "MissingService",
        "NotADatabase",
        "NotFound",
        "OptimizerError",
        "ResultsInvalid",
        "SchemaMismatch",
        "StaleTrial",
        "StepTimedOut",
        "StorageError",
        "StorageUnavailable",
        "TrialAlreadyFinished",
        "TunableError",
        "WindtunnelError",
    ),
    "model": (
        "FailureKind",
        "History",
        "NewTrial",
        "RunResult",
        "Sample",
        "Status",
        "StatusReport",
        "Summary",
        "Timeouts",
        "Trial",
        "TrialRecord",
    ),
    "objectives": ("Objective",),
    "optimizers": ("Optimizer",),
    "pruners": ("Abort", "Pruner"),
    "scheduling": ("Host", "Scheduler", "Snapshot"),
    "storage": ("Experiment", "Storage", "open_storage"),
    "tunables": ("CovariantGroup", "Tunable", "TunableGroups"),
}
_HOME_OF = {name: f"windtunnel.{home}" for home, names in _HOMES.items() for name in names}

__all__ = [
    "Abort",
    "CommandFailed",
    "CompositeEnv",
    "ConfigError",
    "CovariantGroup",
    "Environment",
    "EnvironmentFailed",
    "Experiment",
    "ExperimentMismatch",
    "FailureKind",
    "FunctionEnv",
    "History",
    "Host",
    "LocalEnv",
    "MergeCycle",
    "MissingService",
    "MockEnv",
    "NewTrial",
    "NotADatabase",
    "NotFound",
    "Objective",
    "Optimizer",
    "OptimizerError",
    "Pruner",
    "ResultsInvalid",
    "RunResult",
    "Sample",
    "Scheduler",
    "SchemaMismatch",
    "Snapshot",
    "StaleTrial",
    "Status",
    "StatusReport",
    "StepTimedOut",
    "Storage",
    "StorageError",
    "StorageUnavailable",
    "Summary",
    "Timeouts",
    "Trial",
    "TrialAlreadyFinished",
    "TrialRecord",
    "Tunable",
    "TunableError",
    "TunableGroups",
    "WindtunnelError",
    "open_scheduler",
    "open_storage",
    "run",
    "tune",
]


def __getattr__(name: str) -> object:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'windtunnel' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
