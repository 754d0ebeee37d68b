"""What no caller should send: each gets a clear answer, nothing is written, and no worker notices."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nbx.limits import BATCH, BODY_BYTES
from tests.service import CATALOG, Running, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

DECIDE, DECIDE_BATCH, EVENTS, INTERACT = "/v1/decisions", "/v1/decisions:batch", "/v1/events", "/v1/interactions"
HOT = (DECIDE, DECIDE_BATCH, EVENTS)
FOUR_HUNDRED_NINES = "9" * 400


@pytest.fixture(scope="module", autouse=True)
def nothing_happens(service: Running) -> Iterator[None]:
    """All of this file leaves every byte of state as it was, and every process alive."""
    state, pids = service.dump(), service.pids()
    yield
    assert service.pids() == pids, "a process was started again"
    assert service.dump() == state, "something was written"


def request(**more: Any) -> bytes:
    return msgspec.json.encode({"customer_id": "bad", "placement": "web", **more})


def raw_request(field: str) -> bytes:
    return f'{{"customer_id":"bad","placement":"web",{field}}}'.encode()


def raw_event(field: str) -> bytes:
    return f'[{{"event_id":"bad","type":"page_view","customer_id":"bad",{field}}}]'.encode()


def problem_of(service: Running, path: str, body: bytes, method: str = "POST", kind: str = "") -> dict[str, Any]:
    """Send something that must be refused; returns the problem document."""
    headers = {"content-type": kind} if kind else {}
    answer = service.http.request(method, path, content=body, headers=headers)
    assert answer.is_client_error, (answer.status_code, answer.text)
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    assert found["status"] == answer.status_code
    assert found["type"] == f"urn:nbx:problem:{found['code']}"
    assert found["detail"]
    assert "Traceback" not in answer.text
    assert 'File "' not in answer.text
    return found


DECISIONS: list[tuple[str, bytes, int, str, str]] = [
    ("nothing", b"", 400, "json_malformed", ""),
    ("no JSON", b"placement=web", 400, "json_malformed", ""),
    ("cut", request()[:-1], 400, "json_malformed", ""),
    ("more after it", request() + b"{}", 400, "json_malformed", ""),
    ("null", b"null", 400, "field_invalid", ""),
    ("a list", b"[]", 400, "field_invalid", ""),
    ("no UTF-8", b'{"customer_id":"\xff\xfe","placement":"web"}', 400, "json_malformed", ""),
    ("lone surrogate", b'{"customer_id":"\\ud800","placement":"web"}', 400, "json_malformed", ""),
    ("deep", b"[" * 100_000, 400, "field_invalid", ""),
    ("deep in an unknown field", raw_request('"x":' + "[" * 50_000 + "]" * 50_000), 400, "json_malformed", ""),
    ("no customer", b'{"placement":"web"}', 400, "field_invalid", "customer_id"),
    ("no placement", b'{"customer_id":"bad"}', 400, "field_invalid", "placement"),
    ("number as id", b'{"customer_id":7,"placement":"web"}', 400, "field_invalid", "customer_id"),
    ("empty id", request(customer_id=""), 400, "id_invalid", "customer_id"),
    ("long id", request(customer_id="x" * 129), 413, "too_large", "customer_id"),
    ("control in id", request(customer_id="a\x1b[2J"), 400, "id_invalid", "customer_id"),
    ("zero in id", request(customer_id="a\0b"), 400, "id_invalid", "customer_id"),
    ("private use in id", request(customer_id="a\ue000"), 400, "id_invalid", "customer_id"),
    ("long request id", request(request_id="x" * 129), 413, "too_large", "request_id"),
    ("control in request id", request(request_id="\n"), 400, "id_invalid", "request_id"),
    ("unknown placement", request(placement="nowhere"), 404, "placement_unknown", "placement"),
    ("long placement", request(placement="x" * 100_000), 404, "placement_unknown", "placement"),
    ("slots as text", request(slots="1"), 400, "field_invalid", "slots"),
    ("half a slot", request(slots=1.5), 400, "field_invalid", "slots"),
    ("no slots", request(slots=0), 400, "slots_out_of_range", "slots"),
    ("negative slots", request(slots=-1), 400, "slots_out_of_range", "slots"),
    ("too many slots", request(slots=4), 400, "slots_out_of_range", "slots"),
    ("huge slots", raw_request(f'"slots":{FOUR_HUNDRED_NINES}'), 400, "slots_out_of_range", "slots"),
    ("NaN", raw_request('"context":{"hour":NaN}'), 400, "json_malformed", ""),
    ("Infinity", raw_request('"context":{"hour":-Infinity}'), 400, "json_malformed", ""),
    ("1e999", raw_request('"context":{"hour":1e999}'), 400, "field_invalid", "context"),
    ("text for a number", request(context={"hour": "noon"}), 400, "feature_type", "context.hour"),
    ("number for text", request(context={"call_reason": 3}), 400, "feature_type", "context.call_reason"),
    ("null in context", request(context={"hour": None}), 400, "field_invalid", "context"),
    ("list in context", request(context={"hour": [1]}), 400, "field_invalid", "context"),
    ("context as list", request(context=[1]), 400, "field_invalid", "context"),
    ("wide context", request(context={str(n): n for n in range(65)}), 413, "too_large", "context"),
    ("long text in context", request(context={"call_reason": "x" * 1025}), 413, "too_large", "context.call_reason"),
    ("long name in context", request(context={"x" * 65: 1}), 413, "too_large", "context"),
    ("control in a name", request(context={"a\nb": 1}), 413, "too_large", "context"),
    ("many excluded", request(exclude=["x"] * 201), 413, "too_large", "exclude"),
    ("long excluded", request(exclude=["x", "x" * 65]), 400, "field_invalid", "exclude[1]"),
    ("control excluded", request(exclude=["a\tb"]), 400, "field_invalid", "exclude[0]"),
    ("unknown mode", request(mode="dry"), 400, "field_invalid", "mode"),
    ("unknown explain", request(explain="why"), 400, "field_invalid", "explain"),
    ("negative deadline", request(deadline_ms=-1), 400, "invalid", "deadline_ms"),
    ("too big", b" " * (BODY_BYTES + 1), 413, "too_large", "body"),
]


@pytest.mark.parametrize("case", DECISIONS, ids=lambda case: case[0])
def test_a_bad_decision_request(service: Running, case: tuple[str, bytes, int, str, str]) -> None:
    _, body, status, code, field = case
    found = problem_of(service, DECIDE, body)
    assert (found["status"], found["code"], found.get("field", "")) == (status, code, field)


@pytest.mark.parametrize("case", DECISIONS, ids=lambda case: case[0])
def test_the_same_by_the_documented_route_in_an_interaction(
    service: Running, case: tuple[str, bytes, int, str, str]
) -> None:
    name, body, status, code, field = case
    if name in ("nothing", "deep"):
        code = "json_malformed"  # the wrapping makes it so
    found = problem_of(service, INTERACT, b'{"decision":' + body + b"}", kind="application/json")
    place = f"decision.{field}" if code == "field_invalid" and "exclude[" not in field else field
    if name == "too big":
        assert found["status"] == 413
    else:
        assert (found["status"], found["code"]) == (status, code)
        if name != "1e999":  # Litestar's decoder, which comes first, does not say where
            assert found.get("field", "").rstrip(".") == place.rstrip(".")


EVENT_ROWS: list[tuple[str, bytes, str, str]] = [
    ("empty event id", raw_event('"event_id":""'), "id_invalid", "event_id"),
    ("long event id", raw_event(f'"event_id":"{"x" * 129}"'), "too_large", "event_id"),
    ("control in event id", raw_event('"event_id":"\\u0007"'), "id_invalid", "event_id"),
    ("no type", raw_event('"type":""'), "invalid", "type"),
    ("long type", raw_event(f'"type":"{"x" * 65}"'), "invalid", "type"),
    ("text slot", raw_event('"slot":"0"'), "field_invalid", "slot"),
    ("unknown by", raw_event('"by":"robot"'), "invalid", "by"),
    ("unknown cause", raw_event('"cause":"weather"'), "invalid", "cause"),
    ("long reason", raw_event(f'"reason":"{"x" * 1025}"'), "too_large", "reason"),
    ("1e999 value", raw_event('"value":1e999'), "field_invalid", "value"),
    ("huge value", raw_event(f'"value":{FOUR_HUNDRED_NINES}'), "field_invalid", "value"),
    ("sentiment", raw_event('"sentiment":1.01'), "invalid", "sentiment"),
    ("effort", raw_event('"effort":0.5'), "invalid", "effort"),
    ("wide properties", raw_event('"properties":' + str({str(n): n for n in range(65)}).replace("'", '"')), "too_large",
     "properties"),
    ("time without zone", raw_event('"at":"2026-01-01T00:00:00"'), "invalid", "at"),
    ("no time", raw_event('"at":"yesterday"'), "field_invalid", "at"),
    ("first day", raw_event('"at":"0001-01-01T00:00:00+14:00"'), "invalid", "at"),
    ("last day", raw_event('"at":"9999-12-31T23:59:59-14:00"'), "invalid", "at"),
    ("1970", raw_event('"at":0'), "event_too_old", "at"),
    ("before 1970", raw_event('"at":-1'), "event_too_old", "at"),
    ("far future", raw_event(f'"at":{FOUR_HUNDRED_NINES}'), "event_from_future", "at"),
    ("no number any more", raw_event(f'"at":{"9" * 5000}'), "field_invalid", "at"),
    ("huge property", raw_event(f'"properties":{{"a":{FOUR_HUNDRED_NINES}}}'), "not_finite", "properties.a"),
    ("skipped by the customer", raw_event('"type":"skipped","decision_id":"x"'), "invalid", "by"),
    ("agent answers", raw_event('"type":"accepted","by":"agent","decision_id":"x"'), "agent_cannot_answer", "by"),
    ("no decision", raw_event('"type":"accepted"'), "decision_missing", "decision_id"),
    ("no decision id of ours", raw_event('"type":"seen","decision_id":"x"'), "decision_id_invalid", "decision_id"),
    ("not an object", b"[3]", "field_invalid", ""),
    ("no UTF-8", b'[{"event_id":"\xff","type":"page_view","customer_id":"bad"}]', "json_malformed", ""),
]  # fmt: skip


@pytest.mark.parametrize("case", EVENT_ROWS, ids=lambda case: case[0])
def test_a_bad_event_is_rejected_alone(service: Running, case: tuple[str, bytes, str, str]) -> None:
    _, body, code, field = case
    answer = service.http.post(EVENTS, content=body)
    assert answer.status_code == 200, answer.text
    (result,) = answer.json()
    expected = f"events[0].{field}" if field else "events[0]"
    assert (result["status"], result["code"], result["field"]) == ("rejected", code, expected)
    assert result["detail"]


def test_an_event_needs_a_customer_or_a_decision(service: Running) -> None:
    (result,) = service.record({"event_id": "bad", "type": "page_view"})
    assert (result["code"], result["field"]) == ("customer_missing", "events[0].customer_id")


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        (b"{}", 400, "field_invalid", ""),
        (b"[]", 400, "invalid", "{rows}"),
        (b"[1" + b",1" * BATCH + b"]", 413, "too_large", "{rows}"),
        (b"[1,", 400, "json_malformed", ""),
        (b'[{"x":' + b"[" * 50_000 + b"]" * 50_000 + b"}]", 400, "json_malformed", ""),
        (b"[" + b" " * BODY_BYTES + b"]", 413, "too_large", "body"),
    ],
    ids=["an object", "empty", "too many", "cut", "deep", "too big"],
)
@pytest.mark.parametrize(("path", "rows"), [(DECIDE_BATCH, "requests"), (EVENTS, "events")])
def test_a_bad_list(service: Running, path: str, rows: str, body: bytes, status: int, code: str, field: str) -> None:
    found = problem_of(service, path, body)
    assert (found["status"], found["code"], found.get("field", "")) == (status, code, field.format(rows=rows))


def test_a_caller_who_hangs_up_in_the_middle_said_nothing(service: Running) -> None:
    """The part that came is a whole list of events by itself; the caller meant to say more."""
    body = raw_event('"value":1').replace(b'"bad"', b'"bad-half"')
    head = f"POST {EVENTS} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {service.key}\r\ncontent-length: 5000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", service.settings.port)) as caller:
        caller.sendall(head.encode() + body)

    def noticed() -> bool:
        lines = service.http.get("/metrics").text.splitlines()
        return any(line.startswith('nbx_errors_total{code="body_incomplete"}') for line in lines)

    eventually(noticed, 5.0, "the half request is counted as an error")
    assert service.entries_of("bad-half") == []


def test_a_hundred_faults_are_told_at_once_with_their_places(service: Running) -> None:
    lines = ["catalog: faulty", "groups: {g: {topic: t}}", "placements: {p: {channel: web, impressions: reported}}"]
    lines += ["actions:"]
    for number in range(100):
        lines.append(f"  a{number}: {{group: g, value: -{number + 1}, treatments: {{t: {{placements: [p]}}}}}}")
    found = problem_of(service, "/v1/catalog/check", "\n".join(lines).encode())
    assert found["status"] == 422
    faults = [fault for fault in found["faults"] if fault["field"].endswith(".value")]
    assert len(faults) == 100
    assert [fault["line"] for fault in faults] == list(range(5, 105))
    assert all(fault["column"] > 0 and fault["code"] and fault["detail"] for fault in faults)
    published = problem_of(service, "/v1/catalog/releases", "\n".join(lines).encode())
    assert published["faults"] == found["faults"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "empty"),
        (b"\xff\xfe", ""),
        (b"[" * 100_000, "too_large"),
        (b"{a: " * 3_000, "too_large"),
        (b"a: &a [x]\nb: *a\n", ""),
        (b"catalog: [", ""),
        (b"catalog: \x00", ""),
        (CATALOG.encode() + b"\nnonsense: 1\n", ""),
        (CATALOG.replace("type: boolean", "type: colour").encode(), ""),
    ],
    ids=["empty", "no UTF-8", "deep", "deeper", "alias", "cut", "control", "unknown key", "feature type"],
)
def test_a_catalog_that_is_none(service: Running, body: bytes, code: str) -> None:
    found = problem_of(service, "/v1/catalog/check", body)
    assert found["status"] in (400, 422)
    if code:
        assert found["faults"][0]["code"] == code
    if found["status"] == 422:
        assert all(fault["line"] >= 1 for fault in found["faults"])


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/xml", "application/msgpack", "multipart/form-data", "application/json; x=\xff"]
)
@pytest.mark.parametrize("path", [*HOT, INTERACT])
def test_another_content_type_is_no_excuse(service: Running, path: str, kind: str) -> None:
    headers = {b"content-type": kind.encode("latin-1")}
    answer = service.http.post(path, content=b"\x81\xa1a\x01", headers=headers)
    assert answer.status_code in (400, 415), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "json_malformed"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "route_unknown"),
        ("GET", "/v1/../../etc/passwd", 404, "route_unknown"),
        ("PUT", DECIDE, 405, "method_not_allowed"),
        ("GET", f"{DECIDE}?since=soon", 400, "time_invalid"),
        ("DELETE", EVENTS, 405, "method_not_allowed"),
        ("GET", "/v1/decisions/x", 400, "decision_id_invalid"),
        ("GET", "/v1/decisions/fff00000000000000000000000", 404, "decision_unknown"),
        ("GET", "/v1/decisions/000fffffffffff000000000000/replay", 404, "decision_unknown"),
        ("GET", "/v1/decisions/00000000000000000000000000", 404, "decision_unknown"),
        ("GET", "/v1/customers/nobody", 404, "customer_unknown"),
        ("GET", "/v1/customers/%00%0a", 400, "id_invalid"),
        ("GET", f"/v1/customers/{'x' * 129}", 413, "too_large"),
        ("GET", "/v1/customers/nobody?events=-1", 400, "field_invalid"),
        ("GET", "/v1/catalog/releases/99999999999999999999999999", 404, "release_unknown"),
        ("POST", "/v1/catalog/releases?base=x", 400, "field_invalid"),
    ],
)  # fmt: skip
def test_a_wrong_path(service: Running, method: str, path: str, status: int, code: str) -> None:
    found = problem_of(service, path, CATALOG.encode() if "releases?" in path else b"", method)
    assert (found["status"], found["code"]) == (status, code)


@pytest.mark.parametrize(
    ("profile", "code", "field"),
    [
        ({"age": "old"}, "feature_type", "profile.age"),
        ({"hour": 7}, "invalid", "profile.hour"),
        ({"nobody_declared_this": 1}, "invalid", "profile.nobody_declared_this"),
        ({"age": [1]}, "field_invalid", "profile"),
    ],
)
def test_a_bad_profile(service: Running, profile: dict[str, Any], code: str, field: str) -> None:
    body = msgspec.json.encode({"profile": profile})
    found = problem_of(service, "/v1/customers/bad", body, "PATCH", "application/json")
    assert (found["code"], found["field"]) == (code, field)


@pytest.mark.parametrize("path", [DECIDE, EVENTS])
def test_a_whole_number_beyond_float(service: Running, path: str) -> None:
    if path == DECIDE:
        body = raw_request(f'"context":{{"hour":{FOUR_HUNDRED_NINES}}}')
        assert problem_of(service, path, body)["code"] == "not_finite"
    else:
        answer = service.http.post(path, content=raw_event(f'"properties":{{"a":{FOUR_HUNDRED_NINES}}}'))
        assert answer.json()[0]["code"] == "not_finite"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
DECIDE_FIELDS = st.fixed_dictionaries(
    {"customer_id": st.just("") | JSON, "placement": st.sampled_from(["web", "desk", "nowhere"]) | JSON},
    optional={
        "slots": st.integers(-2, 5) | JSON,
        "context": st.dictionaries(st.sampled_from(["hour", "is_mobile", "call_reason", "x"]), JSON, max_size=3) | JSON,
        "exclude": st.lists(st.text(max_size=5), max_size=3) | JSON,
        "request_id": JSON,
        "mode": st.just("preview") | JSON,
        "explain": st.sampled_from(["full", "reasons"]) | JSON,
        "deadline_ms": JSON,
    },
)
EVENT_FIELDS = st.fixed_dictionaries(
    {"event_id": st.just("") | JSON, "type": st.sampled_from(["seen", "accepted", "page_view"]) | JSON},
    optional={
        "decision_id": st.sampled_from(["0" * 26, "f" * 26]) | JSON,
        "customer_id": JSON,
        "slot": JSON,
        "by": st.sampled_from(["agent", "customer"]) | JSON,
        "at": st.datetimes().map(str) | JSON,
        "value": JSON,
        "properties": JSON,
    },
)
"""Never quite right: the id of a customer or event is empty or no text at all, or rarely random."""


@given(
    path=st.sampled_from([*HOT, INTERACT]),
    body=st.binary(max_size=60)
    | JSON.map(msgspec.json.encode)
    | DECIDE_FIELDS.map(lambda fields: msgspec.json.encode({**fields, "mode": "preview"}))
    | st.lists(DECIDE_FIELDS.map(lambda fields: {**fields, "mode": "preview"}), max_size=3).map(msgspec.json.encode)
    | st.lists(EVENT_FIELDS.map(lambda fields: {**fields, "event_id": ""}), max_size=3).map(msgspec.json.encode)
    | DECIDE_FIELDS.map(lambda fields: msgspec.json.encode({"decision": {**fields, "mode": "preview"}})),
)
@example(path=DECIDE, body=b'{"\xff":1}')
@example(path=EVENTS, body=b"[" * 5000)
@settings(
    max_examples=600, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], database=None
)
def test_whatever_comes_is_answered(service: Running, path: str, body: bytes) -> None:
    answer = service.http.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code < 500, (path, body, answer.text)
    msgspec.json.decode(answer.content)
    assert b"Traceback" not in answer.content
    if answer.status_code != 200:
        assert answer.json()["code"]
