"""Merging two ids: one customer before and after, once whatever crashes, at no cost for who is nobody's alias."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from nbx.catalog.plan import Plan
from nbx.decision.recovery import recover
from nbx.errors import Conflict, Invalid, NbxError, TooLarge, Unavailable, Unknown
from nbx.experience.consent import CONSENT
from nbx.experience.entries import (
    AbsorbEntry,
    DecisionEntry,
    Entry,
    EraseEntry,
    Event,
    EventEntry,
    MovedEntry,
    ProfileEntry,
    TimerEntry,
    decode_entry,
)
from nbx.experience.erasure import SCRUB_AT_MS, ErasureService
from nbx.experience.fold import fold
from nbx.experience.holdout import assignment
from nbx.experience.identity import absorb, latest, stricter, with_latest
from nbx.experience.lifecycle import OpenDecision, decode_open
from nbx.experience.merging import CLAIM_MS, RETRY_MS, Merging
from nbx.experience.relationship import balance_at
from nbx.features.keys import partition_keys
from nbx.features.state import (
    Consent,
    Control,
    CustomerState,
    GoalWatch,
    Handover,
    Pause,
    ProfileValue,
    Promise,
    Recent,
    Reservation,
    Tally,
    Touch,
    Unanswered,
    decode_state,
    encode_state,
)
from nbx.features.store import Commit, Committed, versioned
from nbx.ids import decision_ref, partition_of
from nbx.limits import ALIASES, RECENT
from tests.simulation.store_fake import FakeStore
from tests.worlds import CATALOG, DAY_MS, NOW_MS, PARTITIONS, Desk, run, small_plan

HOUR_MS = 3_600_000
CROWDED = (
    CATALOG.replace(
        "  is_mobile",
        "  last_page: {type: category, from: {event: page_view, last: page}, encode: {onehot: [home, help]}}\n"
        "  since: {type: number, from: {event: page_view, time_since: true}}\n"
        "  mood: {type: number, from: {event: page_view, decayed_mean: mood, half_life: 1h}}\n"
        "  accepts: {type: number, from: {event: accepted, count: 7d}}\n"
        "  is_mobile",
    )
    + """
contact: {limits: [{max: 60, per: 7d}], pause: {declined: 1h, ignored: {after: 2, within: 1d, for: 2d}}}
journeys: {start: {steps: {opened: {event: opened}, funded: {event: funded, after: [opened]}}}}
concerns: {payment: {opens: [failed_payment], resolves: [paid]}}
"""
)
GOAL = CATALOG.replace(
    "{channel: phone, impressions: implicit,",
    "{goal: {event: came_back, within: 30m, value: 3}, channel: phone, impressions: implicit,",
)


def merge(desk: Desk, customer: str = "anna", alias: str = "cookie") -> str:
    return run(desk.events.merging.merge(customer, alias, "tester"))


def shown(desk: Desk, customer: str, placement: str = "desk", only: str = "tips", **more: Any) -> str:
    """Decide until `only` is shown in slot 0; returns the decision."""
    others = tuple(action.name for action in desk.plan.catalog.actions if action.name != only)
    for _ in range(200):
        reply = desk.decide(customer, placement, exclude=others, **more)
        if reply.slots[0].action:
            return reply.decision_id
    raise AssertionError("200 times silence")


def removed(desk: Desk, customer: str, placement: str = "hero") -> dict[str, str]:
    """Return action → reason, of a preview."""
    reply = desk.decide(customer, placement, mode="preview", explain="full")
    return {each.action: each.reason for each in reply.explanation.removed}


def everything(store: FakeStore) -> Any:
    return dict(store._values), {key: dict(timers) for key, timers in store._timers.items()}, dict(store._logs)


# The fold


def full_state() -> CustomerState:
    """Return a customer of whom everything is known."""
    pause = Pause(NOW_MS + 9, "declined", "d/0", [Pause(NOW_MS + 5, "ignored", "d/1")])
    return CustomerState(
        profile={"age": ProfileValue(44.0, 5)},
        aggregates={"visits": [1, 2.0]},
        exposures={"tips": [5, 7]},
        reserved={"d/2": Reservation("tips", NOW_MS, "web")},
        pauses={"tips": pause},
        balance=-1.5,
        balance_at_ms=NOW_MS,
        ignored_s=[4, 6],
        last_prompt_ms=7_000,
        outcomes={"declined": 2},
        goals=[GoalWatch("d", "came_back", 5, 9)],
        touches={"web": [5, 7]},
        unanswered={"overall": [Unanswered("d/1", 6_000)]},
        consent={"learn": Consent(granted=False, at_ms=3)},
        journeys={"start": {"opened": 8}},
        concerns={"payment": [8, 2]},
        corrected={"age": 5},
        recent=[Recent("d", 4)],
        holdout="silent",
        aliases={"cookie": 3},
        outbox=[Handover(1)],
        handed_over=1,
        merged_into="someone",
        controls={"overall": Control(NOW_MS + 9, 4)},
        obligations={"cards": [7, 3]},
        promises={"call": Promise(9, 4, "cards", ("called",), 8, charged=1.0, charged_at_ms=8, source="d/0", kept=[8])},
        given=Tally(2.0, NOW_MS),
        asked=Tally(3.0, NOW_MS),
        gives={"miles": 2},
        asks={"time": 3},
        touched={"obligation:cards": Touch("web", 7, "failed")},
        deeds={"walk.first": [[9], [10]]},
        meetings={"walk.first": [8, 9, 10]},
        last_touch="tips",
        last_touch_ms=7_000,
    )


OF_AN_ALIAS = {"format", "merged_into", "outbox", "handed_over"}
"""Fields that only an alias has, after its state was handed over."""


def test_nothing_known_of_a_customer_is_lost_or_doubled() -> None:
    full, nobody, rules = full_state(), CustomerState(), small_plan().rules
    names = set(full.__struct_fields__)
    assert {name for name in names if getattr(full, name) == getattr(nobody, name)} == {"format"}, "tell me of all"
    into_nobody, nobody_into = CustomerState(), full_state()
    absorb(into_nobody, full_state(), rules)
    absorb(nobody_into, CustomerState(), rules)
    for name in names - OF_AN_ALIAS:
        assert getattr(into_nobody, name) == getattr(full, name), name
        assert getattr(nobody_into, name) == getattr(full, name), name


@pytest.mark.parametrize("swapped", [False, True])
def test_of_two_the_newer_holds_and_ties_are_settled(swapped: bool) -> None:
    plan = small_plan()
    one = CustomerState(
        profile={"age": ProfileValue(30.0, 5), "tier": ProfileValue("gold", 5)},
        consent={"learn": Consent(granted=True, at_ms=5), "contact": Consent(granted=True, at_ms=6)},
        pauses={"tips": Pause(20, "declined", "a/0"), "overall": Pause(9, "ignored", "unanswered")},
        last_prompt_ms=5,
        concerns={"payment": [5, 0]},
        journeys={"start": {"opened": 5, "funded": 2}},
        aliases={"x": 7, "y": -2},
    )
    other = CustomerState(
        profile={"age": ProfileValue(31.0, 6), "tier": ProfileValue("basic", 5)},
        consent={"learn": Consent(granted=False, at_ms=5), "contact": Consent(granted=False, at_ms=5)},
        pauses={"tips": Pause(30, "declined", "b/0"), "overall": Pause(8, "ignored", "unanswered")},
        last_prompt_ms=6,
        concerns={"payment": [4, 5]},
        journeys={"start": {"opened": 4, "funded": 3}},
        aliases={"x": 6, "y": 3},
    )
    mine, theirs = (other, one) if swapped else (one, other)
    tie = mine.profile["tier"].value
    absorb(mine, theirs, plan.rules)
    assert (mine.profile["age"].value, mine.profile["tier"].value) == (31.0, tie)
    assert (mine.consent["learn"].granted, mine.consent["contact"].granted) == (False, True)
    assert mine.pauses["tips"] == Pause(30, "declined", "b/0", [Pause(20, "declined", "a/0")])
    assert mine.pauses["overall"] == Pause(9, "ignored", "unanswered")
    assert mine.last_prompt_ms == 6
    assert mine.concerns["payment"] == [5, 5]
    assert mine.journeys["start"] == {"opened": 5, "funded": 3}
    assert mine.aliases == {"x": 7, "y": 3}


def lived(seed: int) -> tuple[Plan, list[Entry]]:
    """Let one customer live; returns the log."""
    rng = np.random.default_rng(seed)
    desk = Desk(small_plan(CROWDED))
    made: list[tuple[str, int]] = []
    for _ in range(45):
        draw = rng.random()
        late_ms = int(rng.choice([0, 0, HOUR_MS, 5 * HOUR_MS]))
        at = desk.clock.now_ms() - late_ms
        if draw < 0.35 or not made:
            reply = desk.decide("anna", str(rng.choice(["hero", "desk"])), slots=2)
            made += [(reply.decision_id, slot.slot) for slot in reply.slots if slot.action]
        elif draw < 0.75:
            decision_id, slot = made[-1 - int(rng.integers(min(len(made), 8)))]
            kind = str(
                rng.choice(["delivered", "seen", "seen", "accepted", "declined", "dismissed", "failed", "skipped"])
            )
            by = "agent" if kind == "skipped" else "customer"
            desk.record(kind, decision_id=decision_id, slot=slot, by=by, at=at)
        elif draw < 0.9:
            kind = str(rng.choice(["page_view", "page_view", "opened", "funded", "failed_payment", "paid"]))
            properties = {"page": str(rng.choice(["home", "help"])), "mood": float(rng.normal())}
            desk.record(kind, customer_id="anna", at=at, properties=properties)
        elif draw < 0.95:
            desk.record(CONSENT, customer_id="anna", at=at, properties={"learn": bool(rng.random() < 0.5)})
        else:
            run(desk.events.change_profile("anna", {"age": float(rng.integers(20, 60))}))
        desk.pass_time(int(rng.choice([1, 60_000, 20 * 60_000, 3 * HOUR_MS])))
    return desk.plan, [entry for entry in desk.log() if entry.customer_id == "anna"]


class Lives:
    """Several ids of one customer, folded from one log that is dealt out to them; merged when told."""

    def __init__(self, plan: Plan, ids: Sequence[str], rng: np.random.Generator) -> None:
        self.plan, self.rng = plan, rng
        self.states = {name: CustomerState() for name in ids}
        self.owner: dict[str, str] = {}
        self.opened: dict[str, OpenDecision] = {}

    def root(self, name: str) -> str:
        while self.states[name].merged_into:
            name = self.states[name].merged_into
        return name

    def take(self, entry: Entry) -> None:
        decision_id = entry.event.decision_id if isinstance(entry, EventEntry) else getattr(entry, "decision_id", "")
        name = self.owner.get(decision_id) or self.root(str(self.rng.choice(list(self.states))))
        if isinstance(entry, DecisionEntry):
            self.owner[decision_id] = name
        folded = fold(self.states[name], self.opened.get(decision_id), entry, self.plan.rules)
        if folded.decision is not None:
            self.opened[decision_id] = folded.decision
        self.hand_on(name)

    def merge(self, into: str, alias: str, at_ms: int) -> None:
        entry = MovedEntry(customer_id=alias, at_ms=at_ms, release=1, into=self.root(into))
        fold(self.states[alias], None, entry, self.plan.rules)
        self.hand_on(alias)

    def hand_on(self, name: str) -> None:
        for handed in self.states[name].outbox:
            entry = AbsorbEntry(customer_id=self.root(name), at_ms=0, release=1, alias=name, handed=handed)
            for _ in range(2):  # the second time changes nothing
                fold(self.states[self.root(name)], None, entry, self.plan.rules)
        self.states[name].outbox = []


def told(state: CustomerState, plan: Plan, now_ms: int) -> dict[str, Any]:
    """Return what is known of a customer at a time, whatever has run out left out."""
    policy = plan.rules.experience
    seen = {name: times for name, times in {**state.exposures, **state.touches}.items() if times}
    pauses = {
        (scope, each.source): each.until_ms
        for scope, pause in state.pauses.items()
        for each in (pause, *pause.shorter)
        if each.source != "unanswered"
    }
    return {
        "features": plan.resolver.resolve(state, {}, now_ms),
        "balance": balance_at(state, now_ms, policy),
        "seen": seen,
        "reserved": {key: each.action for key, each in state.reserved.items() if each.until_ms > now_ms},
        "pauses": {key: until_ms for key, until_ms in pauses.items() if until_ms > now_ms},
        "ignored": state.ignored_s,
        "unanswered": {scope: each for scope, each in state.unanswered.items() if each},
        "last": state.last_prompt_ms,
        "outcomes": {name: count for name, count in state.outcomes.items() if count},
        "consent": state.consent,
        "journeys": state.journeys,
        "concerns": state.concerns,
        "controls": state.controls,
        "recent": state.recent,
    }


def assert_same(mine: dict[str, Any], theirs: dict[str, Any], without: tuple[str, ...] = ()) -> None:
    for name, value in mine.items():
        if name in without:
            continue
        if name in ("features", "balance"):
            assert value == pytest.approx(theirs[name], abs=1e-9), name
        else:
            assert value == theirs[name], name


@pytest.mark.parametrize("seed", range(6))
def test_a_merge_of_two_histories_is_the_history_of_one(seed: int) -> None:
    """Wherever the merge comes, and whichever id a decision was made under."""
    plan, log = lived(seed)
    one = Lives(plan, ["anna"], np.random.default_rng(0))
    for entry in log:
        one.take(entry)
    now_ms = log[-1].at_ms
    whole = told(one.states["anna"], plan, now_ms)
    assert whole["outcomes"], "a world in which nothing happens proves nothing"
    rng = np.random.default_rng(seed)
    for merged_after in rng.integers(0, len(log), size=3):
        lives = Lives(plan, ["anna", "cookie"], rng)
        for number, entry in enumerate(log):
            if number == merged_after:
                lives.merge("anna", "cookie", entry.at_ms)
            lives.take(entry)
        assert_same(told(lives.states["anna"], plan, now_ms), whole)
        assert encode_state(lives.states["cookie"]) == encode_state(
            CustomerState(merged_into="anna", handed_over=lives.states["cookie"].handed_over)
        )


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_merges_does_not_matter(seed: int) -> None:
    plan, log = lived(100 + seed)
    ends = []
    for order in ([("anna", "b"), ("anna", "c")], [("anna", "c"), ("anna", "b")], [("b", "c"), ("anna", "b")]):
        lives = Lives(plan, ["anna", "b", "c"], np.random.default_rng(seed))
        for entry in log:
            lives.take(entry)
        for into, alias in order:
            lives.merge(into, alias, log[-1].at_ms)
        ends.append(told(lives.states["anna"], plan, log[-1].at_ms))
        assert lives.states["anna"].aliases.keys() == {"b", "c"} or order[0] == ("b", "c")
    for end in ends[1:]:
        assert_same(end, ends[0])


# The services


def test_what_either_id_is_known_for_both_are() -> None:
    desk = Desk()
    desk.record("page_view", customer_id="cookie")
    run(desk.events.change_profile("cookie", {"tier": "gold"}))
    run(desk.events.change_profile("anna", {"age": 51.0}))
    shown(desk, "cookie")
    assert merge(desk) == "anna"
    assert merge(desk) == "anna", "once more changes nothing"
    anna = desk.state()
    assert (anna.profile["tier"].value, anna.profile["age"].value) == ("gold", 51.0)
    assert len(anna.exposures["tips"]) == 1
    for name in ("cookie", "anna"):
        assert removed(desk, name)["gold_card"] == "not_eligible"
        desk.record("page_view", customer_id=name)
        run(desk.events.change_profile(name, {"age": 52.0 if name == "anna" else 53.0}))
    assert desk.plan.resolver.resolve(desk.state(), {}, desk.clock.now_ms())["visits"] == 3.0
    assert desk.state().profile["age"].value == 52.0
    assert desk.state("cookie").merged_into == "anna"
    assert (desk.state("cookie").profile, desk.state("cookie").aggregates) == ({}, {})
    reply = desk.decide("cookie", "desk")
    made = next(e for e in desk.log() if isinstance(e, DecisionEntry) and e.decision_id == reply.decision_id)
    assert made.customer_id == "anna"
    assert decision_ref(reply.decision_id).partition == partition_of("anna", PARTITIONS)


def test_limits_and_gaps_count_both_ids_together() -> None:
    desk = Desk()
    desk.record("seen", decision_id=shown(desk, "cookie", "hero", "travel_card"))
    shown(desk, "anna", "hero", "pay_card")
    assert removed(desk, "anna").get("travel_card") is None
    merge(desk)
    for name in ("anna", "cookie"):
        found = removed(desk, name)
        assert found["travel_card"] == "limit_reached", "1 in 7 days, seen under the alias"
        assert found["gold_card"] == "limit_reached", "2 of the group in a day: one seen, one that may still be"


@pytest.mark.parametrize("named", ["", "cookie", "anna"])
def test_an_event_about_a_decision_made_under_the_alias_is_the_customers(named: str) -> None:
    desk = Desk()
    decision_id = shown(desk, "cookie", "hero", "gold_card")
    merge(desk)
    reserved = desk.state().reserved
    assert list(reserved) == [f"{decision_id}/0"]
    assert desk.record("seen", decision_id=decision_id, customer_id=named).status == "accepted"
    assert desk.state().reserved == {}
    assert len(desk.state().exposures["gold_card"]) == 1
    result = desk.record("declined", decision_id=decision_id, customer_id=named)
    assert (result.status, result.outcome) == ("accepted", "declined")
    anna = desk.state()
    assert (anna.outcomes, list(anna.pauses)) == ({"declined": 1}, ["gold_card"])
    assert anna.balance == pytest.approx(-0.6)
    assert removed(desk, "anna")["gold_card"] == removed(desk, "cookie")["gold_card"] == "paused"
    assert desk.record("accepted", decision_id=decision_id, customer_id=named).outcome == "accepted"
    anna = desk.state()
    assert anna.outcomes == {"declined": 0, "accepted": 1}
    assert anna.balance == pytest.approx(1.0)
    assert anna.pauses == {}, "the answer took back what the one before called for"
    told_learner = [outcome for entry in desk.log() if isinstance(entry, EventEntry) for outcome in entry.outcomes]
    assert [(o.outcome, o.revision, o.customer_id) for o in told_learner] == [
        ("declined", 0, "cookie"),
        ("accepted", 1, "cookie"),
    ]
    assert desk.observed == told_learner


def test_an_event_under_the_alias_about_a_decision_made_for_the_customer() -> None:
    desk = Desk()
    merge(desk)
    decision_id = shown(desk, "cookie")
    assert desk.record("accepted", decision_id=decision_id, customer_id="cookie").outcome == "accepted"
    assert desk.state().outcomes == {"accepted": 1}
    refused = desk.record("accepted", decision_id=decision_id, customer_id="bob")
    assert (refused.status, refused.code, refused.field) == ("rejected", "decision_foreign", "events[0].customer_id")
    assert desk.state("bob") == CustomerState()


def test_timers_of_the_aliass_decisions_reach_the_customer() -> None:
    desk = Desk()
    shown(desk, "cookie")
    merge(desk)
    partition = partition_of("cookie", PARTITIONS)
    (timer,) = run(desk.store.due(partition, desk.clock.now_ms() + HOUR_MS, 10))
    run(desk.events.run_timer(partition, timer))
    anna = desk.state()
    assert (anna.outcomes, len(anna.ignored_s)) == ({"ignored": 1}, 1)
    assert anna.balance == pytest.approx(-1.0)
    assert desk.state("cookie").outbox == []


def test_consent_of_the_customer_decides_what_the_aliass_decisions_teach() -> None:
    desk = Desk()
    made = [shown(desk, "cookie"), shown(desk, "cookie")]
    merge(desk)
    desk.record("accepted", decision_id=made[0])
    desk.record(CONSENT, customer_id="anna", properties={"learn": False})
    desk.record("accepted", decision_id=made[1])
    assert [outcome.learns for outcome in desk.observed] == [True, False]
    desk.record(CONSENT, customer_id="cookie", properties={"learn": True}, at=desk.clock.now_ms() + 5)
    assert desk.state().consent["learn"].granted is False, "said in the same moment: the no"


def test_events_of_one_call_are_told_apart_and_answered_in_their_order() -> None:
    desk = Desk()
    decision_id = shown(desk, "cookie")
    desk.record("page_view", customer_id="cookie")
    desk.record("page_view", customer_id="bob")
    merge(desk)
    events = [
        Event(event_id="one", type="page_view", customer_id="cookie"),
        Event(event_id="two", type="accepted", customer_id="cookie", decision_id=decision_id),
        Event(event_id="one", type="page_view", customer_id="cookie"),
        Event(event_id="e1", type="page_view", customer_id="cookie"),
        Event(event_id="three", type="page_view", decision_id=decision_id),
        Event(event_id="four", type="page_view", customer_id="anna", decision_id=decision_id),
        Event(event_id="five", type="page_view", customer_id="bob", decision_id=decision_id),
    ]
    for expected in (
        ["accepted", "accepted", "duplicate", "duplicate", "accepted", "accepted", "rejected"],
        ["duplicate", "duplicate", "duplicate", "duplicate", "duplicate", "duplicate", "rejected"],
    ):
        results = run(desk.events.record(events))
        assert [result.event_id for result in results] == [event.event_id for event in events]
        assert [result.status for result in results] == expected
    assert desk.plan.resolver.resolve(desk.state(), {}, desk.clock.now_ms())["visits"] == 4.0
    assert desk.state().outcomes == {"accepted": 1}


def test_an_event_counts_once_under_whatever_id_it_comes_again() -> None:
    desk = Desk()
    one, two = (Event(event_id=name, type="page_view", customer_id="cookie") for name in ("one", "two"))
    assert run(desk.events.record([one]))[0].status == "accepted"
    merge(desk, "device", "cookie")
    assert run(desk.events.record([one, two]))[1].status == "accepted"
    merge(desk, "anna", "device")
    for customer in ("cookie", "device", "anna"):
        again = [structs.replace(event, customer_id=customer) for event in (one, two)]
        assert [result.status for result in run(desk.events.record(again))] == ["duplicate"] * 2, customer
    assert desk.plan.resolver.resolve(desk.state(), {}, desk.clock.now_ms())["visits"] == 2.0


def test_a_reply_stored_under_the_alias_stays_there() -> None:
    desk = Desk()
    before = desk.decide("cookie", request_id="r1")
    merge(desk)
    assert desk.decide("cookie", request_id="r1").decision_id == before.decision_id
    after = [desk.decide(name, request_id="r2").decision_id for name in ("cookie", "cookie", "anna")]
    assert len(set(after)) == 1
    assert desk.decide("anna", request_id="r1").decision_id != before.decision_id


def test_a_preview_under_an_alias_leaves_no_trace() -> None:
    desk = Desk()
    decision_id = shown(desk, "cookie")
    merge(desk)
    desk.store.failing_commits_before = 0
    run(_commit_only_under_the_alias(desk, decision_id))
    assert desk.state("cookie").outbox, "half way"
    before = everything(desk.store)
    found = [desk.decide("cookie", mode="preview", explain="full") for _ in range(3)]
    assert everything(desk.store) == before
    assert found[0].explanation is not None
    known = run(desk.events.merging.peek("cookie"))
    assert (known.customer_id, known.state.outcomes) == ("anna", {"accepted": 1}), "as if it were finished"
    assert desk.state().outcomes == {}
    desk.decide("cookie")
    assert desk.state().outcomes == {"accepted": 1}, "a decision finishes it"


async def _commit_only_under_the_alias(desk: Desk, decision_id: str) -> None:
    """Record an acceptance and crash right after the first commit."""
    store = Crashing(desk.store, at=1, before=True)
    desk.events._store = desk.events.merging._store = store
    event = Event(event_id="half", type="accepted", decision_id=decision_id)
    with pytest.raises(Unavailable):
        await desk.events.record([event])
    desk.events._store = desk.events.merging._store = desk.store


@pytest.mark.parametrize("by", ["anna", "cookie"])
def test_a_goal_of_the_aliass_decision_is_reached_by_the_customer(by: str) -> None:
    desk = Desk(small_plan(GOAL))
    reached, missed = (desk.decide("cookie", "desk").decision_id for _ in range(2))
    merge(desk)
    assert len(desk.state().goals) == len(desk.state("cookie").goals) == 2
    for _ in range(2):
        desk.record("came_back", customer_id=by)
    found = [(g.decision_id, g.response, g.revision) for e in desk.log() if isinstance(e, EventEntry) for g in e.goals]
    assert sorted(found) == sorted([(reached, 1, 0), (missed, 1, 0)])
    late = desk.decide("cookie", "desk").decision_id
    desk.pass_time(HOUR_MS)
    missing = [(g.decision_id, g.response) for e in desk.log() if isinstance(e, TimerEntry) for g in e.goals]
    assert missing == [(late, 0)]


def test_a_goal_missed_under_the_alias_is_corrected_by_the_customers_late_truth() -> None:
    desk = Desk(small_plan(GOAL))
    decision_id = desk.decide("cookie", "desk").decision_id
    merge(desk)
    at_ms = desk.clock.now_ms() + 60_000
    desk.pass_time(HOUR_MS)
    desk.record("came_back", customer_id="anna", at=at_ms)
    goals = [g for e in desk.log() if isinstance(e, EventEntry | TimerEntry) for g in e.goals]
    goals.sort(key=lambda goal: goal.revision)
    assert [(g.decision_id, g.response, g.revision) for g in goals] == [(decision_id, 0, 0), (decision_id, 1, 1)]


def test_a_degraded_decision_under_an_alias_is_known_to_the_customer() -> None:
    desk = Desk()
    merge(desk)
    desk.store.failing_reads = 1
    reply = desk.decide("cookie")
    assert reply.degraded == ("state_unavailable",)
    assert reply.slots[0].action == "tips"
    assert run(recover(desk.decisions, desk.events)) == 1
    assert list(desk.state().reserved) == [f"{reply.decision_id}/0"]
    assert desk.record("accepted", decision_id=reply.decision_id, customer_id="cookie").outcome == "accepted"
    assert (desk.state().outcomes, len(desk.state().exposures["tips"])) == ({"accepted": 1}, 1)


def test_chains_are_followed_and_shortened_and_aliases_come_along() -> None:
    desk = Desk()
    decision_id = shown(desk, "cookie")
    merge(desk, "device", "cookie")
    assert merge(desk, "anna", "device") == "anna"
    assert desk.state().aliases.keys() == {"device", "cookie"}
    assert desk.state("cookie").merged_into == "device"
    desk.record("accepted", decision_id=decision_id)
    assert desk.state("cookie").merged_into == "anna", "shortened on the way"
    assert desk.state().outcomes == {"accepted": 1}
    assert (desk.state("device").outcomes, desk.state("device").aliases) == ({}, {})
    assert merge(desk, "cookie", "phone") == "anna", "whoever the alias stands for is meant"
    assert desk.state("phone").merged_into == "anna"
    desk.record("accepted", decision_id=shown(desk, "phone"))
    assert desk.state().outcomes == {"accepted": 2}


def test_what_is_refused() -> None:
    desk = Desk()
    merge(desk)
    before = everything(desk.store)
    for customer, alias, kind, code, field in (
        ("anna", "anna", Invalid, "alias_self", "alias"),
        ("cookie", "anna", Invalid, "alias_self", "alias"),
        ("cookie", "cookie", Invalid, "alias_self", "alias"),
        ("bob", "cookie", Conflict, "alias_taken", "alias"),
        ("", "cookie", Invalid, "id_invalid", "customer_id"),
        ("bob", "", Invalid, "id_invalid", "alias"),
        ("bob", "x" * 129, TooLarge, "too_large", "alias"),
    ):
        with pytest.raises(kind) as raised:
            merge(desk, customer, alias)
        assert (raised.value.code, raised.value.field) == (code, field), (customer, alias)
    assert everything(desk.store) == before
    for number in range(ALIASES - 1):
        merge(desk, "anna", f"c{number}")
    with pytest.raises(TooLarge) as raised:
        merge(desk, "anna", "one more")
    assert (raised.value.field, desk.state("one more").merged_into) == ("alias", "")


def test_who_is_nobodys_alias_is_read_once_and_written_once() -> None:
    desk = Desk()
    merge(desk, "anna", "cookie")
    for customer in ("bob", "anna"):
        calls: list[str] = []
        desk.decisions._store = Counting(desk.store, calls)
        desk.decide(customer)
        assert calls == ["read", "commit"]
    calls = []
    desk.decisions._store = Counting(desk.store, calls)
    desk.decisions._merging._store = desk.decisions._store
    desk.decide("cookie")
    assert calls == ["read", "read", "read", "read", "commit"], "the alias, its chain of two, the customer"


class Counting(FakeStore):
    """Notes the calls."""

    def __init__(self, store: FakeStore, calls: list[str]) -> None:
        self.__dict__ = dict(store.__dict__)
        self.calls = calls

    async def read(self, keys: Sequence[str], timeout_ms: float) -> list[bytes | None]:
        self.calls.append("read")
        return await super().read(keys, timeout_ms)

    async def commit(self, commit: Commit, timeout_ms: float) -> Committed:
        self.calls.append("commit")
        return await super().commit(commit, timeout_ms)


HELD = CATALOG + "holdout: {silent: 0.3, random: 0.3}\n"


def test_whoever_was_held_out_stays_so() -> None:
    desk = Desk(small_plan(HELD))
    desk.events.merging = Merging(
        desk.store, lambda: desk.plan, desk.clock, partitions=PARTITIONS, salt="test", timeout_ms=1.0
    )
    policy = desk.plan.catalog.holdout
    kinds: dict[str, list[str]] = {"": [], "random": [], "silent": []}
    for number in range(60):
        kinds[assignment(f"c{number}", CustomerState(), policy, "test")].append(f"c{number}")
    for one, other in ((a, b) for a in kinds for b in kinds):
        customer, alias = kinds[one].pop(), kinds[other].pop()
        merge(desk, customer, alias)
        held = stricter(one, other)
        assert assignment(customer, desk.state(customer), policy, "test") == held
        assert desk.decide(alias).holdout == held
        assert desk.state(customer).holdout == held
    anna, cookie = kinds["random"].pop(), kinds["silent"].pop()
    merge(desk, anna, cookie)
    merge(desk, kinds[""][0], anna)
    assert assignment(kinds[""][0], desk.state(kinds[""][0]), policy, "test") == "silent", "and through a chain"


# Crashes


class Crashing(FakeStore):
    """Over the same data, but one commit, by number, fails: before it is applied or after; and all reads from then."""

    def __init__(self, store: FakeStore, at: int, *, before: bool) -> None:
        self.__dict__ = dict(store.__dict__)
        self.left, self.before, self.is_dead = at, before, False

    async def read(self, keys: Sequence[str], timeout_ms: float) -> list[bytes | None]:
        if self.is_dead:
            raise Unavailable("dead")
        return await super().read(keys, timeout_ms)

    async def commit(self, commit: Commit, timeout_ms: float) -> Committed:
        if self.left == 0:
            self.is_dead = True
            if not self.before:
                await super().commit(commit, timeout_ms)
        self.left -= 1
        if self.is_dead:
            raise Unavailable("dead")
        return await super().commit(commit, timeout_ms)


def crash(desk: Desk, doing: Callable[[], Any], at: int, *, before: bool) -> bool:
    """Do something and crash at a commit; False: there were not so many."""
    store = Crashing(desk.store, at, before=before)
    users: list[Any] = [desk.events, desk.events.merging, desk.decisions, desk.decisions._merging]
    for user in users:
        user._store = store
    try:
        doing()
    except Unavailable:
        pass
    finally:
        for user in users:
            user._store = desk.store
    return store.is_dead


HEALING = ("again", "keeper", "decision", "event")


def heal(desk: Desk, how: str, doing: Callable[[], Any]) -> None:
    if how == "again":
        doing()
    elif how == "keeper":
        desk.pass_time(RETRY_MS)
    elif how == "decision":
        desk.decide("cookie", "desk", exclude=("tips", "gold_card", "travel_card"))
    else:
        desk.record("nothing", customer_id="cookie")


@pytest.mark.parametrize("how", HEALING)
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("at", range(4))
def test_a_merge_that_crashes_loses_and_doubles_nothing(at: int, before: bool, how: str) -> None:
    desk = Desk()
    desk.record("declined", decision_id=shown(desk, "cookie"))
    desk.record("accepted", decision_id=shown(desk, "anna"))
    expected = desk.state("anna")
    absorb(expected, desk.state("cookie"), desk.plan.rules)
    assert crash(desk, lambda: merge(desk), at, before=before)
    moved = bool(desk.state("cookie").merged_into)
    assert moved == (at > 1 or (at == 1 and not before))
    heal(desk, how, lambda: merge(desk))
    if not moved and how != "again":
        assert desk.state("cookie").outcomes == {"declined": 1}, "not merged, and as it was"
        merge(desk)
    anna = desk.state("anna")
    assert (anna.outcomes, anna.exposures) == (expected.outcomes, expected.exposures)
    assert anna.balance == pytest.approx(expected.balance)
    assert (desk.state("cookie").outbox, desk.state("cookie").merged_into) == ([], "anna")
    assert anna.aliases["cookie"] > 0
    assert not run(desk.store.due(partition_of("cookie", PARTITIONS), desk.clock.now_ms() + RETRY_MS, 10))


@pytest.mark.parametrize("how", HEALING)
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("at", range(3))
def test_an_event_that_crashes_on_its_way_loses_and_doubles_nothing(at: int, before: bool, how: str) -> None:
    desk = Desk()
    decision_id = shown(desk, "cookie")
    merge(desk)
    event = Event(event_id="the one", type="accepted", decision_id=decision_id)

    def record() -> None:
        run(desk.events.record([event]))

    assert crash(desk, record, at, before=before)
    heal(desk, how, record)
    (result,) = run(desk.events.record([event]))
    applied = how == "again" or at > 0 or not before
    assert result.status == ("duplicate" if applied else "accepted")
    assert desk.state().outcomes == {"accepted": 1}
    assert desk.state().balance == pytest.approx(1.0)
    assert desk.state("cookie").outbox == []


def test_a_goal_event_that_crashes_on_its_way_counts_once() -> None:
    for at, before in ((0, True), (0, False), (1, True), (1, False)):
        desk = Desk(small_plan(GOAL.replace("page_view, count", "came_back, count")))
        desk.decide("cookie", "desk")
        merge(desk)
        event = Event(event_id="back", type="came_back", customer_id="anna")
        assert crash(desk, lambda: run(desk.events.record([event])), at, before=before)  # noqa: B023 - called here
        run(desk.events.record([event]))
        goals = [goal for entry in desk.log() if isinstance(entry, EventEntry) for goal in entry.goals]
        assert [(goal.response, goal.revision) for goal in goals] == [(1, 0)]
        assert desk.plan.resolver.resolve(desk.state(), {}, desk.clock.now_ms())["visits"] == 1.0


def test_handovers_of_one_moment_are_told_apart() -> None:
    desk = Desk()
    made = [shown(desk, "cookie") for _ in range(3)]
    merge(desk)
    for decision_id in made:
        desk.record("accepted", decision_id=decision_id)
    assert desk.state().outcomes == {"accepted": 3}


def test_an_alias_that_is_erased_and_merged_again_is_heard() -> None:
    desk = Desk()
    for life in range(2):
        desk.record("accepted", decision_id=shown(desk, "cookie"))
        merge(desk)
        assert desk.state().outcomes == {"accepted": 1}, life
        run(erasures(desk).erase("anna"))


class Giving(FakeStore):
    """Gives way to others before every call."""

    def __init__(self, store: FakeStore, rng: np.random.Generator) -> None:
        self.__dict__ = dict(store.__dict__)
        self.rng = rng

    async def read(self, keys: Sequence[str], timeout_ms: float) -> list[bytes | None]:
        for _ in range(int(self.rng.integers(4))):
            await asyncio.sleep(0)
        return await super().read(keys, timeout_ms)

    async def commit(self, commit: Commit, timeout_ms: float) -> Committed:
        for _ in range(int(self.rng.integers(4))):
            await asyncio.sleep(0)
        return await super().commit(commit, timeout_ms)


@pytest.mark.parametrize("seed", range(16))
def test_merges_at_the_same_time_make_no_circle(seed: int) -> None:
    desk = Desk()
    rng = np.random.default_rng(seed)
    names = ["a", "b", "c"][: 2 + seed % 2]
    for name in names:
        desk.record("accepted", decision_id=shown(desk, name))
    desk.events.merging._store = Giving(desk.store, rng)
    pairs = list(zip(names, names[1:] + names[:1], strict=True))

    async def all_at_once() -> list[Any]:
        return await asyncio.gather(*(desk.events.merging.merge(*pair) for pair in pairs), return_exceptions=True)

    for _ in range(3):
        results = run(all_at_once())
        assert all(isinstance(result, str | NbxError) for result in results), results
        roots = {name: run(desk.events.merging.settled(name)).customer_id for name in names}
        assert all(desk.state(root).merged_into == "" for root in roots.values())
        desk.clock.advance(CLAIM_MS + 1)
    for customer, alias in pairs:  # one after the other they end as one
        if run(desk.events.merging.settled(customer)) != run(desk.events.merging.settled(alias)):
            merge(desk, roots[customer], roots[alias])
        roots = {name: run(desk.events.merging.settled(name)).customer_id for name in names}
    (root,) = set(roots.values())
    assert desk.state(root).outcomes == {"accepted": len(names)}


def test_a_claim_that_came_to_nothing_holds_nobody_for_long() -> None:
    desk = Desk()
    assert crash(desk, lambda: merge(desk, "anna", "cookie"), 1, before=True)
    assert desk.state().aliases["cookie"] < 0
    with pytest.raises(Unavailable) as raised:
        merge(desk, "bob", "anna")
    assert raised.value.code == "state_contended"
    desk.clock.advance(CLAIM_MS + 1)
    assert merge(desk, "bob", "anna") == "bob"
    assert merge(desk, "bob", "cookie") == "bob"
    assert desk.state("bob").aliases.keys() == {"anna", "cookie"}


# The log


def test_the_log_alone_gives_the_same_states() -> None:
    desk = Desk(small_plan(GOAL))
    made = [shown(desk, name) for name in ("cookie", "anna", "cookie", "device")]
    merge(desk, "device", "cookie")
    desk.record("declined", decision_id=made[0])
    merge(desk, "anna", "device")
    desk.record("seen", decision_id=made[2])
    desk.record("came_back", customer_id="cookie")
    desk.decide("cookie")
    desk.pass_time(DAY_MS)
    states: dict[str, CustomerState] = {}
    opened: dict[str, OpenDecision] = {}
    for entry in desk.log():
        state = states.setdefault(entry.customer_id, CustomerState())
        decision_id = entry.event.decision_id if isinstance(entry, EventEntry) else getattr(entry, "decision_id", "")
        folded = fold(state, opened.get(decision_id), entry, desk.plan.rules, opened)
        if folded.decision is not None:
            opened[decision_id] = folded.decision
        if isinstance(entry, EventEntry | TimerEntry):
            assert (folded.outcomes, folded.goals) == (entry.outcomes, entry.goals)
    assert states.keys() == {"anna", "cookie", "device"}
    for customer, state in states.items():
        assert encode_state(state) == encode_state(desk.state(customer)), customer


# Erasure


def erasures(desk: Desk) -> ErasureService:
    return ErasureService(desk.store, lambda: desk.plan, desk.clock, partitions=PARTITIONS)


def family(desk: Desk) -> list[str]:
    """Merge cookie → device → anna with a decision each; returns the decisions."""
    made = [shown(desk, name) for name in ("anna", "device", "cookie")]
    for decision_id in made:
        desk.record("accepted", decision_id=decision_id)
    merge(desk, "device", "cookie")
    merge(desk, "anna", "device")
    return made


@pytest.mark.parametrize("asked", ["anna", "cookie", "device"])
def test_erasing_a_customer_erases_every_id(asked: str) -> None:
    desk = Desk()
    made = family(desk)
    receipt = run(erasures(desk).erase(asked, "tester (1)"))
    assert receipt.customer_id == "anna"
    assert receipt.aliases.keys() == {"device", "cookie"}
    service = erasures(desk)
    of_aliases = [run(service.receipt(erasure_id)) for erasure_id in receipt.aliases.values()]
    assert {(each.customer_id, each.taught, each.decisions) for each in of_aliases} == {
        ("device", 1, 1),
        ("cookie", 1, 1),
    }
    assert run(service.receipt(receipt.erasure_id)).aliases == receipt.aliases
    for decision_id, name in zip(made, ("anna", "device", "cookie"), strict=True):
        key = partition_keys(partition_of(name, PARTITIONS)).decision(decision_id)
        assert run(desk.store.read([key], 1.0)) == [None]
        assert desk.state(name) == CustomerState()
        with pytest.raises(Unknown):
            run(service.erase(name))
    timers = [t for p in range(PARTITIONS) for t in run(desk.store.due(p, SCRUB_AT_MS - 1, 100))]
    assert timers == []
    desk.record("page_view", customer_id="cookie")
    assert desk.state("cookie").aggregates
    assert desk.state("anna") == CustomerState(), "a new life, and an own one"


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("at", range(4))
def test_an_erasure_that_crashes_is_finished_by_the_next(at: int, before: bool) -> None:
    desk = Desk()
    family(desk)
    service = erasures(desk)
    service._store = service._merging._store = Crashing(desk.store, at, before=before)
    with pytest.raises(Unavailable):
        run(service.erase("anna"))
    if at == 3 and not before:
        with pytest.raises(Unknown):
            run(erasures(desk).erase("anna"))
    else:
        assert run(erasures(desk).erase("anna")).customer_id == "anna"
    assert len([entry for entry in desk.log() if isinstance(entry, EraseEntry)]) == 3
    assert {desk.state(name) == CustomerState() for name in ("anna", "device", "cookie")} == {True}


def test_what_an_erased_alias_had_yet_to_hand_over_does_not_come_back() -> None:
    desk = Desk()
    decision_id = shown(desk, "cookie")
    merge(desk)
    run(_commit_only_under_the_alias(desk, decision_id))
    link, root = run(_read(desk, "cookie")), run(_read(desk, "anna"))
    assert link.state.outbox
    before = desk.state()
    run(erasures(desk)._erase_alias("cookie", ""))
    assert run(desk.events.merging._deliver(link, root.customer_id, lambda: 1.0)) is False
    assert (desk.state("cookie"), desk.state()) == (CustomerState(), before)
    assert run(desk.store.due(partition_of("cookie", PARTITIONS), SCRUB_AT_MS - 1, 10)) == []


async def _read(desk: Desk, customer: str) -> Any:
    return await desk.events.merging._load(customer, 1.0)


def test_entries_of_a_merge_say_who_asked_and_hold_what_was_handed_over() -> None:
    desk = Desk()
    run(desk.events.change_profile("cookie", {"age": 33.0}))
    merge(desk)
    rows = [row for p in range(PARTITIONS) for row in run(desk.store.log_range(p, "-", "+", 100))]
    entries = {type(entry).__name__: entry for entry in (decode_entry(row.payload) for row in rows)}
    assert entries.keys() == {"ProfileEntry", "AliasEntry", "MovedEntry", "AbsorbEntry", "DeliveredEntry"}
    claim, taken = entries["AliasEntry"], entries["AbsorbEntry"]
    assert isinstance(entries["ProfileEntry"], ProfileEntry)
    assert (claim.customer_id, getattr(claim, "alias", ""), getattr(claim, "by", "")) == ("anna", "cookie", "tester")
    assert isinstance(taken, AbsorbEntry)
    assert decode_state(taken.handed.state).profile["age"].value == 33.0


def test_an_open_decision_of_an_alias_stays_where_it_was_made() -> None:
    desk = Desk()
    decision_id = shown(desk, "cookie")
    merge(desk)
    desk.record("accepted", decision_id=decision_id)
    key = partition_keys(partition_of("cookie", PARTITIONS)).decision(decision_id)
    (packed,) = run(desk.store.read([key], 1.0))
    assert packed is not None
    assert (decode_open(packed).customer_id, decode_open(packed).slots[0].outcome) == ("cookie", "accepted")
    (stored,) = run(desk.store.read([partition_keys(partition_of("cookie", PARTITIONS)).customer("cookie")], 1.0))
    assert decode_state(versioned(stored)[1]).merged_into == "anna"


@pytest.mark.parametrize("new", [Recent("m", 0), Recent("m", 50), Recent("m", 99), Recent("z", 50), Recent("d5", 50)])
@pytest.mark.parametrize("many", [0, 6, RECENT])
def test_a_new_decision_takes_its_place_among_the_latest(new: Recent, many: int) -> None:
    known = latest([Recent(f"d{i}", 10 * i) for i in range(many)])
    found = with_latest(known, new)
    assert found == latest([*(each for each in known if each.decision_id != new.decision_id), new])
    assert len(found) <= RECENT
