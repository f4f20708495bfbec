"""What the ``config`` of an environment of scripts may hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, WithJsonSchema

from windtunnel.environments.base import CommonOptions
from windtunnel.environments.results import LinePattern
from windtunnel.options import ONE_OR_MORE, Options, shown

__all__ = ["Lines", "ScriptOptions", "Transfer", "Transfers"]


def _as_lines(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _check_line(value: object) -> object:
    if isinstance(value, Mapping):
        raise ValueError(  # noqa: TRY004 - pydantic collects it
            f"expected a shell line, found {shown(value)}; in YAML, a line with ': ' in it needs quotes"
        )
    if isinstance(value, str) and "\0" in value:
        raise ValueError(f"a shell line cannot hold a NUL character, found {shown(value)}")
    return value


def _check_variable(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(f"expected a name for an environment variable, found {name!r}")
    return name


Line = Annotated[str, BeforeValidator(_check_line)]
Lines = Annotated[tuple[Line, ...], BeforeValidator(_as_lines), ONE_OR_MORE]
"""Shell lines, or a single one."""
Variable = Annotated[str, AfterValidator(_check_variable)]
Pattern = Annotated[
    LinePattern,
    BeforeValidator(lambda value: LinePattern(value) if isinstance(value, str) else value),
    WithJsonSchema({"type": "string", "format": "regex"}),
]


class Transfer(Options):
    """A file or a directory to copy. In both paths ``$name`` expands."""

    source: str = Field(alias="from", min_length=1, description="path of what is copied")
    target: str = Field(alias="to", min_length=1, description="path of the copy")


Transfers = tuple[Transfer, ...]


class ScriptOptions(CommonOptions):
    """Scripts, what goes into them and what comes out. Files are relative to the trial's directory."""

    model_config = ConfigDict(extra="forbid")

    setup: Lines = Field(default=(), description="shell lines; default none")
    run: Lines = Field(default=(), description="shell lines; default none")
    abort: Lines = Field(
        default=(), description="shell lines, run before teardown if a pruner stopped the trial; default none"
    )
    teardown: Lines = Field(default=(), description="shell lines; default none")
    shell: str | None = Field(default=None, description="a POSIX shell; default /bin/sh")
    shell_env_params: tuple[str, ...] = Field(default=(), description="parameters to export to the scripts")
    shell_env_params_rename: dict[Variable, str] = Field(
        default_factory=dict, description="environment variable → the parameter it gets"
    )
    dump_params_file: str | None = Field(
        default=None, description="JSON of all parameters, written before setup"
    )
    dump_tunables_file: str | None = Field(
        default=None, description="JSON of the tunables alone, written before setup"
    )
    dump_meta_file: str | None = Field(
        default=None, description="JSON of the meta of tunables that have one, written before setup"
    )
    read_results_file: str | None = Field(
        default=None, description="CSV (long or wide) or JSON with the metrics"
    )
    read_telemetry_file: str | None = Field(default=None, description="CSV of timestamp, metric, value")
    telemetry_zone: Literal["utc", "local"] = Field(
        default="utc",
        description="of times without a zone in read_telemetry_file: utc, or local for that of this machine; "
        "default utc",
    )
    results_stdout_pattern: Pattern | None = Field(
        default=None, description="finds metrics in a line of stdout"
    )
    telemetry_stdout_pattern: Pattern | None = Field(
        default=None, description="finds samples in a line of stdout"
    )
    temp_dir: str | None = Field(
        default=None,
        description="directory to use, kept afterwards; default a fresh one for each trial, removed",
    )
