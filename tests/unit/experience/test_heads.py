"""The head of a packed entry, read by hand, against the entry unpacked."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nbx.experience.entries import EraseEntry, Event, EventEntry, MovedEntry, ProfileEntry, encode_entry
from nbx.experience.heads import head_of, is_decision
from tests.worlds import Desk

CUSTOMERS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=128)
TIMES = st.integers(0, 2**63)
RELEASES = st.integers(0, 2**32)


@given(CUSTOMERS, TIMES, RELEASES)
def test_whose_when_and_under_which_release(customer: str, at_ms: int, release: int) -> None:
    said = {"customer_id": customer, "at_ms": at_ms, "release": release}
    event = Event(event_id="e", type="t")
    for entry in (
        MovedEntry(**said, into="x"),  # type: ignore[arg-type]
        ProfileEntry(**said, changes={}),  # type: ignore[arg-type]
        EventEntry(**said, event=event, received_ms=1),  # type: ignore[arg-type]
        EraseEntry(**said, erasure_id="", by="", state_version=0, decisions=0, timers=0, replies=0, taught=()),  # type: ignore[arg-type]
    ):
        assert head_of(encode_entry(entry)) == (customer.encode(), at_ms, release)
        assert not is_decision(encode_entry(entry))


@given(st.binary(max_size=40))
def test_nonsense_has_some_head_and_raises_nothing(packed: bytes) -> None:
    assert head_of(packed).customer in packed


def test_a_decision_is_told_from_a_customer_of_that_name() -> None:
    desk = Desk()
    desk.decide("decision")
    desk.record("page_view", customer_id="decision")
    rows = [row for log in desk.store._logs.values() for _, row in log]
    assert [is_decision(row) for row in rows] == [True, False] or desk.decisions.degraded
    assert {head_of(row).customer for row in rows} == {b"decision"}
