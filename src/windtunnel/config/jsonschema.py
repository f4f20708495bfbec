"""JSON Schema of a description, for editors. All of it comes from the option classes.

What the classes cannot say is added here: that a number may also be ``$name``, that files may be included,
and that what an environment, an optimizer or a pruner takes depends on its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any

from pydantic import ConfigDict
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from windtunnel.config.policies import PrunerConfig
from windtunnel.config.schema import EnvironmentConfig, ExperimentConfig, OptimizerConfig
from windtunnel.environments.composite import ChildOptions
from windtunnel.environments.registry import SHORT_NAMES, environment_class
from windtunnel.optimizers.registry import OPTIMIZERS
from windtunnel.options import Options
from windtunnel.pruners.registry import PRUNERS, pruner_class

__all__ = ["description_schema"]

_Schema = dict[str, Any]
_DEFS = "#/$defs/"
_REFERENCE = {"$ref": f"{_DEFS}reference"}
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_INCLUDE: _Schema = {
    "description": "file or files that say what could stand here; what is written beside them wins",
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
}
_CONFIG_PATH: _Schema = {
    "description": "folders to look in for included files, after the folder of the file that names them",
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
}


class _Unknown(Options):
    """Options of what is not installed."""

    model_config = ConfigDict(extra="allow")


def description_schema() -> dict[str, Any]:
    """The schema of the file that ``windtunnel run`` takes."""
    environments = {name: environment_class(name).options_class for name in SHORT_NAMES}
    optimizers = {
        name: _Unknown if (found := offer.find()) is None else found.options_class
        for name, offer in OPTIMIZERS.items()
    }
    pruners = {name: pruner_class(name).options_class for name in PRUNERS}
    fixed: list[type[Options]] = [
        ExperimentConfig,
        EnvironmentConfig,
        ChildOptions,
        OptimizerConfig,
        PrunerConfig,
    ]
    classes = [*fixed, *environments.values(), *optimizers.values(), *pruners.values()]
    keys, whole = models_json_schema(
        [(cls, "validation") for cls in dict.fromkeys(classes)], schema_generator=_Generator
    )
    names = {cls: str(keys[cls, "validation"]["$ref"]).removeprefix(_DEFS) for cls in classes}
    defs: dict[str, _Schema] = whole["$defs"]
    for cls in (EnvironmentConfig, ChildOptions):
        _choose_config(defs[names[cls]], {name: names[own] for name, own in environments.items()})
    _choose_own(defs, names[OptimizerConfig], {name: names[own] for name, own in optimizers.items()})
    _choose_own(defs, names[PrunerConfig], {name: names[own] for name, own in pruners.items()})
    for name in _sections(defs, names):
        _may_include(_object(defs[name]))
    root = defs.pop(names[ExperimentConfig])
    root["properties"] |= {"config_path": _CONFIG_PATH, "$schema": {"type": "string"}}
    defs = {name: _with_references(schema) for name, schema in defs.items()}
    defs["reference"] = {
        "description": "$name, ${name}, ${name:-default} or ${file:PATH}",
        "type": "string",
        "pattern": r"\$[A-Za-z_{]",
    }
    return {
        "$schema": _DIALECT,
        "title": "windtunnel experiment",
        **_with_references(root),
        "$defs": defs,
    }


class _Generator(GenerateJsonSchema):
    """Writes durations as files do."""

    def encode_default(self, dft: Any) -> Any:
        return f"{dft.total_seconds():g}s" if isinstance(dft, timedelta) else super().encode_default(dft)


def _object(schema: _Schema) -> _Schema:
    """The mapping among the forms that a value may have."""
    return next((form for form in schema.get("anyOf", ()) if form.get("type") == "object"), schema)


def _sections(defs: Mapping[str, _Schema], names: Mapping[type[Options], str]) -> set[str]:
    """The definitions in which ``include`` may stand."""
    root = defs[names[ExperimentConfig]]
    found = {names[ExperimentConfig], names[EnvironmentConfig], names[ChildOptions]}
    for value in root["properties"].values():
        forms = (value, *value.get("anyOf", ()))
        found |= {str(form["$ref"]).removeprefix(_DEFS) for form in forms if "$ref" in form}
    return {name for name in found if "properties" in _object(defs[name])}


def _may_include(schema: _Schema) -> None:
    schema["properties"] = {**schema["properties"], "include": _INCLUDE}
    if required := schema.pop("required", None):
        schema["anyOf"] = [{"required": ["include"]}, {"required": required}]


def _named(names: Iterable[str], described: _Schema) -> _Schema:
    """A short name, or the dotted path of a class of the user's own."""
    forms = [{"enum": sorted(names)}, {"type": "string", "pattern": r"[.:]"}]
    return {**{key: described[key] for key in ("description", "default") if key in described}, "anyOf": forms}


def _when(key: str, name: str, then: _Schema) -> _Schema:
    return {"if": {"properties": {key: {"const": name}}, "required": [key]}, "then": then}


def _choose_config(schema: _Schema, options: Mapping[str, str]) -> None:
    """What ``config`` may hold depends on ``class``."""
    properties = schema["properties"]
    properties["class"] = _named(options, properties["class"])
    schema["allOf"] = [
        _when("class", name, {"properties": {"config": {"$ref": f"{_DEFS}{own}"}}})
        for name, own in options.items()
    ]


def _choose_own(defs: Mapping[str, _Schema], common: str, options: Mapping[str, str]) -> None:
    """What may stand beside ``name`` depends on it."""
    schema = _object(defs[common])
    shared = {key: value for key, value in schema["properties"].items() if key != "name"}
    named = schema["properties"]["name"] = _named(options, schema["properties"]["name"])
    shared["name"] = {"type": "string"}
    choices = [_when("name", name, _with_properties(defs[own], shared)) for name, own in options.items()]
    usual = str(named.get("default"))
    if usual in options:
        absent = {"not": {"required": ["name"]}}
        choices.append({"if": absent, "then": _with_properties(defs[options[usual]], shared)})
    schema["allOf"] = choices
    if "anyOf" in defs[common]:
        _name_short_form(defs[common], options)


def _name_short_form(schema: _Schema, options: Iterable[str]) -> None:
    schema["anyOf"] = [
        _named(options, {}) if form.get("type") == "string" else form for form in schema["anyOf"]
    ]


def _with_properties(schema: _Schema, more: _Schema) -> _Schema:
    if "anyOf" in schema:
        return {"anyOf": [_with_properties(form, more) for form in schema["anyOf"]]}
    return {**schema, "properties": {**schema.get("properties", {}), **more}}


def _with_references(schema: Any) -> Any:
    """The same, but what is no text may also be the name of something."""
    return _walked(schema, lambda one: {"anyOf": [one, _REFERENCE]} if _is_scalar(one) else one)


def _is_scalar(schema: Mapping[str, Any]) -> bool:
    return schema.get("type") in ("integer", "number", "boolean") or "enum" in schema


def _walked(schema: Any, change: Callable[[_Schema], _Schema]) -> Any:
    if isinstance(schema, list):
        return [_walked(one, change) for one in schema]
    if not isinstance(schema, dict):
        return schema
    walked: _Schema = {}
    for key, value in schema.items():
        if key in ("properties", "$defs") and isinstance(value, dict):
            walked[key] = {name: _walked(one, change) for name, one in value.items()}
        elif key in ("items", "additionalProperties", "anyOf", "allOf", "prefixItems", "then"):
            walked[key] = _walked(value, change)
        else:
            walked[key] = value
    if not _is_scalar(walked):
        return walked
    kept = {key: walked.pop(key) for key in ("description", "default", "title") if key in walked}
    return {**kept, **change(walked)}
