"""From what scripts write to metrics and samples. Pure functions; all raise ResultsInvalid."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, tzinfo
from typing import Any, NamedTuple

from windtunnel.errors import ResultsInvalid
from windtunnel.model import Sample, utc_now
from windtunnel.options import shown

__all__ = ["LinePattern", "Metric", "parse_number", "parse_results", "parse_telemetry", "parse_timestamp"]

Metric = int | float | str
"""What a script can report: a number, or else text."""

_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_FORMS = (
    "a CSV with columns metric and value, a CSV with one column for each metric and one row, or a JSON object"
)
_MOST_DIGITS = 4000  # Python refuses to convert longer texts


def parse_number(text: str) -> Metric:
    """``text`` as an int or a float if it is one, else the text, without spaces around it."""
    text = text.strip()
    if _INTEGER.fullmatch(text) and len(text) <= _MOST_DIGITS:
        return int(text)
    if "_" in text:  # 1_000 is a number in Python only
        return text
    try:
        return float(text)
    except ValueError:
        return text


def parse_timestamp(text: str, zone: tzinfo | None = UTC) -> datetime:
    """An ISO 8601 time as an aware one in UTC.

    :param zone: of a time that has none; None for that of this machine.
    :raises ValueError: if it is none.
    """
    time = datetime.fromisoformat(text.strip())
    if time.tzinfo is None and zone is not None:
        time = time.replace(tzinfo=zone)
    return time.astimezone(UTC)


class LinePattern:
    """A regular expression that finds metrics in a line.

    :param pattern: with the named groups ``metric`` and ``value`` and perhaps ``timestamp``, or with two
        plain groups.
    :raises ValueError: if it is not a regular expression or has other groups.
    """

    def __init__(self, pattern: str) -> None:
        try:
            self._regex = re.compile(pattern)
        except re.error as exc:
            raise ValueError(f"not a regular expression: {exc}; found {shown(pattern)}") from None
        named = self._regex.groupindex
        self._timestamp = named.get("timestamp")
        if {"metric", "value"} <= named.keys():
            self._metric, self._value = named["metric"], named["value"]
        elif self._regex.groups == 2 and not named:
            self._metric, self._value = 1, 2
        else:
            raise ValueError(
                "expected the groups (?P<metric>…) and (?P<value>…), or two groups without names, "
                f"found {shown(pattern)}"
            )

    def metrics(self, line: str) -> Iterator[tuple[str, Metric]]:
        """Each metric found in the line, with its value."""
        for match in self._regex.finditer(line):
            if match[self._metric] is not None and match[self._value] is not None:
                yield match[self._metric], parse_number(match[self._value])

    def samples(self, line: str) -> list[Sample]:
        """Each metric found in the line as a sample; of now, unless the line says a time that can be read."""
        return [
            Sample(self._time(match), match[self._metric], parse_number(match[self._value]))
            for match in self._regex.finditer(line)
            if match[self._metric] is not None and match[self._value] is not None
        ]

    def _time(self, match: re.Match[str]) -> datetime:
        if self._timestamp is not None and match[self._timestamp]:
            try:
                return parse_timestamp(match[self._timestamp])
            except ValueError:
                pass  # one garbled line is not worth the trial
        return utc_now()


def parse_results(text: str, *, name: str) -> dict[str, Metric]:
    """The metrics in a results file: CSV, long or wide, or a JSON object.

    :param name: the file's name; one that ends in ``.json`` says the form.
    """
    if not text.strip():
        raise ResultsInvalid(f"results file {name!r} is empty; expected {_FORMS}")
    if name.lower().endswith(".json") or text.lstrip().startswith("{"):
        return _from_json(text, name)
    try:
        rows = [
            [cell.strip() for cell in row]
            for row in csv.reader(io.StringIO(text, newline=""), strict=True)
            if any(row)
        ]
    except csv.Error as exc:
        raise ResultsInvalid(f"results file {name!r} is not a CSV: {exc}; expected {_FORMS}") from None
    header, *body = rows
    if [cell.lower() for cell in header] == ["metric", "value"]:
        return dict(_long(body, name))
    return _wide(header, body, name)


def _from_json(text: str, name: str) -> dict[str, Metric]:
    try:
        data: Any = json.loads(text)
    except ValueError as exc:
        raise ResultsInvalid(f"results file {name!r} is not JSON: {exc}") from None
    if not isinstance(data, dict):
        raise ResultsInvalid(f"results file {name!r}: expected a JSON object of metrics, found {shown(data)}")
    for metric, value in data.items():
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ResultsInvalid(
                f"results file {name!r}: expected a number or a text for {metric!r}, found {shown(value)}"
            )
    return data


def _long(rows: Iterable[list[str]], name: str) -> Iterator[tuple[str, Metric]]:
    for number, row in enumerate(rows, 2):
        if len(row) != 2 or not row[0]:
            raise ResultsInvalid(
                f"results file {name!r}, row {number}: expected metric,value, found {shown(row)}"
            )
        yield row[0], parse_number(row[1])


def _wide(header: list[str], rows: list[list[str]], name: str) -> dict[str, Metric]:
    if len(rows) != 1:
        found = f"columns {shown(header)} and {len(rows)} rows"
    elif len(rows[0]) != len(header):
        found = f"{len(header)} columns and {len(rows[0])} values"
    elif not all(header):
        found = f"that column {header.index('') + 1} has no name"
    else:
        found = ""
    if found:
        raise ResultsInvalid(f"results file {name!r}: found {found}; expected {_FORMS}")
    return {metric: parse_number(value) for metric, value in zip(header, rows[0], strict=True)}


class _Row(NamedTuple):
    number: int
    cells: list[str]


def parse_telemetry(lines: Iterable[str], *, name: str, zone: tzinfo | None = UTC) -> Iterator[Sample]:
    """The samples in a CSV of timestamp, metric, value; a header is allowed. Reads ``lines`` as it goes.

    :param name: the file's name, for the error.
    :param zone: see ``parse_timestamp``.
    """
    rows = csv.reader(lines, strict=True)
    try:
        for row in rows:
            cells = [cell.strip() for cell in row]
            if any(cells) and not (rows.line_num == 1 and _is_header(cells)):
                yield _sample(_Row(rows.line_num, cells), name, zone)
    except csv.Error as exc:
        raise ResultsInvalid(f"telemetry file {name!r}, line {rows.line_num}: {exc}") from None


def _is_header(cells: list[str]) -> bool:
    return [cell.lower() for cell in cells] == ["timestamp", "metric", "value"]


def _sample(row: _Row, name: str, zone: tzinfo | None) -> Sample:
    try:
        time, metric, value = row.cells
        if metric:
            return Sample(parse_timestamp(time, zone), metric, parse_number(value))
    except ValueError:
        pass
    raise ResultsInvalid(
        f"telemetry file {name!r}, line {row.number}: expected timestamp,metric,value with an ISO 8601 time, "
        f"found {shown(','.join(row.cells))}"
    )
