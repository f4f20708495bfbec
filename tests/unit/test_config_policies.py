"""The options for retries, budgets, repeats and pruners, and what is said about a mistake in them."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from ruamel.yaml import YAML

from windtunnel.config import from_mapping, load
from windtunnel.config.build import assemble
from windtunnel.errors import ConfigError
from windtunnel.model import FailureKind
from windtunnel.scheduling.policy import AdaptiveRepeats, FailureBudget, Retry

README = Path(__file__).parents[2] / "README.md"
YAML_BLOCK = re.compile(r"```yaml\n(.*?)```", re.DOTALL)
SMALL: dict[str, Any] = {
    "experiment": "demo",
    "objectives": {"qps": "max"},
    "environment": {"class": "MockEnv"},
}


def test_nothing_is_retried_limited_pruned_or_repeated_unless_it_is_said() -> None:
    config = from_mapping(SMALL).config
    assert config.retries.as_retries() == {}
    assert config.failures.as_budget() == FailureBudget(most=None, share=None, least=10, setup=None)
    assert (config.time_budget, config.adaptive_repeats, config.pruner) == (None, None, ())
    assert config.timeouts.as_timeouts().experiment is None


def test_everything_can_be_said() -> None:
    config = from_mapping(
        {
            **SMALL,
            "timeouts": {"experiment": "2h"},
            "time_budget": "90m",
            "retries": {
                "setup": {"times": 3, "pause": "5s", "factor": 3, "longest": "2m", "jitter": 0.25},
                "timeout": 1,
                "host": None,
            },
            "failures": {"most": 20, "share": 0.5, "least": 4, "setup": 5},
            "adaptive_repeats": {"most": 6, "confidence": 0.9, "score": "worst_host"},
            "pruner": [{"name": "median", "metric": "qps"}, "worst"],
        }
    ).config
    assert config.timeouts.as_timeouts().experiment == timedelta(hours=2)
    assert config.time_budget == timedelta(minutes=90)
    assert config.retries.as_retries() == {
        FailureKind.SETUP: Retry(
            times=3, pause=timedelta(seconds=5), factor=3, longest=timedelta(minutes=2), jitter=0.25
        ),
        FailureKind.TIMEOUT: Retry(times=1),
    }
    assert config.failures.as_budget() == FailureBudget(most=20, share=0.5, least=4, setup=5)
    assert config.adaptive_repeats is not None
    wanted = AdaptiveRepeats(most=6, confidence=0.9, score="worst_host")
    assert config.adaptive_repeats.as_adaptive() == wanted
    assert [(one.name, one.options) for one in config.pruner] == [
        ("median", {"metric": "qps"}),
        ("worst", {}),
    ]


def test_every_kind_of_failure_can_be_retried() -> None:
    kinds = set(FailureKind) - {FailureKind.ABORTED}  # that was on purpose
    retries = from_mapping({**SMALL, "retries": {kind.value: 2 for kind in kinds}}).config.retries
    assert retries.as_retries() == {kind: Retry(times=2) for kind in kinds}


def test_short_forms() -> None:
    config = from_mapping({**SMALL, "failures": 0, "adaptive_repeats": True, "pruner": "worst"}).config
    assert config.failures.as_budget() == FailureBudget(most=0)
    assert config.adaptive_repeats is not None
    assert config.adaptive_repeats.as_adaptive() == AdaptiveRepeats()
    assert [one.name for one in config.pruner] == ["worst"]
    assert from_mapping({**SMALL, "adaptive_repeats": False}).config.adaptive_repeats is None
    assert [one.name for one in from_mapping({**SMALL, "pruner": {"name": "x.Y"}}).config.pruner] == ["x.Y"]


@pytest.mark.parametrize(
    ("changes", "marker", "said"),
    [
        ({"retries": {"setpu": 1}}, "setpu", "unknown key 'setpu'; did you mean 'setup'?"),
        ({"retries": {"run": -1}}, "run", "expected at least 0, found -1"),
        ({"retries": {"run": "often"}}, "run", "expected a mapping, found 'often'"),
        ({"retries": {"run": True}}, "run", "expected a mapping, found true"),
        ({"retries": {"run": {"pause": "1s"}}}, "run", "missing key 'times'"),
        ({"retries": {"run": {"times": 1, "pasue": 1}}}, "pasue", "did you mean 'pause'?"),
        ({"retries": {"run": {"times": 1, "factor": 0.5}}}, "factor", "expected at least 1, found 0.5"),
        ({"retries": {"run": {"times": 1, "jitter": 2}}}, "jitter", "expected at most 1, found 2"),
        ({"retries": 3}, "retries", "expected a mapping, found 3"),
        ({"failures": "many"}, "failures", "expected a mapping, found 'many'"),
        ({"failures": {"share": 0}}, "share", "expected a value above 0, found 0"),
        ({"failures": {"share": 20}}, "share", "expected at most 1, found 20"),
        ({"failures": {"msot": 2}}, "msot", "did you mean 'most'?"),
        ({"adaptive_repeats": 3}, "adaptive_repeats", "expected a mapping, found 3"),
        ({"adaptive_repeats": {"score": "avg"}}, "score", "found 'avg'"),
        ({"adaptive_repeats": {"confidence": 95}}, "confidence", "expected a value below 1, found 95"),
        ({"adaptive_repeats": {"msot": 2}}, "msot", "did you mean 'most'?"),
        ({"pruner": 3}, "pruner", "expected a list, found 3"),
        ({"pruner": {"metric": "x"}}, "pruner", "missing key 'name'"),
        ({"pruner": ["median", {"metric": "x"}]}, "{", "missing key 'name'"),
        ({"time_budget": "soon"}, "time_budget", "expected a duration"),
    ],
)
def test_a_mistake_is_told_with_its_line(
    tmp_path: Path, changes: dict[str, Any], marker: str, said: str
) -> None:
    file = tmp_path / "wrong.json"
    text = json.dumps({**SMALL, **changes}, indent=1)
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file)
    last = max(i for i, line in enumerate(text.splitlines(), 1) if marker in line)
    assert str(caught.value).startswith(f"{file}:{last}:")
    assert said in str(caught.value)


def _blocks(text: str) -> dict[str, Any]:
    """The README's YAML by the first key; reading it takes longer than the event loop may be held up."""
    written = [YAML(typ="safe", pure=True).load(one) for one in YAML_BLOCK.findall(text)]
    return {next(iter(one)): one for one in written}


async def test_what_the_readme_shows_can_be_run(tmp_path: Path, url: str) -> None:
    text = await anyio.Path(README).read_text()
    parts = await anyio.to_thread.run_sync(_blocks, text)
    described = {**parts["experiment"], **parts["timeouts"], "storage": url}
    async with assemble(from_mapping(described, directory=tmp_path)) as assembly:
        assert assembly.scheduler.snapshot().target == 24
    del described["concurrency"]
    (tmp_path / "known_hosts").touch()
    async with assemble(from_mapping({**described, **parts["hosts"]}, directory=tmp_path)) as assembly:
        assert assembly.scheduler.snapshot().slots == 64
    constrained = from_mapping({**parts["experiment"], **parts["tunables"]}, directory=tmp_path).config
    assert not constrained.tunables.assign({"workers": 64, "buffer_mib": 1024}).is_feasible
