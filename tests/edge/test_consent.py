"""Consent over every face: the very next decision keeps to it, on whichever worker, and the report shows it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from nbx.v1 import nbx_pb2 as pb
from tests.edge.grpc_client import GrpcClient, value
from tests.edge.test_cli import nbx

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.service import Running


def by_http(service: Running, customer: str, said: dict[str, bool], event_id: str) -> str:
    event = {"event_id": event_id, "type": "consent", "customer_id": customer, "properties": said}
    with service.workers() as clients:
        (result,) = service.record(event, client=next(iter(clients.values())))
    return f"{result['status']} {result.get('field', '')}"


def by_grpc(service: Running, customer: str, said: dict[str, bool], event_id: str) -> str:
    async def call() -> Any:
        properties = {purpose: value(granted) for purpose, granted in said.items()}
        event = pb.Event(event_id=event_id, type="consent", customer_id=customer, properties=properties)
        async with GrpcClient(service) as client:
            return await client.record(pb.RecordRequest(events=[event]))

    (result,) = asyncio.run(call()).results
    return f"{result.status} {result.problem.field}"


def by_cli(service: Running, customer: str, said: dict[str, bool], event_id: str) -> str:
    options = [word for purpose, yes in said.items() for word in ("--yes" if yes else "--no", purpose)]
    done = nbx(service, "customer", "consent", customer, *options)
    assert done.code == (0 if done.json()["status"] == "accepted" else 1), done.err
    return f"{done.json()['status']} {done.json().get('field', '')}"


def reasons(service: Running, customer: str) -> set[str]:
    """Why the optional actions of `web` are out now, on each worker."""
    found: set[str] = set()
    with service.workers() as clients:
        for client in clients.values():
            reply = service.decide(customer, "web", client, slots=3, explain="reasons")
            removed = {action: reason for action, reason, *_ in reply["explanation"]["removed"] if action != "grown_up"}
            found |= set(removed.values())
    return found


@pytest.mark.parametrize("say", [by_http, by_grpc, by_cli])
def test_what_was_said_holds_from_the_next_decision_on(
    service: Running, say: Callable[[Running, str, dict[str, bool], str], str]
) -> None:
    customer = f"consent-{say.__qualname__}"
    assert "no_consent" not in reasons(service, customer)
    said = {"contact": True, "contact:web": False, "learn": False}
    assert say(service, customer, said, f"{customer}-1").strip() == "accepted"
    assert reasons(service, customer) == {"no_consent"}
    report = service.http.get(f"/v1/customers/{customer}?events=0").json()
    granted = {purpose: each["granted"] for purpose, each in report["consent"].items()}
    assert granted == {"contact:phone": True, "contact:web": False, "learn": False, "personalise": True}
    assert {purpose for purpose, each in report["consent"].items() if not each["said_ms"]} == {"personalise"}
    assert (report["journeys"], report["concerns"], report["holdout"]) == ({"opening": ""}, {}, "")
    assert say(service, customer, {"contact:web": True}, f"{customer}-2").strip() == "accepted"
    assert "no_consent" not in reasons(service, customer)
    assert say(service, customer, {"marketing": True}, f"{customer}-3") == "rejected events[0].properties"


def test_the_command_line_refuses_what_says_nothing(service: Running) -> None:
    nothing = nbx(service, "customer", "consent", "consent-x")
    assert (nothing.code, "use --yes PURPOSE or --no PURPOSE" in nothing.err) == (2, True)
    both = nbx(service, "customer", "consent", "consent-x", "--yes", "learn", "--no", "learn")
    assert (both.code, "learn is both --yes and --no" in both.err) == (2, True)


def test_a_decision_says_whether_it_teaches(service: Running) -> None:
    records = []
    for learn in (True, False):
        by_http(service, "consent-learn", {"learn": learn, "personalise": learn}, f"consent-learn-{learn}")
        reply = service.decide("consent-learn", "web")
        record = service.http.get(f"/v1/decisions/{reply['decision_id']}").json()["record"]
        records.append((record["learns"], record["personalised"]))
    assert records == [(True, True), (False, False)]
