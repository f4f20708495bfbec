"""Rows of the database as Arrow tables, column by column, and as data frames of pandas or polars.

Everything here is synchronous and belongs in a worker thread; the libraries are imported there too.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Literal

from windtunnel.errors import ConfigError
from windtunnel.model import Status
from windtunnel.options import nearest
from windtunnel.storage import values
from windtunnel.storage.blocks import ATTEMPTS, METRICS, Block, Key, Rows
from windtunnel.tunables import TunableGroups

__all__ = ["Configs", "Library", "Points", "Results", "as_library", "require"]

Library = Literal["pandas", "polars", "arrow"]

_MODULES: Mapping[str, tuple[str, ...]] = {
    "pandas": ("pyarrow", "pandas"),
    "polars": ("pyarrow", "polars"),
    "arrow": ("pyarrow",),
}


def require(library: str) -> None:
    """Import ``library`` and what it needs.

    :raises ConfigError: if it is none that we know, or is not installed.
    """
    modules = _MODULES.get(library)
    if modules is None:
        raise ConfigError(
            f"expected 'pandas', 'polars' or 'arrow', found {library!r}{nearest(library, list(_MODULES))}"
        )
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as exc:
            if (exc.name or "").partition(".")[0] != module:
                raise  # it is there, and something that it needs is not
            raise ConfigError(
                f"tables for {library!r} need {module}, which is not installed; "
                f"install it with: pip install 'windtunnel[{library}]'"
            ) from None


def as_library(table: Any, library: Library) -> Any:
    """An Arrow table as a data frame of ``library``, without copying where that is possible."""
    if library == "polars":
        import polars

        return polars.from_arrow(table)
    return table.to_pandas() if library == "pandas" else table


class Results:
    """A table with one row a trial, from blocks that ``blocks.results`` gave."""

    def __init__(self, experiment_id: str, tunables: TunableGroups) -> None:
        self._experiment_id = experiment_id
        self._fixed: list[list[Any]] = []
        self._configs = _Spread("config.", _types(tunables))
        self._results = _Spread("result.", {})

    def add(self, rows: Rows) -> None:
        """Append a block."""
        *fixed, params, metrics = zip(*rows, strict=True)
        self._fixed.append(_arrays(fixed, _result_types()))
        self._configs.add(values.load_all(params))
        self._results.add(values.load_all(metrics))

    def table(self) -> Any:
        """The Arrow table of all blocks."""
        import pyarrow as pa

        columns = _joined(self._fixed, _result_types())
        rows = len(columns["trial_id"])
        columns["status"] = _status_names(columns["status"])
        own = {"experiment_id": pa.repeat(pa.scalar(self._experiment_id), rows)}
        return pa.table(own | columns | self._configs.columns() | self._results.columns())


class Configs:
    """A table with one row a configuration, from blocks that ``blocks.configs`` gave."""

    def __init__(self, tunables: TunableGroups) -> None:
        self._fixed: list[list[Any]] = []
        self._configs = _Spread("config.", _types(tunables))

    def add(self, rows: Rows) -> None:
        """Append a block."""
        *fixed, params = zip(*rows, strict=True)
        self._fixed.append(_arrays(fixed, _config_types()))
        self._configs.add(values.load_all(params))

    def table(self) -> Any:
        """The Arrow table of all blocks."""
        import pyarrow as pa

        return pa.table(_joined(self._fixed, _config_types()) | self._configs.columns())


class Points:
    """A table with one row a point of telemetry, from what ``blocks.points`` gave."""

    def __init__(self) -> None:
        self._blocks: list[list[Any]] = []

    def add(self, block: Block) -> None:
        """Append a block."""
        width, flat = len(block.rows[0]), list(chain.from_iterable(block.rows))  # zip: an iterator a row
        columns = [flat[position::width] for position in range(width)]
        self._blocks.append(_of_any(columns) if block.start is None else _of_one(columns, block.start))

    def metric_ids(self) -> list[int]:
        """The metrics that the points are of."""
        import pyarrow as pa

        ids = pa.chunked_array([block[3] for block in self._blocks], pa.int64())
        found: list[int] = ids.unique().to_pylist()
        return found

    def table(self, names: Mapping[int, str]) -> Any:
        """The Arrow table of all blocks. This object can be used no more.

        :param names: of each metric by its id.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        known = pa.array(list(names), pa.int64())
        dictionary = pa.array(list(names.values()), pa.string())
        for block in self._blocks:
            positions = pc.index_in(block[3], value_set=known)
            block[3] = pa.DictionaryArray.from_arrays(positions, dictionary)
        types = _point_types()
        columns = _joined(self._blocks, types)
        self._blocks = []
        return pa.table(columns)


def _of_one(columns: Sequence[Sequence[Any]], start: Key) -> list[Any]:
    """The columns of the table, from those of a block that has a start: numbers of one attempt."""
    import pyarrow as pa
    import pyarrow.compute as pc

    packed, *number = columns
    after_us, metric_id = _halves(packed, METRICS)
    times = pc.add(after_us, start.ts_us).cast(_time())
    trial_id = pa.repeat(pa.scalar(start.trial_id, pa.int64()), len(packed))
    attempt = pa.repeat(pa.scalar(start.attempt, pa.int32()), len(packed))
    return [trial_id, attempt, times, metric_id, *_values(number)]


def _of_any(columns: Sequence[Sequence[Any]]) -> list[Any]:
    """The columns of the table, from those of a block without a start: points of any attempts."""
    import pyarrow as pa

    combined, ts_us, metric_id, *value = columns
    trial_id, attempt = _halves(combined, ATTEMPTS)
    times = pa.array(ts_us, pa.int64()).cast(_time())
    return [trial_id, attempt.cast(pa.int32()), times, pa.array(metric_id, pa.int64()), *_values(value)]


def _halves(combined: Sequence[int], size: int) -> tuple[Any, Any]:
    """``divmod`` by a power of two, which Arrow does many times faster with bits."""
    import pyarrow as pa
    import pyarrow.compute as pc

    both = pa.array(combined, pa.int64())
    return pc.shift_right(both, size.bit_length() - 1), pc.bit_wise_and(both, size - 1)


def _values(value: Sequence[Sequence[Any]]) -> tuple[Any, Any]:
    """The numbers, and the texts of what is no number a double can be: see ``values.pack``."""
    import pyarrow as pa
    import pyarrow.compute as pc

    number = pa.array(value[0], pa.float64())
    if len(value) == 1:
        return number, pa.nulls(len(number), pa.string())
    text = pa.array(value[1], pa.string())
    is_literal = pc.and_(pc.is_valid(number), pc.is_valid(text))
    literal = pc.if_else(is_literal, text, pa.scalar(None, pa.string()))
    number = pc.if_else(is_literal, pc.cast(literal, pa.float64()), number)
    is_float = pc.match_substring_regex(literal, "[a-z]").fill_null(False)
    return number, pc.if_else(is_float, pa.scalar(None, pa.string()), text)


class _Spread:
    """Mappings as one column for each key, whatever keys and types the next block brings."""

    def __init__(self, prefix: str, declared: Mapping[str, Any]) -> None:
        self._prefix = prefix
        self._declared = declared
        self._blocks: list[dict[str, Any]] = []
        self._lengths: list[int] = []

    def add(self, mappings: Sequence[Mapping[str, Any] | None]) -> None:
        self._blocks.append(_split(mappings))
        self._lengths.append(len(mappings))

    def columns(self) -> dict[str, Any]:
        names = dict.fromkeys([*self._declared, *(name for block in self._blocks for name in block)])
        return {f"{self._prefix}{name}": self._column(name) for name in names}

    def _column(self, name: str) -> Any:
        import pyarrow as pa

        parts = [block.get(name) for block in self._blocks]
        declared = [self._declared[name]] if name in self._declared else []
        kind = _common([*declared, *(part.type for part in parts if part is not None)]) or pa.string()
        whole = [
            pa.nulls(length, kind) if part is None else part.cast(kind, safe=False)
            for part, length in zip(parts, self._lengths, strict=True)
        ]
        return pa.chunked_array(whole, kind)


def _split(mappings: Sequence[Mapping[str, Any] | None]) -> dict[str, Any]:
    """key → array. Arrow takes mappings apart by itself if every key has values of one simple type."""
    import pyarrow as pa

    try:
        found = pa.array(mappings, from_pandas=False)
    except (ValueError, TypeError, OverflowError):
        found = None
    if found is not None and pa.types.is_null(found.type):
        return {}
    if found is not None and all(_is_simple(part.type) for part in found.type):
        names = [part.name for part in found.type]
        return dict(zip(names, found.flatten(), strict=True))
    names = list(dict.fromkeys(name for one in mappings for name in one or ()))
    return {name: _column([one.get(name) if one else None for one in mappings]) for name in names}


def _column(found: Sequence[Any]) -> Any:
    import pyarrow as pa

    try:
        array = pa.array(found)
        if _is_simple(array.type):
            return array
    except (ValueError, TypeError, OverflowError):
        pass
    return pa.array([_text(one) for one in found], pa.string())


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _is_simple(kind: Any) -> bool:
    from pyarrow import types

    return bool(
        types.is_null(kind)
        or types.is_boolean(kind)
        or types.is_int64(kind)
        or types.is_float64(kind)
        or types.is_string(kind)
    )


def _common(kinds: Sequence[Any]) -> Any:
    """The type that can hold what all of these hold; None for no values at all."""
    import pyarrow as pa

    found = {kind for kind in kinds if not pa.types.is_null(kind)}
    if len(found) < 2:
        return next(iter(found), None)
    return pa.float64() if found == {pa.int64(), pa.float64()} else pa.string()


def _arrays(columns: Sequence[Sequence[Any]], types: Mapping[str, Any]) -> list[Any]:
    import pyarrow as pa

    return [pa.array(column, kind) for column, kind in zip(columns, types.values(), strict=True)]


def _joined(blocks: Sequence[Sequence[Any]], types: Mapping[str, Any]) -> dict[str, Any]:
    import pyarrow as pa

    return {
        name: pa.chunked_array([block[position] for block in blocks], kind)
        for position, (name, kind) in enumerate(types.items())
    }


def _status_names(numbers: Any) -> Any:
    import pyarrow as pa

    names = pa.array([status.name for status in Status])
    return names.take(numbers.combine_chunks())


def _time() -> Any:
    import pyarrow as pa

    return pa.timestamp("us", tz="UTC")


def _types(tunables: TunableGroups) -> dict[str, Any]:
    import pyarrow as pa

    kinds = {"int": pa.int64(), "float": pa.float64(), "categorical": pa.string()}
    return {name: kinds[tunable.type] for name, tunable in tunables.tunables.items()}


def _result_types() -> dict[str, Any]:
    import pyarrow as pa

    return {
        "trial_id": pa.int64(),
        "config_id": pa.int64(),
        "status": pa.int8(),
        "attempt": pa.int32(),
        "owner": pa.string(),
        "host": pa.string(),
        "created": _time(),
        "started": _time(),
        "ended": _time(),
        "failure": pa.string(),
    }


def _config_types() -> dict[str, Any]:
    import pyarrow as pa

    return {"config_id": pa.int64(), "trials": pa.int64(), "succeeded": pa.int64()}


def _point_types() -> dict[str, Any]:
    import pyarrow as pa

    return {
        "trial_id": pa.int64(),
        "attempt": pa.int32(),
        "timestamp": _time(),
        "metric": pa.dictionary(pa.int32(), pa.string()),
        "value": pa.float64(),
        "text": pa.string(),
    }
