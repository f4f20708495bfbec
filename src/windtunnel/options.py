"""Options: from a parsed mapping to typed, immutable values, once, with errors a person can act on."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, ClassVar, Protocol, TypeVar, get_args

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationError,
    WithJsonSchema,
)
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails

from windtunnel.errors import ConfigError

__all__ = [
    "ONE_OR_MORE",
    "REFERENCE",
    "Also",
    "Count",
    "Duration",
    "OptionalDuration",
    "Options",
    "as_text",
    "expand",
    "mismatch",
    "nearest",
    "parse_duration",
    "parse_options",
    "parse_value",
    "referenced",
    "shown",
]

O = TypeVar("O", bound="Options")  # noqa: E741


class Options(BaseModel):
    """Base of all option classes: immutable, unknown keys refused."""

    # What checks them is made when they are first used: a command uses few of the classes that it loads.
    model_config = ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=True, validate_default=False, defer_build=True
    )

    short_form: ClassVar[JsonSchemaValue | None] = None
    """JSON Schema of what may be written instead of the mapping, if a validator takes that."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler.resolve_ref_schema(handler(core))
        properties = schema.get("properties", {})
        for field in cls.model_fields.values():
            if isinstance(names := field.validation_alias, AliasChoices):
                first, *others = (str(name) for name in names.choices)
                properties |= dict.fromkeys(others, properties[first])
        short = cls.short_form
        return schema if short is None else {"anyOf": [schema, *short.get("anyOf", [short])]}


@dataclass(frozen=True, slots=True)
class Also:
    """An annotation of what else a validator takes, as JSON Schema."""

    form: JsonSchemaValue

    def __get_pydantic_json_schema__(
        self, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"anyOf": [handler(core), self.form]}


class _OneOrMore:
    def __get_pydantic_json_schema__(
        self, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        schema = handler(core)
        return {"anyOf": [schema["items"], schema]}


ONE_OR_MORE = _OneOrMore()
"""An annotation of a tuple whose validator also takes a single item."""


# Durations and counts

_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|d)?\s*", re.ASCII)
_LONGEST_S = 1e9


def parse_duration(value: object) -> timedelta:
    """A duration from ``30``, ``'30s'``, ``'1.5h'`` or ``'1m 30s'``; a bare number is seconds.

    Units are ms, s, m (or min), h and d; the resolution is a microsecond.

    :raises ValueError: if it is none of these, not positive, or longer than 30 years.
    """
    seconds = _seconds(value)
    # Written so that NaN is refused too, and what would round to nothing.
    if seconds is None or not 1e-6 <= seconds < _LONGEST_S:
        raise ValueError(f"expected a duration such as 30s, 5m or 1.5h, found {shown(value)}")
    return timedelta(seconds=seconds)


def _seconds(value: object) -> float | None:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return min(value, _LONGEST_S)
    if not isinstance(value, str):
        return None
    seconds, position = 0.0, 0
    while position < len(value) and (match := _DURATION.match(value, position)):
        seconds += float(match[1]) * _UNITS[match[2] or "s"]
        position = match.end()
    return seconds if position == len(value) else None


def _parse_limit(value: object) -> timedelta | None:
    return None if value is None else parse_duration(value)


_DURATION_FORM: JsonSchemaValue = {
    "anyOf": [
        {"type": "number", "exclusiveMinimum": 0, "description": "seconds"},
        {
            "type": "string",
            "pattern": r"^(\s*\d+(\.\d+)?\s*(ms|s|min|m|h|d)?\s*)+$|\$",
            "description": "with units ms, s, m, min, h and d: 500ms, 30s, 1m 30s, 1.5h",
        },
    ]
}
Duration = Annotated[timedelta, BeforeValidator(parse_duration), WithJsonSchema(_DURATION_FORM)]
OptionalDuration = Annotated[
    timedelta | None,
    BeforeValidator(_parse_limit),
    WithJsonSchema({"anyOf": [*_DURATION_FORM["anyOf"], {"type": "null"}]}),
]
"""A duration, or None for no limit."""

Count = Annotated[int, Field(strict=True, ge=1)]
"""An integer of at least 1; neither true nor ``'1'`` is one."""


# Errors


def nearest(name: object, known: Iterable[str]) -> str:
    """A hint that names the known key most like ``name``, or lists them all; empty if there are none."""
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(names)}" if names else ""


def shown(value: object) -> str:
    """``value`` as a message shows it: as a configuration file would write it, and never long."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def parse_options(cls: type[O], raw: Mapping[str, Any], *, path: Sequence[str | int] = ()) -> O:
    """``raw`` as an instance of ``cls``.

    :param path: where ``raw`` stands in the whole description, for the error.
    :raises ConfigError: for unknown keys, wrong types and missing values: the first, and the others with it.
    """
    if not isinstance(raw, Mapping):
        raise ConfigError(f"expected a mapping, found {shown(raw)}", path=path)
    try:
        return cls.model_validate(dict(raw))
    except ValidationError as exc:
        raise ConfigError.of(_mistakes(cls, raw, exc)).within(*path) from None


def _mistakes(cls: type[Options], raw: Mapping[str, Any], exc: ValidationError) -> list[ConfigError]:
    """What pydantic found, once for each value; unknown keys first, since they explain missing ones."""
    found: dict[tuple[str | int, ...], ConfigError] = {}
    meant: set[tuple[str | int, ...]] = set()
    for error in sorted(exc.errors(), key=lambda error: error["type"] != "extra_forbidden"):
        place = _existing(raw, error["loc"])
        if error["type"] == "missing":
            place = (*place, error["loc"][-1])
        elif error["type"] == "extra_forbidden":
            known = _fields_at(cls, error["loc"][:-1])
            meant.add((*place[:-1], *difflib.get_close_matches(str(error["loc"][-1]), known, n=1)))
        if place not in found and place not in meant:
            found[place] = _as_config_error(cls, place, error)
    return list(found.values())


def _as_config_error(cls: type[Options], place: tuple[str | int, ...], error: ErrorDetails) -> ConfigError:
    loc = error["loc"]
    match error["type"]:
        case "extra_forbidden":
            return ConfigError(
                f"unknown key {loc[-1]!r}{nearest(loc[-1], _fields_at(cls, loc[:-1]))}", path=place
            )
        case "missing":
            return ConfigError(f"missing key {loc[-1]!r}", path=place)
    inner = error.get("ctx", {}).get("error")
    if isinstance(inner, ConfigError):
        return inner.within(*place)
    return ConfigError(_mismatch(error), path=place)


def mismatch(exc: ValidationError) -> str:
    """What pydantic found first, in our words."""
    return _mismatch(exc.errors()[0])


def _mismatch(error: ErrorDetails) -> str:
    if error["type"] == "value_error":
        return str(error.get("ctx", {}).get("error") or error["msg"])
    return f"{_expectation(error)}, found {shown(error['input'])}{_choice(error)}"


def _existing(raw: object, loc: Sequence[str | int]) -> tuple[str | int, ...]:
    """The part of ``loc`` that leads through ``raw``; pydantic adds names of union members and validators."""
    path: list[str | int] = []
    for step in loc:
        entries = dict(enumerate(raw)) if isinstance(raw, list | tuple) else raw
        if isinstance(entries, Mapping) and step in entries:
            raw = entries[step]
            path.append(step)
    return tuple(path)


_KINDS = {
    "int_type": "an integer",
    "int_parsing": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "a string",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "list_type": "a list",
    "tuple_type": "a list",
    "invalid_key": "keys that are strings",
    "literal_error": "{expected}",
    "greater_than": "a value above {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "a value below {lt}",
    "less_than_equal": "at most {le}",
    "string_too_short": "at least {min_length} character(s)",
    "string_too_long": "at most {max_length} characters",
    "too_short": "at least {min_length} of them",
    "too_long": "at most {max_length} of them",
}


def _expectation(error: ErrorDetails) -> str:
    kind = _KINDS.get(error["type"])
    if kind is None:
        return error["msg"][0].lower() + error["msg"][1:]
    limits = {
        name: f"{one:g}" if isinstance(one, float) else one for name, one in error.get("ctx", {}).items()
    }
    return "expected " + kind.format(**limits)


def _choice(error: ErrorDetails) -> str:
    """A hint when the value is nearly one of those allowed."""
    if error["type"] != "literal_error":
        return ""
    allowed = re.findall(r"'([^']*)'", error.get("ctx", {})["expected"])
    hint = nearest(error["input"], allowed)
    return hint if "did you mean" in hint else ""


def _fields_at(cls: type[BaseModel], loc: Sequence[str | int]) -> list[str]:
    """The keys known at ``loc`` below ``cls``, as they are written."""
    current = cls
    for step in loc:
        fields = {key: field for name, field in current.model_fields.items() for key in _keys(name, field)}
        if step in fields:
            current = _model_in(fields[str(step)].annotation) or BaseModel
    return [key for name, field in current.model_fields.items() for key in _keys(name, field)]


def _keys(name: str, field: FieldInfo) -> list[str]:
    """What a field may be called."""
    if isinstance(field.validation_alias, AliasChoices):
        return [choice for choice in field.validation_alias.choices if isinstance(choice, str)]
    return [field.alias or name]


def _model_in(annotation: object) -> type[BaseModel] | None:
    """The option class inside ``X``, ``X | None``, ``tuple[X, ...]`` or ``dict[str, X]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := _model_in(part))), None)


# Names in values

REFERENCE = re.compile(
    r"\$(?:\$|(?P<brace>\{)?(?P<name>[A-Za-z_]\w*)(?(brace)(?::-(?P<default>[^${}]*))?\}))", re.ASCII
)
"""``$name``, ``${name}``, ``${name:-default}``, or ``$$`` (for which the group ``name`` is None)."""

_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_BOOLEANS = {"true": True, "false": False}


def parse_value(text: str) -> bool | int | float | str:
    """A text from the command line, or a default, as the value it means: a number, true, false, or a string.

    ``007`` and ``1_000`` are strings: a number is only what would be written back the same way.
    """
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    try:
        if _INTEGER.fullmatch(text):
            return int(text)
        return float(text) if _NUMBER.fullmatch(text) else text
    except ValueError:  # thousands of digits
        return text


class _Known(Protocol):
    def __contains__(self, name: object) -> bool: ...
    def __getitem__(self, name: str) -> object: ...


def referenced(match: re.Match[str], names: _Known) -> object:
    """What a match of ``REFERENCE`` with a name stands for. As in a shell, a default also replaces ``""``.

    :raises KeyError: if the name is not known and there is no default.
    """
    name, default = match["name"], match["default"]
    if default is not None and (name not in names or names[name] == ""):
        return parse_value(default)
    return names[name]


def as_text(value: object) -> str:
    """A parameter's value inside a longer text: like ``str``, but true and false as files write them."""
    return shown(value) if isinstance(value, bool) else str(value)


def expand(text: str, names: Mapping[str, object], *, missing_ok: bool = False) -> str:
    """``text`` with ``$name``, ``${name}`` and ``${name:-default}`` replaced, once; ``$$`` is a dollar sign.

    :param missing_ok: leave a name that is not known as it stands.
    :raises ConfigError: for a name that is not known.
    """

    def value(match: re.Match[str]) -> str:
        name = match["name"]
        if name is None:
            return "$"
        if name in names or match["default"] is not None:
            return as_text(referenced(match, names))
        if missing_ok:
            return match[0]
        raise ConfigError(
            f"${name} is not defined; give it with -g {name}=VALUE{nearest(name, map(str, names))}"
        )

    return REFERENCE.sub(value, text)
