"""Small configuration trees in the form of mlos_bench, written for these tests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from windtunnel.config.mlos import Tree, read_tree

__all__ = ["LOCAL", "MOCK", "TUNABLES", "optimizer", "read", "written"]

TUNABLES: dict[str, Any] = {
    "web": {
        "description": "of the web server",
        "cost": 1.5,
        "params": {
            "workers": {"type": "int", "range": [1, 64], "default": 4, "special": [-1]},
            "keep-alive": {"type": "categorical", "values": [True, False], "default": True},
        },
    },
    "cache": {"cost": 10, "params": {"ratio": {"type": "float", "range": [0, 1], "default": 0.25}}},
    "other": {"cost": 1, "params": {"unused": {"type": "int", "range": [0, 9], "default": 1}}},
}
MOCK: dict[str, Any] = {
    "name": "mock",
    "class": "mlos_bench.environments.mock_env.MockEnv",
    "include_tunables": ["tunables.jsonc"],
    "config": {"tunable_params": ["web"], "mock_env_seed": -1, "mock_env_metrics": ["score"]},
}
LOCAL = "mlos_bench.environments.local.local_env.LocalEnv"


def optimizer(name: str = "MockOptimizer", **config: Any) -> dict[str, Any]:
    """An optimizer's file."""
    return {"class": f"mlos_bench.optimizers.{name}", "config": config}


def written(folder: Path, files: Mapping[str, Any]) -> Path:
    """Write files, texts as they are and everything else as JSON, with the tunables beside them."""
    for name, content in {"tunables.jsonc": TUNABLES, **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content, indent=2))
    return folder


def read(folder: Path, *argv: str, system: Mapping[str, str] | None = None) -> Tree:
    """The tree of a command line that is called in ``folder``."""
    return read_tree(argv, directory=folder, system=system or {})
