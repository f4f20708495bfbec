"""Scripts on this machine, in a directory of their own."""

from __future__ import annotations

import json
import logging
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, TextIO

import anyio
from anyio import to_thread
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from windtunnel.environments.base import TRIAL_PARAMETERS, CommonOptions, Environment
from windtunnel.environments.results import LinePattern, Metric, parse_results, parse_telemetry
from windtunnel.errors import CommandFailed, ConfigError, EnvironmentFailed, ResultsInvalid, ends_of_output
from windtunnel.model import RunResult, Sample, Status, utc_now
from windtunnel.options import as_text, nearest, shown
from windtunnel.protocols import LineHandler, LocalExec, LocalSession, Output, ScriptResult

__all__ = ["LocalEnv", "LocalOptions"]

logger = logging.getLogger(__name__)

_EXPORTED = ("config_dir", "experiment_id", "trial_id", "trial_runner_id", "host")
_TAIL_LINES = 20
_CLOSE_LIMIT_S = 20.0
_LONGEST_RESULTS = 16 * 1024 * 1024
_SAMPLES_AT_ONCE = 5000


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
Lines = Annotated[tuple[Line, ...], BeforeValidator(_as_lines)]
Variable = Annotated[str, AfterValidator(_check_variable)]
Pattern = Annotated[
    LinePattern, BeforeValidator(lambda value: LinePattern(value) if isinstance(value, str) else value)
]


class LocalOptions(CommonOptions):
    """The ``config`` of a LocalEnv. Files are relative to the trial's directory."""

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
    dump_meta_file: str | None = Field(
        default=None, description="JSON of the tunables' meta, written before setup"
    )
    read_results_file: str | None = Field(
        default=None, description="CSV (long or wide) or JSON with the metrics"
    )
    read_telemetry_file: str | None = Field(default=None, description="CSV of timestamp, metric, value")
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


class LocalEnv(Environment):
    """Runs scripts on this machine.

    Every step is one shell: its lines share the working directory and variables, the first failing line ends
    it. Processes that ``setup`` leaves in the background live until teardown has run. Metrics are what
    ``results_stdout_pattern`` finds in the output of ``run``, updated by ``read_results_file``.
    """

    options_class = LocalOptions
    options: LocalOptions

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._exec = self._services.get(LocalExec)  # type: ignore[type-abstract]  # a protocol is its own key
        self._variables = self._named_variables()
        self._directory: Path | None = None
        self._opened: AbstractAsyncContextManager[LocalSession] | None = None
        self._session: LocalSession | None = None
        self._outputs: dict[str, ScriptResult] = {}

    @property
    def outputs(self) -> Mapping[str, ScriptResult]:
        """The end of what each step of the newest trial printed, also of one that was cut off."""
        return dict(self._outputs)

    def printed(self, step: str) -> str:
        result = self._outputs.get(step)
        return "" if result is None else ends_of_output(_tail(result.stdout), _tail(result.stderr))

    async def _setup(self) -> None:
        self._outputs.clear()
        self._directory = await to_thread.run_sync(self._make_directory)
        await to_thread.run_sync(self._dump, self._directory)
        self._opened = self._exec.session(shell=self.options.shell)
        self._session = await self._opened.__aenter__()
        await self._script("setup", self.options.setup)

    async def _run(self) -> RunResult:
        metrics: dict[str, Metric] = {}
        await self._script("run", self.options.run, self._line_handler(metrics))
        await self._read_telemetry()
        if self.options.read_results_file is not None:
            path = self._path(self.options.read_results_file)
            metrics.update(await to_thread.run_sync(_read_results, path))
        return RunResult(Status.SUCCEEDED, utc_now(), dict(metrics))

    async def _abort(self) -> None:
        await self._script("abort", self.options.abort)

    async def _teardown(self) -> None:
        if self._directory is None:
            return
        try:
            if self._session is not None:
                await self._script("teardown", self.options.teardown)
        finally:
            await self._close()

    async def _close(self) -> None:
        directory, self._directory = self._directory, None
        opened, self._opened, self._session = self._opened, None, None
        with anyio.move_on_after(_CLOSE_LIMIT_S, shield=True) as scope:
            if opened is not None:
                await opened.__aexit__(None, None, None)
            if directory is not None and self.options.temp_dir is None:
                await to_thread.run_sync(_remove, directory, abandon_on_cancel=True)
        if scope.cancelled_caught:
            logger.warning("environment %r could not remove %s in time", self.name, directory)

    async def _script(self, step: str, lines: Sequence[str], on_line: LineHandler | None = None) -> None:
        """:raises CommandFailed: if a line failed."""
        if not lines or self._session is None or self._directory is None:
            return
        before = self._session.last
        try:
            result = await self._session.run(lines, env=self._environ(), cwd=self._directory, on_line=on_line)
        finally:
            if self._session.last is not None and self._session.last is not before:
                self._outputs[step] = self._session.last
        if result.exit_status != 0:
            raise CommandFailed(
                step=step,
                command=lines[-1 if result.failed_line is None else result.failed_line],
                exit_status=result.exit_status,
                stdout_tail=_tail(result.stdout),
                stderr_tail=_tail(result.stderr),
                hint=_hint(result.exit_status),
            )

    # What goes into the scripts

    def _named_variables(self) -> dict[str, str]:
        """Environment variable → parameter.

        :raises ConfigError: if there can be no such parameter.
        """
        known = {*self._params, *self._globals, *TRIAL_PARAMETERS, "config_dir"}
        for option in ("shell_env_params", "shell_env_params_rename"):
            asked = getattr(self.options, option)
            for place, name in asked.items() if isinstance(asked, dict) else enumerate(asked):
                if name not in known:
                    message = f"no parameter {name!r} to export{nearest(name, known)}"
                    raise ConfigError(message, path=("config", option, place))
        # Tunables may have dots and dashes in their names, variables may not.
        named = {re.sub(r"\W", "_", name, flags=re.ASCII): name for name in self.options.shell_env_params}
        return {**named, **self.options.shell_env_params_rename}

    def _environ(self) -> dict[str, str]:
        known = {**self._overlay, **self._params}
        exported = {name: as_text(self._overlay[name]) for name in _EXPORTED if name in self._overlay}
        for variable, name in self._variables.items():
            value = known.get(name)
            exported[variable] = "" if value is None else as_text(value)
        return exported

    def _make_directory(self) -> Path:
        try:
            if self.options.temp_dir is None:
                directory = Path(tempfile.mkdtemp(prefix="windtunnel-"))
            else:
                directory = Path(self._expand(self.options.temp_dir)).expanduser().absolute()
                directory.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise EnvironmentFailed(f"setup failed: cannot make the trial's directory: {exc}") from exc
        return directory

    def _dump(self, directory: Path) -> None:
        meta = {name: dict(tunable.meta) for name, tunable in self._tunables.tunables.items()}
        for file, content in (
            (self.options.dump_params_file, self._params),
            (self.options.dump_meta_file, meta),
        ):
            if file is not None:
                _write_json(directory / self._expand(file), content)

    # What comes out of them

    def _line_handler(self, metrics: dict[str, Metric]) -> LineHandler | None:
        """What to do with each line that ``run`` prints: put metrics where they belong, send samples off."""
        results, telemetry = self.options.results_stdout_pattern, self.options.telemetry_stdout_pattern
        if results is None and telemetry is None:
            return None

        async def handle(line: str) -> None:
            if results is not None:
                metrics.update(results.metrics(line))
            if telemetry is not None and (samples := telemetry.samples(line)):
                await self._emit(samples)

        return handle

    async def _read_telemetry(self) -> None:
        if self.options.read_telemetry_file is None:
            return
        path = self._path(self.options.read_telemetry_file)
        lines = await to_thread.run_sync(_open, path, "telemetry", "a CSV of timestamp, metric, value")
        with lines:
            samples = parse_telemetry(lines, name=path.name)
            while batch := await to_thread.run_sync(_next_samples, samples, path.name):
                await self._emit(batch)

    def _path(self, file: str) -> Path:
        assert self._directory is not None, "only called between setup and teardown"  # noqa: S101
        return self._directory / self._expand(file)


def _write_json(path: Path, content: object) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
    except OSError as exc:
        raise EnvironmentFailed(f"setup failed: cannot write {str(path)!r}: {exc}") from exc


def _open(path: Path, what: str, expected: str) -> TextIO:
    """:raises ResultsInvalid: if the file is not there or cannot be opened."""
    try:
        return path.open(encoding="utf-8-sig", newline="")
    except FileNotFoundError:
        raise ResultsInvalid(
            f"{what} file {path.name!r} was not written; "
            f"expected {expected}, at {str(path)!r} after the last line of run"
        ) from None
    except OSError as exc:
        raise ResultsInvalid(f"{what} file {str(path)!r} cannot be read: {exc}") from exc


def _read_results(path: Path) -> dict[str, Metric]:
    try:
        with _open(path, "results", "a CSV or JSON file with the metrics") as file:
            text = file.read(_LONGEST_RESULTS + 1)
    except (OSError, UnicodeDecodeError) as exc:
        raise ResultsInvalid(f"results file {path.name!r} cannot be read as UTF-8 text: {exc}") from exc
    if len(text) > _LONGEST_RESULTS:
        raise ResultsInvalid(f"results file {path.name!r} is longer than {_LONGEST_RESULTS} characters")
    return parse_results(text, name=path.name)


def _next_samples(samples: Iterator[Sample], name: str) -> list[Sample]:
    try:
        return list(islice(samples, _SAMPLES_AT_ONCE))
    except (OSError, UnicodeDecodeError) as exc:
        raise ResultsInvalid(f"telemetry file {name!r} cannot be read as UTF-8 text: {exc}") from exc


def _remove(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    if directory.exists():
        logger.warning("the directory %s of a trial could not be removed completely", directory)


def _tail(output: Output) -> str:
    return "\n".join(output.text.splitlines()[-_TAIL_LINES:])


def _hint(exit_status: int) -> str:
    if exit_status == 126:
        return "a file was found that is not executable: chmod +x it, or name its interpreter"
    if exit_status == 127:
        return "command not found: check its spelling and PATH; files beside the config are in $config_dir"
    if 128 < exit_status <= 128 + max(signal.valid_signals()):
        number = exit_status - 128
        memory = ", perhaps for lack of memory" if number == signal.SIGKILL else ""
        return f"which usually means killed by signal {number}{memory}"
    return ""
