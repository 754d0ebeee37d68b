"""Events that do not fit the decision they name: refused with the field, and nothing is written."""

from __future__ import annotations

import time
from typing import Any

import pytest

from nbx.limits import FUTURE_MS, PAST_MS
from tests.service import Running

DAY_MS = 86_400_000


def refused(service: Running, **event: Any) -> tuple[str, str]:
    """Send an event that must be rejected and leave no trace; returns code and field."""
    before = service.dump()
    (result,) = service.record({"event_id": "bad-event", **event})
    assert result["status"] == "rejected", result
    assert result["detail"]
    assert service.dump() == before
    return result["code"], result["field"]


def decided(service: Running) -> str:
    decision_id: str = service.decide_shown("bad-events")[1]["decision_id"]
    return decision_id


def test_unknown(service: Running) -> None:
    decision_id = decided(service)
    forged = decision_id[:-4] + ("1111" if decision_id.endswith("0000") else "0000")
    assert refused(service, type="seen", decision_id=forged) == ("decision_unknown", "events[0].decision_id")


def test_expired(service: Running) -> None:
    decision_id = decided(service)
    long_ago = int(decision_id[3:14], 16) - 15 * DAY_MS
    forged = f"{decision_id[:3]}{long_ago:011x}{decision_id[14:]}"
    assert refused(service, type="seen", decision_id=forged) == ("decision_expired", "events[0].decision_id")


def test_foreign(service: Running) -> None:
    decision_id = decided(service)
    for number in range(64):  # of the same partition and of others
        found = refused(service, type="seen", decision_id=decision_id, customer_id=f"stranger-{number}")
        assert found == ("decision_foreign", "events[0].customer_id")


@pytest.mark.parametrize("slot", [-1, 1, 10**9])
def test_slot_out_of_range(service: Running, slot: int) -> None:
    found = refused(service, type="seen", decision_id=decided(service), slot=slot)
    assert found == ("slot_out_of_range", "events[0].slot")


def test_silent_slot(service: Running) -> None:
    reply = service.decide("bad-events-silent", "silent")
    found = refused(service, type="seen", decision_id=reply["decision_id"])
    assert found == ("slot_silent", "events[0].slot")


@pytest.mark.parametrize("kind", ["seen", "accepted", "declined", "dismissed", "converted", "complained"])
def test_the_agent_is_not_the_customer(service: Running, kind: str) -> None:
    found = refused(service, type=kind, by="agent", decision_id=decided(service))
    assert found == ("agent_cannot_answer", "events[0].by")


def test_from_the_future_and_too_old(service: Running) -> None:
    now_ms, decision_id = time.time_ns() // 1_000_000, decided(service)
    late, early = now_ms + FUTURE_MS + 60_000, now_ms - PAST_MS - 60_000
    assert refused(service, type="seen", decision_id=decision_id, at=late) == ("event_from_future", "events[0].at")
    assert refused(service, type="seen", decision_id=decision_id, at=early) == ("event_too_old", "events[0].at")


def test_a_clock_that_is_slow_does_not_end_attention_before_it_began(service: Running) -> None:
    decision_id = decided(service)
    decided_ms = int(decision_id[3:14], 16)
    event = {"event_id": f"slow-{decision_id}", "type": "seen", "decision_id": decision_id, "at": decided_ms - DAY_MS}
    assert service.record(event)[0]["status"] == "accepted"
    timers = service.redis.zrange(f"nbx:{{p{int(decision_id[:3], 16)}}}:t", 0, -1, withscores=True)
    due = {member: score for member, score in timers if decision_id.encode() in member}
    assert due == {f"attention:{decision_id}:0".encode(): decided_ms + 2 * 3_600_000}


def test_a_clock_that_is_a_little_fast_is_taken_for_now(service: Running) -> None:
    decision_id = decided(service)
    ahead = time.time_ns() // 1_000_000 + FUTURE_MS // 2
    event = {"event_id": f"fast-{decision_id}", "type": "seen", "decision_id": decision_id, "at": ahead}
    assert service.record(event)[0]["status"] == "accepted"
    (slot,) = service.http.get(f"/v1/decisions/{decision_id}").json()["slots"]
    assert slot["seen_at_ms"] <= time.time_ns() // 1_000_000, "seen in the future"
