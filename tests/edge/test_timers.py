"""Silence is an outcome too: timers of one second, run by the real keeper."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.service import Running, eventually, evidence_in_log, evidence_learned, outcomes_of, running

if TYPE_CHECKING:
    from collections.abc import Iterator

WITHIN_S = 15.0
CUSTOMERS = 5


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service of its own: what other tests teach could make the models cut their memory meanwhile."""
    with running(tmp_path_factory.mktemp("timers"), workers=1) as started:
        yield started


def test_not_delivered_not_seen_and_ignored_appear_by_themselves_once_per_slot(service: Running) -> None:
    expected = {}
    for what, told in (("not_delivered", ()), ("not_seen", ("delivered",)), ("ignored", ("delivered", "seen"))):
        for number in range(CUSTOMERS):
            reply = service.decide(f"timer-{what}-{number}", "quick", slots=3)
            decision_id = reply["decision_id"]
            for slot in reply["slots"]:
                if slot.get("action"):
                    expected[decision_id, slot["slot"]] = what
                    for kind in told:
                        event_id = f"{kind}-{decision_id}-{slot['slot']}"
                        service.record(
                            {"event_id": event_id, "type": kind, "decision_id": decision_id, "slot": slot["slot"]}
                        )
    assert len(expected) > 3 * CUSTOMERS, "hardly anything was shown"

    def known() -> bool:
        return expected.keys() <= outcomes_of(service.entries()).keys()

    eventually(known, WITHIN_S, "every slot has an outcome")
    service.settled_checkpoint()
    found = outcomes_of(service.entries())
    assert {slot: [outcome.outcome for outcome in found[slot]] for slot in expected} == {
        slot: [what] for slot, what in expected.items()
    }
    assert all(found[slot][0].revision == 0 for slot in expected)
    armed = b"".join(member for p in range(service.settings.partitions) for member in _members(service, p))
    assert not any(decision_id.encode() in armed for decision_id, _ in expected), "a timer is left"


def test_a_late_yes_replaces_ignored_and_is_learned_once(service: Running) -> None:
    slots = []
    for number in range(CUSTOMERS):
        _, reply = service.decide_shown(f"timer-late-{number}", "quick")
        decision_id = reply["decision_id"]
        service.record({"event_id": f"late-seen-{decision_id}", "type": "seen", "decision_id": decision_id})
        slots.append((decision_id, 0))
    eventually(lambda: set(slots) <= outcomes_of(service.entries()).keys(), WITHIN_S, "every slot is ignored")
    service.settled_checkpoint()
    before = evidence_learned(service.settled_checkpoint())
    for decision_id, _ in slots:
        event = {"event_id": f"late-yes-{decision_id}", "type": "accepted", "decision_id": decision_id}
        assert service.record(event)[0]["outcome"] == "accepted"
    checkpoint = service.settled_checkpoint()
    found = outcomes_of(service.entries())
    for slot in slots:
        assert [(outcome.outcome, outcome.revision, outcome.previous) for outcome in found[slot]] == [
            ("ignored", 0, None),
            ("accepted", 1, "ignored"),
        ]
    after = evidence_learned(checkpoint)
    assert after == before, "a correction is no second observation"
    assert after == evidence_in_log(service.entries())


def _members(service: Running, partition: int) -> list[bytes]:
    return list(service.redis.zrange(f"nbx:{{p{partition}}}:t", 0, -1))
