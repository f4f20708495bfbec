"""Whether an answer is what it should be, and what later steps take from it. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from windtunnel.loadgen.connection import Answer
from windtunnel.loadgen.plan import CheckPlan
from windtunnel.loadgen.recorder import ErrorKind
from windtunnel.options import shown

__all__ = ["Problem", "checker", "saver"]

Problem = tuple[ErrorKind, str]
_MISSING = object()
_BAD = 400


def checker(check: CheckPlan) -> Callable[[Answer], Problem | None]:
    """A function that says what is wrong with an answer."""
    statuses = (check.status,) if isinstance(check.status, int) else check.status
    headers = {name.lower(): text for name, text in check.header.items()}
    body = None if check.body is None else check.body.encode()

    def problem(answer: Answer) -> Problem | None:
        if answer.status >= _BAD if statuses is None else answer.status not in statuses:
            return ErrorKind.STATUS, f"status {answer.status}"
        for name, text in headers.items():
            if text not in answer.headers.get(name, ""):
                return _missed(f"{text!r} in the header {name}", answer.headers.get(name))
        if body is not None and body not in answer.body:
            return _missed(f"{check.body!r} in the body", answer.body[:80].decode(errors="replace"))
        return _unequal(check.json_values, answer.body) if check.json_values else None

    return problem


def _unequal(wanted: Mapping[str, Any], body: bytes) -> Problem | None:
    document = _document(body)
    for path, value in wanted.items():
        if (found := _at(document, path)) != value:
            return _missed(f"{shown(value)} at {path} of the JSON", None if found is _MISSING else found)
    return None


def _missed(wanted: str, found: object) -> Problem:
    return ErrorKind.CHECK, f"expected {wanted}, found {shown(found)}"


def saver(paths: Mapping[str, str]) -> Callable[[Answer], Mapping[str, Any]]:
    """A function that takes values from an answer; those that are not there are empty."""

    def save(answer: Answer) -> Mapping[str, Any]:
        document = _document(answer.body)
        found = {name: _at(document, path) for name, path in paths.items()}
        return {name: "" if value is _MISSING else value for name, value in found.items()}

    return save


def _document(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return _MISSING


def _at(document: Any, path: str) -> Any:
    """What a path such as ``items.0.id`` leads to."""
    for step in path.split("."):
        if isinstance(document, list) and step.isdecimal() and int(step) < len(document):
            document = document[int(step)]
        elif isinstance(document, Mapping) and step in document:
            document = document[step]
        else:
            return _MISSING
    return document
