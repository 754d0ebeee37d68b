"""One corpus, both faces: the same result, code and field, ids and timings aside."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import msgspec
import pytest

from nbx.experience.entries import EventEntry
from nbx.v1 import nbx_pb2 as pb
from tests.edge.grpc_client import Fault, GrpcClient, value
from tests.service import OFFERS, Running

DAY_MS = 86_400_000

DECISIONS: list[dict[str, Any]] = [
    {},
    {"slots": 3},
    {"slots": 2, "context": {"hour": 7, "is_mobile": True, "call_reason": "card"}},
    {"context": {"nobody_declared_this": "kept"}},
    {"exclude": sorted(OFFERS)},
    {"placement": "desk", "slots": 3},
    {"placement": "silent"},
    {"customer_id": "späte Kundin № 7"},
    {"customer_id": ""},
    {"customer_id": "a" * 129},
    {"customer_id": "tab\there"},
    {"customer_id": "null\0"},
    {"placement": ""},
    {"placement": "nowhere"},
    {"slots": 4},
    {"placement": "silent", "slots": 2},
    {"context": {"hour": "late"}},
    {"context": {"hour": True}},
    {"context": {"is_mobile": 1}},
    {"context": {"call_reason": 3}},
    {"context": {"call_reason": "x" * 1025}},
    {"context": {"n" * 65: 1}},
    {"context": {f"key_{n}": n for n in range(65)}},
    {"exclude": ["x"] * 201},
    {"exclude": ["alpha", "x" * 65]},
    {"exclude": ["line\nbreak"]},
    {"request_id": "a" * 129},
    {"request_id": "bell\a"},
    {"mode": "dry"},
    {"explain": "why"},
]
"""Changes to a good request that previews with a full explanation."""
LOOSE = ("words", "slots", "decision_id", "took_ms", "propensity")

SLOT_EVENTS: list[dict[str, Any]] = [
    {"type": "seen"},
    {"type": "accepted", "value": 12.5},
    {"type": "declined", "cause": "timing", "reason": "busy", "sentiment": -0.5, "effort": 3},
    {"type": "failed", "reason": "page_error"},
    {"type": "complained", "properties": {"text": "no", "loud": True, "level": 3}},
    {"type": "complained", "text": "so rüde\nto me", "sentiment": -1.0},
    {"type": "complained", "text": "x" * 1025},
    {"type": "skipped", "by": "agent"},
    {"type": "accepted", "by": "agent"},
    {"type": "skipped"},
    {"type": "accepted", "slot": 7},
    {"type": "accepted", "customer_id": "somebody else entirely"},
    {"type": "declined", "cause": "astrology"},
    {"type": "declined", "sentiment": 2.0},
    {"type": "declined", "effort": 0.0},
    {"type": "declined", "reason": "x" * 1025},
    {"type": "declined", "at": 1},
    {"type": "declined", "at": 10**14},
]
"""Changes to an event of a decision made for it."""
EVENTS: list[dict[str, Any]] = [
    {"type": "page_view", "customer_id": "parity"},
    {"type": "page_view"},
    {"type": "seen", "customer_id": "parity"},
    {"type": "", "customer_id": "parity"},
    {"type": "x" * 65, "customer_id": "parity"},
    {"type": "new\nline", "customer_id": "parity"},
    {"type": "page_view", "customer_id": "parity", "by": "machine"},
    {"type": "page_view", "customer_id": "parity", "properties": {f"key_{n}": n for n in range(65)}},
    {"type": "page_view", "customer_id": "parity", "event_id": ""},
    {"type": "page_view", "customer_id": "parity", "event_id": "a" * 129},
    {"type": "page_view", "customer_id": "c\x7f"},
    {"type": "called", "customer_id": "parity", "sentiment": 1.0, "effort": 1.0, "text": "all is well"},
    {"type": "promise", "customer_id": "parity", "properties": {"what": "call", "due": "2h", "topic": "none"}},
    {"type": "promise", "customer_id": "parity", "properties": {"what": "call"}},
    {"type": "promise", "customer_id": "parity", "properties": {"what": "call", "due": "someday"}},
    {"type": "promise_kept", "customer_id": "parity", "properties": {"what": "call"}},
    {"type": "promise_kept", "customer_id": "parity"},
    {"type": "promise_broken", "customer_id": "parity", "properties": {"what": "call"}},
    {"type": "resolved", "customer_id": "parity", "properties": {"topic": 7}},
    {"type": "seen", "decision_id": "made up"},
    {"type": "seen", "decision_id": "0" * 26},
    {"type": "seen", "decision_id": "fff" + "0" * 23},
]


def decide_request(body: dict[str, Any]) -> Any:
    fields = {**body, "context": {name: value(of) for name, of in body.get("context", {}).items()}}
    return pb.DecideRequest(**fields)


def event_message(body: dict[str, Any]) -> Any:
    fields = {**body, "properties": {name: value(of) for name, of in body.get("properties", {}).items()}}
    if "at" in fields:
        fields["at_ms"] = fields.pop("at")
    return pb.Event(**fields)


def over_http(service: Running, body: dict[str, Any]) -> Any:
    answer = service.http.post("/v1/decisions", content=msgspec.json.encode(body))
    reply = answer.json()
    if answer.is_error:
        return "refused", reply["code"], reply.get("field", "")
    return comparable(reply, reply["explanation"])


def over_grpc(service: Running, body: dict[str, Any]) -> Any:
    async def run() -> Any:
        async with GrpcClient(service) as client:
            return await client.decide(decide_request(body))

    try:
        reply = asyncio.run(run())
    except grpc.aio.AioRpcError as error:
        fault = Fault(error)
        return "refused", fault.code, fault.field
    fields = {
        "slots": reply.slots,
        "degraded": list(reply.degraded),
        "release": reply.release,
        "snapshot": reply.snapshot,
        "holdout": reply.holdout,
    }
    return comparable(fields, msgspec.json.decode(reply.explanation_json))


def comparable(reply: dict[str, Any], explanation: Any) -> Any:
    """Everything that does not depend on the draw."""
    kept = {name: reply[name] for name in ("degraded", "release", "snapshot", "holdout")}
    explained = {name: found for name, found in explanation.items() if name not in LOOSE}
    return "answered", len(reply["slots"]), kept, explained


@pytest.mark.parametrize("changes", DECISIONS, ids=lambda changes: str(changes)[:60])
def test_a_decision_is_the_same_on_both_faces(service: Running, changes: dict[str, Any]) -> None:
    body = {"customer_id": "parity", "placement": "web", "mode": "preview", "explain": "full", **changes}
    for _ in range(5):
        ours, theirs = over_grpc(service, body), over_http(service, body)
        if "refused" in (ours[0], theirs[0]) or ours[2]["snapshot"] == theirs[2]["snapshot"]:
            break  # else a new snapshot was swapped in between them
    assert ours == theirs


def test_a_drawn_slate_is_the_same_on_both_faces(service: Running) -> None:
    body = {"customer_id": "parity-drawn", "placement": "web", "slots": 3, "request_id": "one"}
    reply = service.post("/v1/decisions", body)

    async def run() -> Any:
        async with GrpcClient(service) as client:
            return await client.decide(decide_request(body))

    same = asyncio.run(run())
    assert same.decision_id == reply["decision_id"]
    for ours, theirs in zip(same.slots, reply["slots"], strict=True):
        assert (ours.action, ours.treatment, ours.none) == (
            theirs.get("action", ""),
            theirs.get("treatment", ""),
            theirs.get("none", ""),
        )
        assert ours.propensity == theirs["propensity"]
        assert ours.p_response == theirs.get("p_response", 0.0)
        assert ours.expires_at_ms == theirs.get("expires_at", 0)
        assert list(ours.gives) == theirs.get("gives", [])
        assert list(ours.asks) == theirs.get("asks", [])
        if theirs.get("content"):
            assert msgspec.json.decode(ours.content_json) == theirs["content"]


def test_what_goes_on_is_the_same_on_both_faces(service: Running) -> None:
    customer, shown = service.decide_shown("parity-thread")
    service.record(
        {"event_id": "parity-thread", "type": "complained", "decision_id": shown["decision_id"], "text": "so rude"},
        {
            "event_id": "parity-promise",
            "type": "promise",
            "customer_id": customer,
            "properties": {"what": "call", "due": "2h", "channel": "email"},
        },
    )
    body = {"customer_id": customer, "placement": "desk", "request_id": "one"}
    reply = service.post("/v1/decisions", body)

    async def run() -> Any:
        async with GrpcClient(service) as client:
            return await client.decide(decide_request(body))

    same = asyncio.run(run())
    names = {"opened_at": "opened_at_ms", "last_at": "last_at_ms", "due_at": "due_at_ms"}
    assert {(each["kind"], each["channel"]) for each in reply["continues"]} == {
        ("obligation", "web"),
        ("promise", "email"),
    }
    for ours, theirs in zip(same.continues, reply["continues"], strict=True):
        fields = ("kind", "name", "channel", "opened_at", "last_at", "last", "due_at")
        assert {name: getattr(ours, names.get(name, name)) for name in fields} == {
            name: theirs.get(name, 0 if name == "due_at" else "") for name in fields
        }
    logged = {e.event.event_id: e.event.text for e in service.entries_of(customer) if isinstance(e, EventEntry)}
    assert logged["parity-thread"] == "so rude"


def http_result(service: Running, event: dict[str, Any]) -> tuple[str, ...]:
    (result,) = service.record(event)
    return tuple(result.get(name, "") for name in ("status", "outcome", "code", "field", "detail"))


def grpc_result(service: Running, event: dict[str, Any]) -> tuple[str, ...]:
    async def run() -> Any:
        async with GrpcClient(service) as client:
            return await client.record(pb.RecordRequest(events=[event_message(event)]))

    (result,) = asyncio.run(run()).results
    problem = result.problem
    return result.status, result.outcome, problem.code, problem.field, problem.detail


@pytest.mark.parametrize("changes", EVENTS, ids=lambda changes: str(changes)[:60])
def test_an_event_fares_the_same_on_both_faces(service: Running, changes: dict[str, Any]) -> None:
    first = http_result(service, {"event_id": "parity-http", **changes})
    second = grpc_result(service, {"event_id": "parity-grpc", **changes})
    assert second == first


@pytest.mark.parametrize("changes", SLOT_EVENTS, ids=lambda changes: str(changes)[:60])
def test_an_event_of_a_slot_fares_the_same_on_both_faces(service: Running, changes: dict[str, Any]) -> None:
    found = []
    for name, send in (("http", http_result), ("grpc", grpc_result)):
        # the id is of equal length on both faces, so that only it differs in the words
        _, reply = service.decide_shown(f"parity-{name}-{SLOT_EVENTS.index(changes)}")
        event = {"event_id": f"parity-{name}-{reply['decision_id']}", "decision_id": reply["decision_id"], **changes}
        *rest, detail = send(service, event)
        found.append((*rest, detail.replace(reply["decision_id"], "ID")))
    by_http, by_grpc = found
    if by_http[2] == "event_from_future":
        by_http, by_grpc = by_http[:-1], by_grpc[:-1]  # the words tell the seconds
    assert by_grpc == by_http
