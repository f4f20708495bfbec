"""Records that know their trial, and lines of JSON."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import Enum
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from windtunnel.cli.logs import set_up_logging
from windtunnel.logs import JsonFormatter, TrialFields, trial_fields


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where a logger of its own writes JSON."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("windtunnel.testlogs")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    yield stream
    logger.removeHandler(handler)
    logger.propagate = True


logger = logging.getLogger("windtunnel.testlogs")


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line, parse_constant=pytest.fail) for line in stream.getvalue().splitlines()]


def test_a_line_says_when_who_and_what(stream: io.StringIO) -> None:
    before = datetime.now(UTC)
    logger.warning("%d trials", 3, extra={"action": "requeued", "ratio": 0.5})
    (line,) = lines(stream)
    moment = datetime.fromisoformat(line.pop("time"))
    assert abs((moment - before).total_seconds()) < 5
    assert moment.tzinfo is not None
    assert line == {
        "level": "warning",
        "logger": "windtunnel.testlogs",
        "message": "3 trials",
        "action": "requeued",
        "ratio": 0.5,
    }


async def _logged_by_each_trial() -> None:
    async def trial(trial_id: int) -> None:
        with trial_fields(experiment_id="e", trial_id=trial_id, attempt=2, host=f"node-{trial_id}"):
            await anyio.lowlevel.checkpoint()
            logger.info("in the task")
            await anyio.to_thread.run_sync(logger.info, "in a thread")
        logger.info("after")

    async with anyio.create_task_group() as group:
        for trial_id in (1, 2, 3):
            group.start_soon(trial, trial_id)


@pytest.mark.anyio
async def test_every_line_of_a_trial_carries_its_fields(stream: io.StringIO) -> None:
    await _logged_by_each_trial()
    told = lines(stream)
    for message in ("in the task", "in a thread"):
        mine = [line for line in told if line["message"] == message]
        assert sorted(
            (one["experiment_id"], one["trial_id"], one["attempt"], one["host"]) for one in mine
        ) == [("e", n, 2, f"node-{n}") for n in (1, 2, 3)]
    assert not any("trial_id" in line for line in told if line["message"] == "after")


def test_what_was_given_with_the_line_wins_and_reserved_names_hide_nothing(stream: io.StringIO) -> None:
    with trial_fields(experiment_id="e", trial_id=1, attempt=1):
        logger.info("said", extra={"trial_id": 7, "level": "high", "time": 3})
    (line,) = lines(stream)
    assert (line["trial_id"], line["experiment_id"]) == (7, "e")
    assert (line["level"], line["extra_level"], line["extra_time"]) == ("info", "high", 3)
    assert "host" not in line


def test_an_exception_stays_on_the_line(stream: io.StringIO) -> None:
    def fail() -> None:
        raise ValueError("two\nlines\u2028three")

    try:
        fail()
    except ValueError:
        logger.exception("it\nfailed", stack_info=True)
    (line,) = lines(stream)
    assert line["message"] == "it\nfailed"
    assert line["exception"].endswith("ValueError: two\nlines\u2028three")
    assert "test_an_exception_stays" in line["stack"]


class _Odd(Enum):
    ONE = 1


class _Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no")


def test_what_json_does_not_know_is_text_and_no_number_is_null(stream: io.StringIO) -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    logger.info(
        "x",
        extra={
            "nan": float("nan"),
            "nested": {"inf": [float("inf"), 1.5], 3: (True, None)},
            "enum": _Odd.ONE,
            "unprintable": _Unprintable(),
            "cycle": cycle,
            "lone": "\ud800",
        },
    )
    (line,) = lines(stream)
    assert line["nan"] is None
    assert line["nested"] == {"inf": [None, 1.5], "3": [True, None]}
    assert (line["enum"], line["unprintable"], line["lone"]) == ("_Odd.ONE", "<_Unprintable>", "\ud800")


def test_a_wrong_format_string_costs_no_line() -> None:
    record = logging.makeLogRecord({"msg": "%d trials", "args": ("three",)})
    assert json.loads(JsonFormatter().format(record))["message"] == "%d trials ('three',)"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=10,
    ),
    st.text(),
)
def test_any_record_is_one_line_of_json(value: object, message: str) -> None:
    record = logging.makeLogRecord({"msg": message, "value": value})
    text = JsonFormatter().format(record)
    assert len(text.splitlines()) == 1
    assert json.loads(text, parse_constant=pytest.fail)["message"] == message


def test_the_filter_serves_text_formats() -> None:
    record = logging.makeLogRecord({"msg": "hello"})
    with trial_fields(experiment_id="e", trial_id=4, attempt=1, host="node-1"):
        assert TrialFields().filter(record)
    formatter = logging.Formatter("%(experiment_id)s/%(trial_id)s#%(attempt)s@%(host)s %(message)s")
    assert formatter.format(record) == "e/4#1@node-1 hello"
    outside = logging.makeLogRecord({"msg": "hello"})
    TrialFields().filter(outside)
    assert formatter.format(outside) == "None/None#None@None hello"


@pytest.fixture
def _logging_as_before() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("windtunnel")
    handlers, level, raising = list(root.handlers), ours.level, logging.raiseExceptions
    yield
    root.handlers[:] = handlers
    ours.setLevel(level)
    logging.raiseExceptions = raising


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.usefixtures("_logging_as_before")
def test_the_command_line_logs_json_to_the_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    error, shown = io.StringIO(), _Terminal()
    monkeypatch.setattr(sys, "stderr", error)
    for _ in range(2):  # set up twice it logs once
        set_up_logging(Console(file=shown, force_terminal=True), verbosity=1, form="json")
    logging.getLogger("windtunnel.x").info("for an operator", extra={"action": "a"})
    logging.getLogger("windtunnel.x").debug("for nobody")
    (line,) = lines(error)
    assert (line["message"], line["action"]) == ("for an operator", "a")
    assert shown.getvalue() == ""


@pytest.mark.usefixtures("_logging_as_before")
def test_json_lines_do_not_cross_a_live_view_on_the_same_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    error, shown = _Terminal(), _Terminal()
    monkeypatch.setattr(sys, "stderr", error)
    monkeypatch.setenv("TERM", "xterm")
    console = Console(file=shown, force_terminal=True, width=30)
    set_up_logging(console, form="json")
    logging.getLogger("windtunnel.x").warning("a long line " * 10)
    assert error.getvalue() == ""
    assert json.loads(shown.getvalue())["message"] == "a long line " * 10


@pytest.mark.usefixtures("_logging_as_before")
def test_text_is_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    set_up_logging(Console(file=shown, width=200))
    logging.getLogger("windtunnel.x").warning("be\x1b[31m careful")
    assert shown.getvalue() == "warning: be careful\n"
