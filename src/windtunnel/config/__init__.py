"""The description of an experiment: one YAML, JSON5 or TOML file, or a mapping of the same form."""

from windtunnel.config.document import Document, read_document
from windtunnel.config.load import LoadedConfig, from_mapping, load, parse_global
from windtunnel.config.schema import EnvironmentConfig, ExperimentConfig, OptimizerConfig, TimeoutsConfig

__all__ = [
    "Document",
    "EnvironmentConfig",
    "ExperimentConfig",
    "LoadedConfig",
    "OptimizerConfig",
    "TimeoutsConfig",
    "from_mapping",
    "load",
    "parse_global",
    "read_document",
]
