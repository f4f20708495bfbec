"""A tree as one YAML file for people to keep."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from windtunnel.config.mlos.tree import Tree

__all__ = ["to_yaml"]

_WIDTH = 110
_SHORT = 70


def to_yaml(tree: Tree) -> str:
    """The description, below comments that say what could not be honoured and what is done otherwise."""
    yaml = YAML()
    yaml.width = _WIDTH
    yaml.indent(mapping=2, sequence=4, offset=2)
    text = io.StringIO()
    text.writelines(f"# {line}\n" for line in _header(tree))
    yaml.dump(_laid_out(tree.document.data), text)
    return text.getvalue().rstrip("\n") + "\n"


def _header(tree: Tree) -> Iterator[str]:
    yield f"Converted from {tree.document.source}."
    yield from _list("CANNOT BE HONOURED, and is missing here:", tree.refused)
    yield from _list("Done otherwise:", tree.noted)
    yield from _list("To be installed where it is run:", tree.lacking)
    if (variable := tree.database.variable) is not None:
        yield f"The password of the database, URL-encoded, is taken from the environment variable {variable}."


def _list(title: str, errors: Iterable[Exception]) -> Iterator[str]:
    for index, error in enumerate(errors):
        if index == 0:
            yield title
        yield f"- {error}"


def _laid_out(value: Any) -> Any:
    """What is short and holds nothing but scalars stands in one line."""
    if isinstance(value, dict):
        mapping = CommentedMap((key, _laid_out(inner)) for key, inner in value.items())
        return _in_line(mapping, value.values(), value)
    if isinstance(value, list):
        sequence = CommentedSeq(_laid_out(inner) for inner in value)
        return _in_line(sequence, value, value)
    return value


def _in_line(made: Any, parts: Iterable[Any], value: Any) -> Any:
    if all(_is_plain(part) for part in parts) and len(str(value)) <= _SHORT:
        made.fa.set_flow_style()
    return made


def _is_plain(part: Any) -> bool:
    """A scalar, or a list of numbers."""
    if isinstance(part, list):
        return all(isinstance(one, int | float) for one in part)
    return not isinstance(part, dict)
