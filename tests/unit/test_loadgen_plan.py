from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from windtunnel.errors import ConfigError
from windtunnel.loadgen.checks import checker, saver
from windtunnel.loadgen.compile import Part, client_of, schedule
from windtunnel.loadgen.connection import Answer, Session
from windtunnel.loadgen.http import HttpClient, Origin
from windtunnel.loadgen.plan import CheckPlan, LoadPlan, files_of, needs_consent, with_files
from windtunnel.loadgen.recorder import ErrorKind, Recorder, Window
from windtunnel.loadgen.result import Result
from windtunnel.loadgen.thresholds import Threshold
from windtunnel.options import parse_options

URL = "http://127.0.0.1:8080/a?b=1"


def plan(**options: Any) -> LoadPlan:
    return parse_options(LoadPlan, {"url": URL, **options})


def payloads(here: Path, count: int = 1, **options: Any) -> list[str]:
    client = client_of(plan(rate=1, **options), Recorder(), Part(), here)
    assert isinstance(client, HttpClient)
    sessions = [client.only or client.next_session() for _ in range(count)]
    return [_text(session) for session in sessions]


def _text(session: Session) -> str:
    payload = session.steps[0].payload
    return (payload if isinstance(payload, bytes) else payload(session.values)).decode()


# Plans


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "expected one of rate, profile, trace and users, found none"),
        ({"rate": 1, "users": 2}, "found rate and users"),
        ({"rate": 0}, "expected a value above 0, found 0"),
        ({"rate": 1, "url": "ftp://x/"}, "expected a url such as"),
        ({"rate": 1, "url": "http://u:p@127.0.0.1/"}, "without a user"),
        ({"rate": 1, "durration": 5}, "did you mean 'duration'"),
        ({"rate": 1, "scenarios": [{"name": "a"}]}, "expected steps or a function"),
        ({"users": 1, "workers": 2}, "expected at least 2 users"),
        ({"profile": [{"rate": 0, "for": "5s"}]}, "a rate above 0"),
    ],
)
def test_wrong_plan_is_refused_with_the_reason(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(**options)
    assert message in str(caught.value)


def test_profile_is_stretched_and_cut_to_the_duration() -> None:
    profile = [{"rate": 100, "for": "10s"}, {"rate": 100, "to": 300, "for": "10s"}]
    assert plan(profile=profile).pieces()[-1] == (100, 300, 10)
    assert plan(profile=profile, duration="15s").pieces()[-1] == (100, 200, 5)
    assert plan(profile=profile, duration="25s").pieces()[-1] == (300, 300, 5)


def test_trace_gives_its_own_times(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("time,path\n0.5,/a\n0.75,/b\n3,/c\n")
    assert list(schedule(plan(trace="t.csv"), tmp_path)) == [500_000_000, 750_000_000, 3_000_000_000]
    (tmp_path / "bad.csv").write_text("0.5\nsoon\n")
    with pytest.raises(ConfigError, match=r"bad.csv:2: .*'soon'"):
        schedule(plan(trace="bad.csv"), tmp_path)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"rate": 100}, None),
        ({"rate": 100, "url": "http://[::1]:80/"}, None),
        ({"rate": 100, "url": "http://example.org/"}, "'example.org' is not this machine"),
        ({"rate": 100, "url": "http://10.0.0.1/"}, "'10.0.0.1' is not this machine"),
        ({"rate": 50_000}, "50000 is more than 20000"),
        ({"rate": 50_000, "url": "http://example.org/", "confirmed": True}, None),
    ],
)
def test_what_has_to_be_confirmed(options: dict[str, Any], reason: str | None) -> None:
    found = needs_consent(plan(**options))
    assert (found is None) if reason is None else (found is not None and reason in found)


# Requests


def test_request_says_who_asks_and_keeps_the_query(tmp_path: Path) -> None:
    (text,) = payloads(tmp_path)
    assert text.startswith("GET /a?b=1 HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: windtunnel/")
    assert text.endswith("\r\n\r\n")


def test_rows_of_data_take_turns_and_cannot_smuggle_a_header(tmp_path: Path) -> None:
    (tmp_path / "users.jsonl").write_text('{"user": "ann"}\n{"user": "bob\\r\\nX-Evil: 1"}\n')
    steps = [{"path": "/$user", "headers": {"X-User": "$user"}, "method": "POST", "body": "u=$user"}]
    texts = payloads(tmp_path, 3, data="users.jsonl", scenarios=[{"steps": steps}])
    assert ["ann" in text for text in texts] == [True, False, True]
    assert "\r\nX-Evil" not in texts[1].partition("\r\n\r\n")[0]
    assert "Content-Length: 5\r\n\r\nu=ann" in texts[0]


def test_unknown_name_and_missing_data_are_told(tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_text("user\nann\n")
    with pytest.raises(ConfigError, match="\\$usr is not defined; did you mean 'user'"):
        payloads(tmp_path, data="users.csv", scenarios=[{"steps": [{"path": "/$usr"}]}])
    with pytest.raises(ConfigError, match="there is no file"):
        payloads(tmp_path, data="missing.csv")
    with pytest.raises(ConfigError, match="one line"):
        payloads(tmp_path, headers={"X": "a\nb"})


def test_scenarios_are_chosen_by_weight_and_reproducibly(tmp_path: Path) -> None:
    scenarios = [{"weight": 3, "steps": [{"path": "/x"}]}, {"weight": 1, "steps": [{"path": "/y"}]}]
    first = payloads(tmp_path, 1000, scenarios=scenarios)
    assert first == payloads(tmp_path, 1000, scenarios=scenarios)
    assert Counter(text[5] for text in first)["x"] == pytest.approx(750, abs=60)


def test_origin_is_the_urls() -> None:
    assert Origin(*plan(rate=1).address()) == ("127.0.0.1", 8080, None)
    assert plan(rate=1, url="https://127.0.0.1/").address() == ("127.0.0.1", 443)


# Checks


ANSWER = Answer(200, {"content-type": "application/json"}, b'{"items": [{"id": 7}], "ok": true}')


@pytest.mark.parametrize(
    ("check", "kind"),
    [
        ({}, None),
        ({"status": 200}, None),
        ({"status": [201, 204]}, ErrorKind.STATUS),
        ({"header": {"Content-Type": "json"}}, None),
        ({"header": {"Etag": "x"}}, ErrorKind.CHECK),
        ({"body": "items"}, None),
        ({"body": "nothing"}, ErrorKind.CHECK),
        ({"json": {"items.0.id": 7, "ok": True}}, None),
        ({"json": {"items.0.id": 8}}, ErrorKind.CHECK),
        ({"json": {"items.3.id": 7}}, ErrorKind.CHECK),
    ],
)
def test_checks(check: dict[str, Any], kind: ErrorKind | None) -> None:
    problem = checker(parse_options(CheckPlan, check))(ANSWER)
    assert (problem and problem[0]) == kind


def test_what_is_no_json_is_a_failed_check_and_saves_nothing() -> None:
    answer = Answer(200, {}, b"<html>")
    problem = checker(parse_options(CheckPlan, {"json": {"a": 1}}))(answer)
    assert problem is not None
    assert "expected 1 at a of the JSON" in problem[1]
    assert saver({"id": "items.0.id"})(answer) == {"id": ""}
    assert saver({"id": "items.0.id"})(ANSWER) == {"id": 7}


# Thresholds


def window(*latencies_ms: float, errors: int = 0) -> Window:
    made = Window(begun=len(latencies_ms) + errors, elapsed_s=2.0)
    made.latency.record([round(one * 1e6) for one in latencies_ms])
    made.errors.update({"reset": errors})
    return made


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("p99<50ms", True),
        ("p50<=10ms", True),
        ("p99.9<9ms", False),
        ("p999 < 0.05s", True),
        ("max<11ms", True),
        ("mean>9ms", True),
        ("errors<1%", False),
        ("errors<26%", True),
        ("errors<2", True),
        ("reset<1", False),
        ("timeout<1", True),
        ("rate>=1.5", True),
    ],
)
def test_thresholds(text: str, kept: bool) -> None:
    assert Threshold.parse(text).is_kept(window(10, 10, 10, errors=1)) is kept


@pytest.mark.parametrize(
    "text", ["", "p99", "p99<", "p99=5ms", "q99<5ms", "errors<5ms", "p99<5 min", "p100<5"]
)
def test_what_is_no_threshold_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected"):
        Threshold.parse(text)


def test_threshold_without_a_unit_is_told_what_to_write() -> None:
    with pytest.raises(ConfigError, match=r"'p99<50' has no unit of time; write 'p99<50ms' or 'p99<50s'"):
        Threshold.parse("p99<50")


def test_files_of_a_plan_can_be_called_otherwise() -> None:
    raw = {
        "rate": 1,
        "data": "../users.csv",
        "resource": "mine.py:pool",
        "scenarios": [{"function": "mine.py:load"}, {"function": "package.module:load", "weight": 2}],
    }
    found = files_of(plan(**raw))
    assert found == {"../users.csv": "data", "mine.py": "resource"}
    moved = with_files(raw, {"../users.csv": "0/users.csv", "mine.py": "1/mine.py"})
    assert moved == {
        "rate": 1,
        "data": "0/users.csv",
        "resource": "1/mine.py:pool",
        "scenarios": [{"function": "1/mine.py:load"}, {"function": "package.module:load", "weight": 2}],
    }
    assert files_of(plan(**moved)).keys() == {"0/users.csv", "1/mine.py"}


def test_latency_that_nobody_measured_keeps_no_limit() -> None:
    assert not Threshold.parse("p99<50ms").is_kept(window(errors=3))


# Results


def test_unsent_requests_count_as_errors() -> None:
    result = Result(total=window(1, 2), offered=8)
    assert (result.unsent, result.error_rate) == (6, 0.75)
    assert Threshold.parse("errors<50%").is_kept(result.total, unsent=result.unsent) is False


@pytest.mark.parametrize(
    ("late_ns", "cpu_s", "reason"),
    [(999_000, 0.5, None), (1_200_000, 0.5, "1.2 ms late"), (0, 1.99, "used 100% of its core")],
)
def test_what_makes_a_run_invalid(late_ns: int, cpu_s: float, reason: str | None) -> None:
    total = window(1)
    total.lateness.record([late_ns] * 100)
    total.busiest_cpu_s = cpu_s
    found = Result(total=total).invalid_because
    assert found == [] if reason is None else reason in found[0]


@pytest.mark.parametrize(
    ("text", "late_ms", "telling"),
    [
        ("p50<20ms", 50, True),  # kept, though late
        ("p50<5ms", 0.1, True),  # missed in a valid run
        ("p50<5ms", 4, True),  # missed even without what the generator may have added
        ("p50<5ms", 6, False),
        ("errors<0", 6, False),
    ],
)
def test_verdict_of_a_late_generator(text: str, late_ms: float, telling: bool) -> None:
    total = window(10, 10, 10)
    total.lateness.record([round(late_ms * 1e6)] * 100)
    assert Result(total=total, thresholds=[Threshold.parse(text)]).is_telling is telling
    lost = Result(total=total, thresholds=[Threshold.parse(text)], lost=["worker 1"])
    assert not lost.is_telling
