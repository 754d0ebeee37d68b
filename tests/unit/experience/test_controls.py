"""Stop, pause, resume: which word holds, what it holds back, and what is refused."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbx.experience.controls import CONTROL, held_ms
from nbx.experience.entries import Event, EventEntry, ProfileEntry
from nbx.experience.fold import fold
from nbx.experience.identity import absorb
from nbx.features.schema import Value
from nbx.features.state import Control, CustomerState, encode_state
from nbx.limits import STOPPED_MS
from tests.worlds import DAY_MS, NOW_MS, Desk, run, small_plan

PLAN = small_plan()


def entry(properties: dict[str, Value], at_ms: int) -> EventEntry:
    event = Event(event_id="e", type=CONTROL, customer_id="anna", properties=properties)
    return EventEntry(customer_id="anna", at_ms=at_ms, release=1, event=event, received_ms=at_ms)


def said(*entries: EventEntry | ProfileEntry) -> CustomerState:
    state = CustomerState()
    for each in entries:
        fold(state, None, each, PLAN.rules)
    return state


words = st.tuples(
    st.sampled_from(["overall", "group:cards", "tips"]),
    st.sampled_from(
        [{"stop": True}, {"resume": True}, {"pause": "1ms"}, {"pause": "3ms"}, {"pause": float(NOW_MS + 9)}]
    ),
    st.integers(NOW_MS, NOW_MS + 6),
)


@given(st.lists(words, max_size=5), st.data())
def test_the_order_in_which_words_arrive_does_not_matter(
    drawn: list[tuple[str, dict[str, Value], int]], data: st.DataObject
) -> None:
    """Also where a word has run out before an older one arrives, comes twice, or another entry lies between."""
    entries: list[EventEntry | ProfileEntry] = [entry({"scope": scope, **word}, at) for scope, word, at in drawn]
    entries.append(ProfileEntry(customer_id="anna", at_ms=NOW_MS + DAY_MS, release=1, changes={}))
    shuffled = data.draw(st.permutations([*entries, *entries[:1]]))
    assert said(*entries).controls == said(*shuffled).controls
    for split in range(len(entries)):  # a merge of two lives keeps the latest word too
        merged = said(*shuffled[:split])
        absorb(merged, said(*shuffled[split:]), PLAN.rules)
        assert merged.controls == said(*entries).controls


def test_the_latest_word_holds_and_of_one_moment_the_longer() -> None:
    stop, resume = entry({"scope": "overall", "stop": True}, 5), entry({"scope": "overall", "resume": True}, 6)
    tie = entry({"scope": "overall", "stop": True}, 6)
    for order in permutations([stop, resume]):
        assert held_ms(said(*order), "overall", 7) == 0
    for order in permutations([stop, resume, tie]):
        assert held_ms(said(*order), "overall", 7) == STOPPED_MS
    assert encode_state(said(stop, resume)) != encode_state(said(stop)), "a withdrawn word is kept"


def removed(desk: Desk, placement: str = "hero") -> dict[str, str]:
    reply = desk.decide(placement=placement, mode="preview", explain="reasons")
    return {
        each.action: f"{each.reason}: {each.detail}" for each in reply.explanation.removed if each.action != "alert"
    }


def test_a_stop_holds_on_the_next_decision_and_until_it_is_taken_back() -> None:
    desk = Desk()
    assert removed(desk) == {}
    assert desk.record(CONTROL, customer_id="anna", properties={"scope": "tips", "stop": True}).status == "accepted"
    assert removed(desk) == {"tips": "paused: the customer asked"}
    assert removed(desk, "desk") == {"tips": "paused: the customer asked"}
    desk.pass_time(4000 * DAY_MS)
    assert set(removed(desk)) == {"tips"}
    desk.record(CONTROL, customer_id="anna", properties={"scope": "tips", "resume": True})
    assert removed(desk) == {}


def test_a_pause_of_a_group_ends_by_the_clock() -> None:
    desk = Desk()
    desk.record(CONTROL, customer_id="anna", properties={"scope": "group:cards", "pause": "7d"})
    until_ms = NOW_MS + 7 * DAY_MS
    assert set(removed(desk)) == {"gold_card", "travel_card", "pay_card"}
    assert removed(desk)["pay_card"] == f"paused: group:cards: the customer asked, until {until_ms}"
    desk.pass_time(7 * DAY_MS - 1)
    assert set(removed(desk)) == {"gold_card", "travel_card", "pay_card"}
    desk.pass_time(1)
    assert removed(desk) == {}


def test_what_is_mandatory_comes_unless_it_is_stopped_itself() -> None:
    desk = Desk()
    desk_change(desk, {"age": 80.0})
    for scope in ("overall", "channel:web"):
        desk.record(CONTROL, customer_id="anna", properties={"scope": scope, "stop": True})
        assert [slot.action for slot in desk.decide().slots] == ["alert"]
    desk.record(CONTROL, customer_id="anna", properties={"scope": "alert", "stop": True})
    assert desk.decide().slots[0].none


def test_an_outcome_of_another_release_takes_no_word_away() -> None:
    """A pause of a scope that declares none is dropped with the next outcome; a customer's word is none of these."""
    desk = Desk()
    desk.record(CONTROL, customer_id="anna", properties={"scope": "overall", "pause": "7d"})
    desk.pass_time(8 * DAY_MS)
    desk.record(CONTROL, customer_id="anna", properties={"scope": "group:help", "stop": True})
    reply = next(r for _ in range(50) if (r := desk.decide(exclude=("travel_card", "pay_card"))).slots[0].action)
    desk.record("declined", decision_id=reply.decision_id)
    assert desk.state().controls["group:help"] == Control(STOPPED_MS, NOW_MS + 8 * DAY_MS)
    assert (
        desk.record(
            CONTROL, customer_id="anna", properties={"scope": "overall", "stop": True}, at=NOW_MS - 90 * DAY_MS
        ).status
        == "accepted"
    )
    assert held_ms(desk.state(), "overall", desk.clock.now_ms()) == 0, "a late older word changes nothing"


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"properties": {"stop": True}}, "properties.scope", "overall, channel:<name> (phone, web)"),
        ({"properties": {"scope": "class:service", "stop": True}}, "properties.scope", "must be overall"),
        ({"properties": {"scope": "no_such_action", "stop": True}}, "properties.scope", "no_such_action"),
        ({"properties": {"scope": "tips"}}, "properties", "found none"),
        ({"properties": {"scope": "tips", "stop": True, "pause": "7d"}}, "properties", "one of pause, stop, resume"),
        ({"properties": {"scope": "tips", "mute": True}}, "properties", "found mute"),
        ({"properties": {"scope": "tips", "stop": False}}, "properties.stop", "must be true"),
        ({"properties": {"scope": "tips", "pause": "a week"}}, "properties.pause", "such as 7d"),
        ({"properties": {"scope": "tips", "pause": "0d"}}, "properties.pause", "such as 7d"),
        ({"properties": {"scope": "tips", "pause": "367d"}}, "properties.pause", "up to 366d"),
        ({"properties": {"scope": "tips", "pause": NOW_MS}}, "properties.pause", "a time to come"),
        ({"properties": {"scope": "tips", "pause": True}}, "properties.pause", "a time to come"),
        ({"customer_id": "", "decision_id": "0" * 26}, "decision_id", "leave decision_id out"),
    ],
)
def test_what_says_nothing_clear_is_refused_by_field(change: dict[str, object], field: str, words: str) -> None:
    desk = Desk()
    known = {"customer_id": "anna", "properties": {"scope": "tips", "stop": True}}
    result = desk.record(CONTROL, **known | change)
    assert (result.status, result.field) == ("rejected", f"events[0].{field}"), result
    assert words in result.detail
    assert desk.state() == CustomerState()


def desk_change(desk: Desk, changes: dict[str, Value | None]) -> None:
    run(desk.events.change_profile("anna", changes))
