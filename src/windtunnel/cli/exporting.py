"""``windtunnel export``: an experiment's trials, or its telemetry, as a file for other programs.

CSV and JSONL go out row by row, so that memory stays flat. What a CSV's columns are is only known after the
last trial: until then its rows wait in a temporary file.
"""

from __future__ import annotations

import csv
import io
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import anyio

from windtunnel.cli.console import make_console
from windtunnel.cli.data import as_json_line
from windtunnel.cli.logs import set_up_logging
from windtunnel.cli.stored import check_exists
from windtunnel.errors import ConfigError
from windtunnel.options import nearest
from windtunnel.storage import Experiment, ResultRow, TelemetryRow, open_storage

__all__ = ["export_experiment"]

_IN_MEMORY = 8_000_000
_FIXED = ResultRow._fields[:-2]
_POINT = ("trial_id", "attempt", "timestamp", "metric", "value")


def export_experiment(
    experiment_id: str, storage: str, *, form: str, telemetry: bool, output: Path | None
) -> None:
    """Write one experiment to ``output``, or to stdout. A file appears when it is complete.

    :param form: ``csv``, ``jsonl`` or ``parquet``, which needs a file.
    :param telemetry: one row a point instead of one a trial.
    :raises NotFound: if there is no experiment with this id.
    :raises ConfigError: if the form is unknown, needs what is not installed, or the file cannot be made.
    """
    write = _WRITERS.get((form, telemetry))
    if write is None:
        raise ConfigError(f"expected --format csv, jsonl or parquet, found {form!r}{nearest(form, _FORMS)}")
    if output is None and form == "parquet":
        raise ConfigError("parquet is no text: name a file with --output FILE")
    set_up_logging(make_console(sys.stderr))
    check_exists(storage)
    with _opened(output) as file:
        count = anyio.run(_export, write, experiment_id, storage, file)
    if output is not None:
        what = "points" if telemetry else "trials"
        make_console(sys.stderr).print(f"wrote {count} {what} to {output}", soft_wrap=True)


Write = Callable[[Experiment, IO[bytes]], Awaitable[int]]
"""Writes an experiment to a file; how many rows that were."""


async def _export(write: Write, experiment_id: str, storage: str, file: IO[bytes]) -> int:
    async with open_storage(storage) as opened:
        return await write(await opened.open_experiment(experiment_id), file)


@contextmanager
def _opened(output: Path | None) -> Iterator[IO[bytes]]:
    """The file to write to; under its name only once it is complete."""
    if output is None:
        sys.stdout.flush()
        yield sys.stdout.buffer
        return
    if not output.parent.is_dir() or output.is_dir():
        raise ConfigError(f"--output: expected a file in a folder that exists, found {str(output)!r}")
    if output.exists() and not output.is_file():  # a device or a pipe
        with output.open("wb") as file:
            yield file
        return
    part = output.with_name(f"{output.name}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _text(file: IO[bytes]) -> Iterator[IO[str]]:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=False)
    try:
        yield text
        text.flush()
    finally:
        text.detach()


# JSON lines


async def _jsonl_results(experiment: Experiment, file: IO[bytes]) -> int:
    count = 0
    with _text(file) as text:
        async for batch in experiment.stream_results():
            text.writelines(as_json_line(_plain(row)) for row in batch)
            count += len(batch)
    return count


async def _jsonl_telemetry(experiment: Experiment, file: IO[bytes]) -> int:
    count = 0
    with _text(file) as text:
        async for batch in experiment.stream_telemetry():
            text.writelines(as_json_line(dict(zip(_POINT, _flat(row), strict=True))) for row in batch)
            count += len(batch)
    return count


# CSV


async def _csv_results(experiment: Experiment, file: IO[bytes]) -> int:
    configs: dict[str, None] = dict.fromkeys(experiment.tunables)
    results: dict[str, None] = dict.fromkeys(experiment.opt_targets)
    count = 0
    with tempfile.SpooledTemporaryFile(_IN_MEMORY, "w+", encoding="utf-8") as waiting:
        async for batch in experiment.stream_results():
            for row in batch:
                configs.update(dict.fromkeys(row.config))
                results.update(dict.fromkeys(row.result or ()))
                waiting.write(json.dumps(_plain(row)) + "\n")  # with its NaN, which CSV can have
            count += len(batch)
        waiting.seek(0)
        with _text(file) as text:
            _write_csv(text, waiting, list(configs), list(results))
    return count


def _write_csv(text: IO[str], rows: Iterator[str], configs: list[str], results: list[str]) -> None:
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [*_FIXED, *(f"config.{name}" for name in configs), *(f"result.{name}" for name in results)]
    )
    for line in rows:
        row = json.loads(line)
        config, result = row["config"], row["result"] or {}
        cells = [row[name] for name in _FIXED]
        cells += [_cell(config.get(name)) for name in configs]
        cells += [_cell(result.get(name)) for name in results]
        writer.writerow(cells)


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, bool | list | dict) else value


async def _csv_telemetry(experiment: Experiment, file: IO[bytes]) -> int:
    count = 0
    with _text(file) as text:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_POINT)
        async for batch in experiment.stream_telemetry():
            writer.writerows(map(_flat, batch))
            count += len(batch)
    return count


# Parquet


async def _parquet_results(experiment: Experiment, file: IO[bytes]) -> int:
    table = await experiment.results_frame("arrow")
    from pyarrow import parquet

    parquet.write_table(table, file)
    return int(table.num_rows)


async def _parquet_telemetry(experiment: Experiment, file: IO[bytes]) -> int:
    empty = await experiment.telemetry_frame([], library="arrow")
    from pyarrow import parquet

    count = 0
    with parquet.ParquetWriter(file, empty.schema) as writer:
        tables: AsyncIterator[Any] = experiment.stream_telemetry_tables()
        async for table in tables:
            writer.write_table(table)
            count += table.num_rows
    return count


_WRITERS: Mapping[tuple[str, bool], Write] = {
    ("csv", False): _csv_results,
    ("csv", True): _csv_telemetry,
    ("jsonl", False): _jsonl_results,
    ("jsonl", True): _jsonl_telemetry,
    ("parquet", False): _parquet_results,
    ("parquet", True): _parquet_telemetry,
}
_FORMS = ("csv", "jsonl", "parquet")


def _plain(row: ResultRow) -> dict[str, Any]:
    """The row in terms of JSON."""
    return {
        **row._asdict(),
        "status": row.status.name,
        "created": _time(row.created),
        "started": _time(row.started),
        "ended": _time(row.ended),
    }


def _flat(row: TelemetryRow) -> tuple[object, ...]:
    sample = row.sample
    return (row.trial_id, row.attempt, _time(sample.timestamp), sample.metric, sample.value)


def _time(moment: datetime | None) -> str | None:
    """ISO 8601, in UTC."""
    return None if moment is None else moment.isoformat(timespec="microseconds")
