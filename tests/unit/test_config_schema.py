"""The JSON Schema for editors: it takes what is right, refuses what is wrong, and is made of the classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

import windtunnel
from windtunnel.config import from_mapping, read_document
from windtunnel.config.jsonschema import description_schema
from windtunnel.config.schema import ExperimentConfig
from windtunnel.environments.registry import SHORT_NAMES, environment_class
from windtunnel.errors import ConfigError

SCHEMA = description_schema()
BASE: dict[str, Any] = {
    "experiment": "e",
    "objectives": {"a": "min"},
    "environment": {"class": "MockEnv"},
}


def mistakes(data: Any) -> list[str]:
    found = Draft202012Validator(SCHEMA).iter_errors(data)
    return [f"{'.'.join(map(str, one.absolute_path))}: {one.message}" for one in found]


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)


def test_the_shipped_examples_keep_to_it() -> None:
    files = sorted(Path(windtunnel.__file__).parent.rglob("experiment.yaml"))
    assert files
    assert {file.name: mistakes(read_document(file).data) for file in files} == {
        file.name: [] for file in files
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"trials": 3},
        {"trials": "$n"},
        {"trials": "${n:-3}"},
        {"timeouts": {"run": "1m 30s", "setup": None, "trial": 90}},
        {"retries": {"setup": 2, "run": {"times": 3, "pause": "500ms"}}},
        {"failures": 3},
        {"adaptive_repeats": True},
        {"adaptive_repeats": {"most": 3}},
        {"pruner": "median"},
        {"pruner": ["worst", {"name": "threshold", "metric": "x", "above": 3, "for": "10s"}]},
        {"pruner": {"name": "threshold", "rules": [{"metric": "x", "below": 3}]}},
        {"optimizer": "grid"},
        {"optimizer": {"name": "grid", "points": 3, "seed": 1}},
        {"optimizer": {"name": "my.Own", "anything": 3}},
        {"hosts": "inventory.ini"},
        {
            "hosts": [
                {"name": "n[1-3]", "address": "10.0.0.[1-3]", "jump": "gate", "labels": "db", "slots": 2}
            ]
        },
        {
            "hosts": {"ansible": "inventory.ini", "user": "me"},
            "hosts_per_trial": {"a": 2, "b": {"labels": "db"}},
        },
        {"tunables": {"g": {"cost": 1, "params": {"x": {"type": "int", "range": [1, 2], "default": 1}}}}},
        {"environment": {"class": "LocalEnv", "config": {"run": "one line", "teardown": ["two", "lines"]}}},
        {"environment": {"class": "my.Own", "config": {"anything": 3}}},
        {"environment": {"include": "environment.yaml"}},
        {"include": ["base.yaml"], "config_path": "common", "$schema": "x.json"},
    ],
)
def test_what_is_right_is_taken(changes: dict[str, Any]) -> None:
    assert mistakes({**BASE, **changes}) == []


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"trails": 3}, ": "),
        ({"trials": "many"}, "trials"),
        ({"trials": 0}, "trials"),
        ({"timeouts": {"run": "5 years"}}, "timeouts.run"),
        ({"retries": {"setup": {"times": "x"}}}, "retries.setup"),
        ({"pruner": {"name": "threshold", "metric": "x", "abvoe": 3}}, "pruner"),
        ({"pruner": "medain"}, "pruner"),
        ({"optimizer": {"name": "grid", "pionts": 3}}, "optimizer"),
        ({"hosts": [{"nam": "a"}]}, "hosts"),
        (
            {"tunables": {"g": {"params": {"x": {"type": "int", "ragne": [1, 2], "default": 1}}}}},
            "tunables.g",
        ),
        ({"environment": {"class": "LoclaEnv"}}, "environment.class"),
        ({"environment": {"class": "LocalEnv", "config": {"runs": "x"}}}, "environment.config"),
        (
            {
                "environment": {
                    "class": "CompositeEnv",
                    "config": {"children": [{"class": "MockEnv", "config": {"x": 1}}]},
                }
            },
            "environment.config.children.0.config",
        ),
        ({"environment": {"name": "no class"}}, "environment"),
    ],
)
def test_what_is_wrong_is_refused(changes: dict[str, Any], where: str) -> None:
    assert any(one.startswith(where) for one in mistakes({**BASE, **changes}))


def test_it_refuses_what_the_loader_refuses() -> None:
    """The two are made of the same classes: whatever key of the file is dropped or misspelt."""
    for key in BASE:
        without = {name: value for name, value in BASE.items() if name != key}
        with pytest.raises(ConfigError):
            from_mapping(without)
        assert mistakes(without)


def test_every_option_is_described() -> None:
    silent = [
        f"{name}.{key}"
        for name, schema in [("root", SCHEMA), *SCHEMA["$defs"].items()]
        for form in (schema, *schema.get("anyOf", ()))
        for key, option in form.get("properties", {}).items()
        if "description" not in option
        and "$ref" not in option
        and key not in ("include", "$schema")
        and not any("description" in inner or "$ref" in inner for inner in option.get("anyOf", ()))
    ]
    assert silent == []


def test_every_class_has_its_options_in_it() -> None:
    assert set(ExperimentConfig.model_fields) <= set(SCHEMA["properties"])
    for name in SHORT_NAMES:
        options = set(environment_class(name).options_class.model_fields)
        keys: set[str] = set()
        for branch in SCHEMA["$defs"]["EnvironmentConfig"]["allOf"]:
            if branch["if"]["properties"]["class"]["const"] == name:
                reference = branch["then"]["properties"]["config"]["$ref"].rpartition("/")[2]
                keys = set(SCHEMA["$defs"][reference]["properties"])
        assert options <= keys


def test_defaults_are_written_as_in_a_file() -> None:
    assert SCHEMA["properties"]["lease"]["default"] == "30s"
    assert SCHEMA["properties"]["trials"]["default"] == 100
