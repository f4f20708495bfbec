"""``windtunnel validate``, ``show-config`` and ``schema``: what a description says, without running it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from windtunnel.cli.console import make_console
from windtunnel.cli.data import as_json
from windtunnel.cli.logs import set_up_logging
from windtunnel.cli.secrecy import hidden
from windtunnel.cli.session import make_importable
from windtunnel.cli.sources import Sources
from windtunnel.cli.verdict import MISUSED, OK
from windtunnel.config.check import check
from windtunnel.config.jsonschema import description_schema
from windtunnel.config.origins import Entry, entries
from windtunnel.errors import ConfigError
from windtunnel.texts import many

__all__ = ["print_schema", "show_config", "validate"]

_PLAIN = re.compile(r"[A-Za-z_/.][\w./-]*")
_NOT_TEXT = frozenset({"true", "false", "null", "yes", "no", "on", "off"})
_LONGEST_LIST = 60
_NOTES_FROM = 44


def validate(file: Path, sources: Sources, *, as_data: bool) -> int:
    """Print every mistake in a description, or what it is about; the exit code."""
    set_up_logging(make_console(sys.stderr))
    make_importable(file.absolute().parent)
    try:
        checked = check(*sources.read(file))
        mistakes: Sequence[ConfigError] = checked.mistakes
    except ConfigError as exc:  # it cannot even be read
        mistakes, checked = exc.all, None
    if as_data:
        facts = [_mistake_data(one) for one in mistakes]
        sys.stdout.write(as_json({"file": str(file), "valid": not mistakes, "mistakes": facts}))
    elif mistakes:
        for one in mistakes:
            print(hidden(str(one)), file=sys.stderr)  # noqa: T201 - what the command is for
        print(f"{many(len(mistakes), 'mistake')} in {file}", file=sys.stderr)  # noqa: T201
    elif checked is not None and checked.loaded is not None and checked.parts is not None:
        config, parts = checked.loaded.config, checked.parts
        hosts = "this machine" if config.hosts is None else many(len(parts.fleet.hosts), "host")
        head = f"{file} is fine: {many(config.trials, 'trial')} of {config.experiment} on {hosts}"
        make_console(sys.stdout).print(
            Text(f"{head}\n{parts.example.pprint(indent=2, level=1)}"), soft_wrap=True
        )
    return MISUSED if mistakes else OK


def _mistake_data(mistake: ConfigError) -> dict[str, Any]:
    return {
        "file": mistake.source,
        "line": mistake.line,
        "column": mistake.column,
        "key": ".".join(map(str, mistake.path)),
        "message": hidden(mistake.message),
    }


def print_schema() -> None:
    """Print the JSON Schema of descriptions."""
    sys.stdout.write(json.dumps(description_schema(), indent=2) + "\n")


def show_config(file: Path, sources: Sources, overrides: Mapping[str, object], *, as_data: bool) -> None:
    """Print what a description amounts to, and where each value comes from.

    :raises ConfigError: if there are mistakes in it.
    """
    set_up_logging(make_console(sys.stderr))
    loaded = sources.load(file, overrides)
    assert loaded.document is not None, "it comes from a file"  # noqa: S101
    found = entries(loaded, loaded.document)
    if as_data:
        sys.stdout.write(as_json([_entry_data(one) for one in found]))
        return
    console = make_console(sys.stdout)
    tree: dict[Any, Any] = {}
    for one in found:
        _put(tree, one)
    for text, note in _lines(tree, 0):
        line = Text(text)
        if note:
            line.append(" " * max(2, _NOTES_FROM - len(text)) + f"# {note}", style="dim")
        console.print(line, soft_wrap=True)


def _entry_data(entry: Entry) -> dict[str, Any]:
    return {
        "key": ".".join(map(str, entry.path)),
        "path": list(entry.path),
        "value": entry.value,
        "from": entry.source,
        "line": entry.line,
        "column": entry.column,
        "names": [one._asdict() for one in entry.names],
    }


def _put(tree: dict[Any, Any], entry: Entry) -> None:
    *parents, last = entry.path
    for step in parents:
        tree = tree.setdefault(step, {})
    tree[last] = entry


def _lines(tree: Mapping[Any, Any], depth: int) -> Iterator[tuple[str, str]]:
    """The lines of YAML, each with what is noted beside it."""
    indent = "  " * depth
    for key, value in tree.items():
        head = f"{indent}- " if isinstance(key, int) else f"{indent}{_scalar(key)}: "
        if isinstance(value, Entry):
            yield f"{head}{_scalar(value.value)}", _note(value)
        elif (short := _short(value)) is not None:
            yield f"{head}{short}", _note(next(iter(value.values())))
        elif isinstance(key, int):
            (text, note), *rest = _lines(value, depth + 1)
            yield f"{head}{text.lstrip()}", note
            yield from rest
        else:
            yield head.rstrip(), ""
            yield from _lines(value, depth + 1)


def _short(tree: Mapping[Any, Any]) -> str | None:
    """A short list of plain values that are written in one line."""
    items = list(tree.values())
    if not all(isinstance(key, int) for key in tree) or not all(isinstance(one, Entry) for one in items):
        return None
    text = f"[{', '.join(_scalar(one.value) for one in items)}]"
    return text if len(text) <= _LONGEST_LIST and len({_note(one) for one in items}) == 1 else None


def _scalar(value: Any) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _NOT_TEXT:
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def _note(entry: Entry) -> str:
    where = entry.source if entry.line is None else f"{entry.source}:{entry.line}"
    return ", ".join([where, *(f"{one.name} from {one.source}" for one in entry.names)])
