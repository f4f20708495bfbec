"""What environments of scripts have in common, wherever their scripts run."""

from __future__ import annotations

import json
import re
import signal
from abc import abstractmethod
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, tzinfo
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, TextIO

from anyio import to_thread

from windtunnel.environments.base import TRIAL_PARAMETERS, Environment
from windtunnel.environments.commands import Commands
from windtunnel.environments.results import Metric, parse_results, parse_telemetry
from windtunnel.environments.script_options import ScriptOptions
from windtunnel.environments.sites import Site
from windtunnel.errors import (
    CommandFailed,
    ConfigError,
    EnvironmentFailed,
    HostFailed,
    ResultsInvalid,
    ends_of_output,
)
from windtunnel.model import RunResult, Sample, Status, utc_now
from windtunnel.options import as_text, nearest
from windtunnel.protocols import LineHandler, Output, ScriptResult
from windtunnel.tunables import TunableGroups

__all__ = ["EXPORTED", "ScriptEnv", "end_of"]

EXPORTED = ("experiment_id", "trial_id", "trial_runner_id", "host", "host_address", "host_index")
"""Parameters that scripts see without being asked."""

_TAIL_LINES = 20
_LONGEST_RESULTS = 16 * 1024 * 1024
_SAMPLES_AT_ONCE = 5000


class ScriptEnv(Environment):
    """Runs scripts.

    Every step is one shell: its lines share the working directory and variables, the first failing line ends
    it. Processes that ``setup`` leaves in the background live until teardown has run. Metrics are what
    ``results_stdout_pattern`` finds in the output of ``run``, updated by ``read_results_file``.
    """

    options_class = ScriptOptions
    options: ScriptOptions
    exported: ClassVar[tuple[str, ...]] = EXPORTED

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._variables = self._named_variables()
        self._site: Site | None = None
        self._outputs: dict[str, ScriptResult] = {}

    @property
    def outputs(self) -> Mapping[str, ScriptResult]:
        """The end of what each step of the newest trial printed, also of one that was cut off."""
        return dict(self._outputs)

    @property
    def metrics(self) -> frozenset[str] | None:
        options = self.options
        silent = options.results_stdout_pattern is None and options.read_results_file is None
        return frozenset() if silent else None

    def printed(self, step: str) -> str:
        result = self._outputs.get(step)
        return "" if result is None else ends_of_output(end_of(result.stdout), end_of(result.stderr))

    @abstractmethod
    def _make_site(self) -> Site:
        """Where the scripts of the trial that is being set up run; not yet open."""

    async def _setup(self) -> None:
        await self._open()
        await self._script("setup", self.options.setup)

    async def _open(self) -> None:
        """All of the set-up before the first line."""
        self._outputs.clear()
        site = self._site = self._make_site()
        directory = self.options.temp_dir
        await site.open(
            shell=self.options.shell, directory=None if directory is None else self._expand(directory)
        )
        await self._dump(site)

    async def _run(self) -> RunResult:
        metrics: dict[str, Metric] = {}
        await self._script("run", self.options.run, self._line_handler(metrics))
        await self._read_telemetry()
        metrics.update(await self._read_results())
        return RunResult(Status.SUCCEEDED, utc_now(), dict(metrics))

    async def _abort(self) -> None:
        await self._script("abort", self.options.abort)

    async def _teardown(self) -> None:
        if self._site is None:
            return
        try:
            await self._script("teardown", self.options.teardown)
        finally:
            site, self._site = self._site, None
            await site.close()

    async def _script(self, step: str, lines: Sequence[str], on_line: LineHandler | None = None) -> None:
        """:raises CommandFailed: if a line failed."""
        site = self._site
        if not lines or site is None or not site.is_open:
            return
        before = site.last
        try:
            result = await site.run(lines, env=self._environ(), on_line=on_line)
        finally:
            if site.last is not None and site.last is not before:
                self._outputs[step] = site.last
        if result.exit_status != 0:
            raise CommandFailed(
                step=step,
                command=lines[-1 if result.failed_line is None else result.failed_line],
                exit_status=result.exit_status,
                stdout_tail=end_of(result.stdout),
                stderr_tail=end_of(result.stderr),
                hint="; ".join(filter(None, (site.where, _hint(result.exit_status, self.exported)))),
            )

    # What goes into the scripts

    def _named_variables(self) -> dict[str, str]:
        """Environment variable → parameter.

        :raises ConfigError: if there can be no such parameter.
        """
        known = {*self._params, *self._globals, *TRIAL_PARAMETERS, *self.exported}
        for option in ("shell_env_params", "shell_env_params_rename"):
            asked = getattr(self.options, option)
            for place, name in asked.items() if isinstance(asked, dict) else enumerate(asked):
                if name not in known:
                    message = f"no parameter {name!r} to export{nearest(name, known)}"
                    raise ConfigError(message, path=("config", option, place))
        # Tunables may have dots and dashes in their names, variables may not.
        named = {re.sub(r"\W", "_", name, flags=re.ASCII): name for name in self.options.shell_env_params}
        return {**named, **self.options.shell_env_params_rename}

    def commands(
        self, tunables: TunableGroups, global_config: Mapping[str, Any] | None = None
    ) -> list[Commands]:
        params, overlay = self.parameters_for(tunables, global_config), self._overlaid(global_config)
        variables, host = self._variables_of(overlay, params), self._runs_on({**overlay, **params})
        scripts = {step: getattr(self.options, step) for step in ("setup", "run", "teardown")}
        return [Commands(self.name, step, lines, variables, host) for step, lines in scripts.items() if lines]

    def _runs_on(self, names: Mapping[str, Any]) -> str:
        """The host, for ``Commands``."""
        return ""

    def _environ(self) -> dict[str, str]:
        return self._variables_of(self._overlay, self._params)

    def _variables_of(self, overlay: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, str]:
        known = {**overlay, **params}
        exported = {name: as_text(overlay[name]) for name in self.exported if name in overlay}
        for variable, name in self._variables.items():
            value = known.get(name)
            exported[variable] = "" if value is None else as_text(value)
        return exported

    async def _dump(self, site: Site) -> None:
        options = self.options
        if options.dump_params_file is not None:
            await site.write(self._expand(options.dump_params_file), _json(self._params))
        if options.dump_tunables_file is not None:
            await site.write(self._expand(options.dump_tunables_file), _json(dict(self._tunables)))
        if options.dump_meta_file is not None:
            tunables = self._tunables.tunables
            meta = {name: dict(tunable.meta) for name, tunable in tunables.items() if tunable.meta}
            await site.write(self._expand(options.dump_meta_file), _json(meta))

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
        file = self.options.read_telemetry_file
        if file is None or self._site is None:
            return
        expected = "a CSV of timestamp, metric, value"
        async with _reading(self._site, self._expand(file), "telemetry", expected) as path:
            lines = await to_thread.run_sync(_open, path, "telemetry", expected)
            with lines:
                samples = parse_telemetry(lines, name=path.name, zone=self._zone)
                while batch := await to_thread.run_sync(_next_samples, samples, path.name):
                    await self._emit(batch)

    @property
    def _zone(self) -> tzinfo | None:
        """Of times without one; None for that of this machine."""
        return UTC if self.options.telemetry_zone == "utc" else None

    async def _read_results(self) -> dict[str, Metric]:
        file = self.options.read_results_file
        if file is None or self._site is None:
            return {}
        async with _reading(self._site, self._expand(file), "results", _RESULTS) as path:
            return await to_thread.run_sync(_read_results, path)


_RESULTS = "a CSV or JSON file with the metrics"


@asynccontextmanager
async def _reading(site: Site, file: str, what: str, expected: str) -> AsyncIterator[Path]:
    """:raises ResultsInvalid: if the file cannot be fetched."""
    most = None if what == "telemetry" else 4 * _LONGEST_RESULTS
    async with AsyncExitStack() as stack:
        try:
            path = await stack.enter_async_context(site.reading(file, most=most))
        except HostFailed:
            raise
        except EnvironmentFailed as exc:
            raise ResultsInvalid(
                f"{what} file {file!r} cannot be fetched; expected {expected}, "
                f"{site.where} after the last line of run: {exc}"
            ) from exc
        yield path


def _json(content: object) -> str:
    return json.dumps(content, indent=2, default=str) + "\n"


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
        with _open(path, "results", _RESULTS) as file:
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


def end_of(output: Output) -> str:
    """The last lines of it."""
    return "\n".join(output.text.splitlines()[-_TAIL_LINES:])


def _hint(exit_status: int, exported: Sequence[str]) -> str:
    if exit_status == 126:
        return "a file was found that is not executable: chmod +x it, or name its interpreter"
    if exit_status == 127:
        beside = "; files beside the config are in $config_dir" if "config_dir" in exported else ""
        return f"command not found: check its spelling and PATH{beside}"
    if 128 < exit_status <= 128 + max(signal.valid_signals()):
        number = exit_status - 128
        memory = ", perhaps for lack of memory" if number == signal.SIGKILL else ""
        return f"which usually means killed by signal {number}{memory}"
    return ""
