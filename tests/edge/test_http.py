"""The HTTP face of a running service with two workers."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import msgspec
import pytest

from nbx.experience.entries import DecisionEntry
from tests.service import OFFERS, WEB_ACTIONS, Running, decisions_in, event_ids_in

REVOKED_S = 1.0
"""`keys revoke` promises this."""


def test_a_decision_says_what_to_show_and_how_likely_it_was(service: Running) -> None:
    customer, reply = service.decide_shown("http-decide", slots=3)
    assert [slot["slot"] for slot in reply["slots"]] == [0, 1, 2]
    shown = [slot for slot in reply["slots"] if slot.get("action")]
    assert {slot["action"] for slot in shown} <= WEB_ACTIONS
    assert len({slot["action"] for slot in shown}) == len(shown), "an action twice in one slate"
    for slot in shown:
        assert slot["treatment"] == "card"
        assert 0.0 < slot["propensity"] <= 1.0
        assert 0.0 < slot["p_response"] < 1.0
        assert "say" in slot["content"]
        assert slot["expires_at"] > 0
    assert reply["degraded"] == []
    (entry,) = decisions_in(service.entries_of(customer))
    assert (entry.decision_id, entry.release) == (reply["decision_id"], reply["release"])
    assert [slot.propensity for slot in entry.slots] == [slot["propensity"] for slot in reply["slots"]]


def test_silence_has_a_reason_and_a_propensity(service: Running) -> None:
    (slot,) = service.decide("http-silent", "silent")["slots"]
    assert slot == {"slot": 0, "none": "no_candidate", "propensity": 1.0}


def test_exclude_removes(service: Running) -> None:
    for number in range(20):
        reply = service.decide(f"http-exclude-{number}", slots=3, exclude=sorted(OFFERS))
        assert {slot.get("action", "") for slot in reply["slots"]} <= {"help", ""}


def test_one_bad_row_of_a_batch_fails_alone(service: Running) -> None:
    good = {"customer_id": "http-batch", "placement": "web"}
    rows = [good, {**good, "placement": "nowhere"}, {**good, "slots": "x"}, 7, {**good, "customer_id": "http-batch-2"}]
    results = service.post("/v1/decisions:batch", rows)
    assert [sorted(result) for result in results] == [["reply"], ["problem"], ["problem"], ["problem"], ["reply"]]
    assert [result["problem"]["code"] for result in results[1:4]] == [
        "placement_unknown",
        "field_invalid",
        "field_invalid",
    ]
    assert [result["problem"].get("field", "") for result in results[1:4]] == ["placement", "slots", ""]
    logged = {entry.decision_id for entry in decisions_in(service.entries())}
    assert {results[0]["reply"]["decision_id"], results[4]["reply"]["decision_id"]} <= logged


def test_each_event_has_its_own_result(service: Running) -> None:
    customer, reply = service.decide_shown("http-events")
    common = {"decision_id": reply["decision_id"], "customer_id": customer}
    results = service.record(
        {**common, "event_id": "he-1", "type": "seen"},
        {**common, "event_id": "he-2", "type": "accepted", "slot": 9},
        {**common, "event_id": "he-3", "type": "accepted"},
        {"event_id": "he-4", "type": "page_view", "customer_id": "somebody else", "properties": {"section": "cards"}},
        {**common, "event_id": "he-3", "type": "accepted"},
    )
    assert [result["status"] for result in results] == ["accepted", "rejected", "accepted", "accepted", "duplicate"]
    assert results[1]["code"] == "slot_out_of_range"
    assert results[1]["field"] == "events[1].slot"
    assert results[2]["outcome"] == "accepted"
    assert event_ids_in(service.entries_of(customer)) == ["he-1", "he-3"]
    assert event_ids_in(service.entries_of("somebody else")) == ["he-4"]


def test_an_event_sent_twice_happens_once(service: Running) -> None:
    event = {"event_id": "twice", "type": "page_view", "customer_id": "http-twice"}
    with service.workers() as clients:
        first, second = clients.values()
        answers = [service.record(event, client=client)[0]["status"] for client in (first, second, first)]
    assert answers == ["accepted", "duplicate", "duplicate"]
    assert event_ids_in(service.entries_of("http-twice")) == ["twice"]


def test_twenty_retries_at_once_are_one_decision(service: Running) -> None:
    body = {"customer_id": "http-retry", "placement": "web", "request_id": "r-1", "slots": 2}

    async def at_once() -> list[dict[str, Any]]:
        limits = httpx.Limits(max_connections=20, max_keepalive_connections=0)
        async with httpx.AsyncClient(base_url=service.url, headers=service.headers(), limits=limits) as client:
            answers = await asyncio.gather(*(client.post("/v1/decisions", json=body) for _ in range(20)))
        return [answer.json() for answer in answers]

    replies = asyncio.run(at_once())
    first = replies[0]
    assert all(reply["degraded"] == [] for reply in replies)
    assert {reply["decision_id"] for reply in replies} == {first["decision_id"]}
    assert all(reply == first for reply in replies)
    assert [entry.decision_id for entry in decisions_in(service.entries_of("http-retry"))] == [first["decision_id"]]
    assert service.decide("http-retry", request_id="r-2")["decision_id"] != first["decision_id"]


def test_two_hundred_previews_leave_no_trace(service: Running) -> None:
    customer, reply = service.decide_shown("http-preview")
    service.record({"event_id": "hp-1", "type": "seen", "decision_id": reply["decision_id"]})
    before = service.dump()
    ids = set()
    for number in range(200):
        preview = service.decide(customer if number % 2 else f"http-nobody-{number}", mode="preview", explain="full")
        ids.add(preview["decision_id"])
    assert len(ids) == 200
    assert service.dump() == before
    (result,) = service.record({"event_id": "hp-2", "type": "seen", "decision_id": ids.pop()})
    assert result["code"] == "decision_unknown"


def test_explain_gives_reasons_and_in_full_the_candidates(service: Running) -> None:
    none = service.decide("http-explain", mode="preview")
    assert none["explanation"] is None
    reasons = service.decide("http-explain", mode="preview", explain="reasons", exclude=["alpha"])["explanation"]
    assert reasons["candidates"] == []
    assert [removed[:2] for removed in reasons["removed"]] == [["alpha", "excluded"], ["grown_up", "not_eligible"]]
    assert any(words.startswith("slot 0: ") for words in reasons["words"])
    full = service.decide("http-explain", mode="preview", explain="full")["explanation"]
    assert {candidate["action"] for candidate in full["candidates"]} == WEB_ACTIONS
    total = sum(candidate["probability"] for candidate in full["candidates"]) + full["none_probability"]
    assert total == pytest.approx(1.0, abs=1e-6)


def test_a_decision_can_be_read_explained_and_replayed(service: Running) -> None:
    customer, reply = service.decide_shown("http-audit", slots=2, context={"hour": 9})
    path = f"/v1/decisions/{reply['decision_id']}"
    report = service.http.get(path).json()
    assert report["record"]["customer_id"] == customer
    assert report["replay"]["same"] is True
    assert {candidate["action"] for candidate in report["candidates"]} == WEB_ACTIONS
    assert service.http.get(f"{path}/replay").json() == {
        "decision_id": reply["decision_id"],
        "same": True,
        "differences": [],
        "deep": False,
        "notes": [],
    }
    assert service.http.get(f"{path}/explanation").json()["candidates"]


def test_a_customer_is_seen_with_features_and_past(service: Running) -> None:
    assert service.http.patch("/v1/customers/http-person", json={"profile": {"age": 33}}).status_code == 204
    service.record({"event_id": "person-1", "type": "page_view", "customer_id": "http-person"})
    report = service.http.get("/v1/customers/http-person").json()
    assert report["profile"] == {"age": 33.0}
    assert report["features"]["visits"] == 1.0
    assert [row["what"] for row in report["timeline"]] == ["event", "profile"]


def test_events_and_a_decision_in_one_round_trip(service: Running) -> None:
    body = {
        "events": [{"event_id": "inter-1", "type": "page_view", "customer_id": "http-inter"}],
        "decision": {"customer_id": "http-inter", "placement": "web"},
    }
    answer = service.post("/v1/interactions", body)
    assert [result["status"] for result in answer["events"]] == ["accepted"]
    entries = service.entries_of("http-inter")
    assert isinstance(entries[1], DecisionEntry)
    assert entries[1].decision_id == answer["decision"]["decision_id"]
    assert entries[1].state_version == 1, "the decision was made on the state with the event"


CALLS: list[tuple[str, str, str, Any]] = [
    ("decide", "POST", "/v1/decisions", {"customer_id": "http-scope", "placement": "web", "mode": "preview"}),
    ("decide", "POST", "/v1/decisions:batch", [{"customer_id": "s", "placement": "web", "mode": "preview"}]),
    (
        "decide",
        "POST",
        "/v1/interactions",
        {"decision": {"customer_id": "s", "placement": "web", "mode": "preview"}},
    ),
    ("events", "POST", "/v1/events", [{"event_id": "", "type": "x", "customer_id": "s"}]),
    ("audit", "GET", "/v1/customers/http-scope-nobody", None),
    ("catalog", "POST", "/v1/catalog/check", {"catalog": "scoped"}),
]


def test_each_scope_opens_its_calls_and_no_others(service: Running) -> None:
    keys = {scope: service.new_key(scope)[0] for scope in ("decide", "events", "audit", "catalog")}
    for needed, method, path, body in CALLS:
        content = msgspec.json.encode(body) if body is not None else None
        for scope, key in keys.items():
            answer = service.http.request(method, path, content=content, headers=service.headers(key))
            if scope == needed:
                assert answer.status_code in (200, 404), (path, scope, answer.text)
            else:
                assert answer.status_code == 403, (path, scope, answer.text)
                assert answer.json()["code"] == "forbidden"
    with_events = {"events": [{"event_id": "x", "type": "x", "customer_id": "s"}], **CALLS[2][3]}
    answer = service.http.post("/v1/interactions", json=with_events, headers=service.headers(keys["decide"]))
    assert answer.status_code == 403, "recording needs the scope of events there too"


@pytest.mark.parametrize("header", ["", "Bearer nbx_00000000_" + "a" * 43, "Basic x", "Bearer"])
def test_without_a_valid_key_nothing_opens(service: Running, header: str) -> None:
    headers = {"authorization": header} if header else {}
    with httpx.Client(base_url=service.url) as client:
        for _, method, path, body in CALLS:
            if method == "GET" and not header:
                continue  # a browser on this machine may read
            answer = client.request(method, path, content=msgspec.json.encode(body), headers=headers)
            assert answer.status_code == 401, (path, answer.text)
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["code"] == "unauthenticated"


def test_a_revoked_key_is_refused_by_every_worker_within_a_second(service: Running) -> None:
    text, key_id = service.new_key("decide")
    body = {"customer_id": "http-key", "placement": "web", "mode": "preview"}
    with service.workers() as clients:

        def answers() -> list[int]:
            headers = service.headers(text)
            return [client.post("/v1/decisions", json=body, headers=headers).status_code for client in clients.values()]

        assert answers() == [200, 200]
        service.revoke(key_id, text, REVOKED_S)
        assert answers() == [401, 401]


def test_the_schema_is_openapi_and_documents_the_calls(service: Running) -> None:
    schema = service.http.get("/schema").json()
    assert schema["openapi"].startswith("3.1.")
    assert {"title", "version"} <= set(schema["info"])
    expected = {
        "/v1/decisions": "post",
        "/v1/decisions:batch": "post",
        "/v1/events": "post",
        "/v1/interactions": "post",
        "/v1/decisions/{decision_id}": "get",
        "/v1/customers/{customer_id}": "patch",
        "/v1/catalog/releases": "post",
        "/health/ready": "get",
        "/metrics": "get",
    }
    for path, method in expected.items():
        operation = schema["paths"][path][method]
        assert operation["operationId"]
        assert any(code.startswith("2") for code in operation["responses"]), path
    asked = schema["paths"]["/v1/decisions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    properties = resolved(schema, asked)["properties"]
    assert {"customer_id", "placement", "slots", "context", "exclude", "request_id", "mode", "explain"} <= set(
        properties
    )
    for reference in references(schema):
        resolved(schema, {"$ref": reference})
    operations = [op["operationId"] for path in schema["paths"].values() for op in path.values()]
    assert len(operations) == len(set(operations))


def resolved(schema: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """Follow a reference; KeyError when it leads nowhere."""
    while "$ref" in part:
        target: Any = schema
        for step in part["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        part = target
    return part


def references(part: Any) -> list[str]:
    if isinstance(part, dict):
        own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
        return own + [found for value in part.values() for found in references(value)]
    return [found for value in part for found in references(value)] if isinstance(part, list) else []


def test_metrics_count_what_happened(service: Running) -> None:
    def decided() -> float:
        lines = service.http.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("nbx_decisions_total{"))

    before = decided()
    for number in range(5):
        service.decide(f"http-metrics-{number}")
    assert decided() == before + 5


def test_health_is_open_and_tells_the_release(service: Running) -> None:
    with httpx.Client(base_url=service.url) as stranger:
        assert stranger.get("/health/live").text == "ok"
        ready = stranger.get("/health/ready")
    assert ready.status_code == 200
    assert ready.json()["ready"] is True
    assert ready.json()["release"] >= 1


def test_every_error_class_reads_the_same(service: Running) -> None:
    answer = service.http.post("/v1/decisions", json={"customer_id": "x", "placement": "nowhere"})
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert {"type", "title", "status", "detail", "code", "field"} == set(problem)
    assert problem["type"] == "urn:nbx:problem:placement_unknown"
