"""Customers rebuilt from the log: as they were at each decision, or refused by name."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from msgspec import structs

from nbx.audit.rebuilding import Rebuilder, Rebuilt
from nbx.catalog.model import Concern, Journey, JourneyStep
from nbx.catalog.plan import Plan
from nbx.decision.choice import decide
from nbx.decision.messages import DecideRequest
from nbx.decision.warm_up import warm_up
from nbx.experience.entries import AbsorbEntry, DecisionEntry, Entry, EventEntry
from nbx.experience.erasure import ErasureService
from nbx.features.schema import Aggregate, Encoding, Feature
from nbx.features.state import CustomerState, Handover, decode_state, encode_state
from tests.unit.audit.worlds import HOUR_MS
from tests.worlds import CATALOG, DAY_MS, PARTITIONS, Desk, prior_model, run, small_plan

CUSTOMERS = tuple(f"c{number}" for number in range(6))
SEARCHES = Feature(
    name="searches",
    type="number",
    encoding=Encoding(kind="log", sd=5.0),
    default=0.0,
    origin=Aggregate(event="search", kind="count", window_ms=30 * DAY_MS),
)
DEPOSIT = Journey(name="start", steps=(JourneyStep(name="funded", event="deposit"),))
PAYMENT = Concern(name="payment", opens=("search",))


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    warm_up()  # a decision that waits for the compiler would be late, and degraded


@cache
def lively() -> Desk:
    """A desk whose customers decide, answer, browse, change, withdraw consent and come late; only read by the tests."""
    desk, rng = Desk(), np.random.default_rng(5)
    for number in range(150):
        customer = CUSTOMERS[int(rng.integers(len(CUSTOMERS)))]
        what = int(rng.integers(8))
        if what == 0:
            run(desk.events.change_profile(customer, {"age": float(rng.integers(20, 90)), "tier": "gold"}))
        elif what == 1:
            desk.record("consent", customer_id=customer, properties={"personalise": bool(rng.integers(2))})
        elif what < 4:
            kind = ("page_view", "search", "deposit")[int(rng.integers(3))]
            desk.record(kind, customer_id=customer, at=desk.clock.now_ms() - int(rng.integers(HOUR_MS)))
        else:
            reply = desk.decide(customer, ("hero", "desk")[number % 2], slots=1 + number % 2)
            for slot in reply.slots:
                if slot.action and rng.random() < 0.8:
                    desk.record("seen", decision_id=reply.decision_id, slot=slot.slot)
                    answer = ("accepted", "declined", "ignored")[int(rng.integers(3))]
                    if answer != "ignored":
                        desk.record(answer, decision_id=reply.decision_id, slot=slot.slot)
        desk.pass_time(int(rng.integers(HOUR_MS)))
    return desk


def rebuilder(base: Plan, other: Plan | None = None) -> Rebuilder:
    return Rebuilder(CUSTOMERS, base, other or base, {1: base}.__getitem__)


def _copied(state: CustomerState) -> CustomerState:
    return decode_state(encode_state(state))


def rebuilt(entries: list[Entry], other: Plan | None = None) -> list[tuple[Rebuilt, CustomerState]]:
    """Take a log; every decision with the customer as the other release sees it, copied."""
    found = []
    builder = rebuilder(lively().plan, other)
    for entry in entries:
        each = builder.take(entry)
        if each is not None:
            seen = builder.seen_by_the_other(each)
            found.append((each._replace(state=_copied(each.state)), _copied(seen)))
        builder.fold(entry)
    return found


def test_every_decision_comes_out_again_as_it_is_on_record() -> None:
    desk = lively()
    model, builder = prior_model(desk.plan), rebuilder(desk.plan)
    decided = 0
    for entry in desk.log():
        each = builder.take(entry)
        if each is not None:
            decided += 1
            record = each.entry
            assert each.doubt == "", record.decision_id
            asked = record.request
            request = DecideRequest(
                customer_id=record.customer_id, placement=asked.placement, slots=asked.slots, context=asked.context
            )
            choice = decide(
                desk.plan, model, each.state, request, record.decision_id, record.at_ms, salt=record.policy.salt
            )
            assert choice.removed == record.removed
            assert choice.x.tobytes() == record.x
            assert choice.slate.propensity == [slot.propensity for slot in record.slots]
        builder.fold(entry)
    assert decided > 50
    assert any(not e.personalised for e in desk.log() if isinstance(e, DecisionEntry)), "consent was withdrawn"


def test_at_the_end_of_the_log_the_state_is_the_stored_one() -> None:
    desk = lively()
    builder = rebuilder(desk.plan)
    for entry in desk.log():
        builder.fold(entry)
    for customer in CUSTOMERS:
        assert encode_state(builder._pasts[customer].state) == encode_state(desk.state(customer))


def test_a_log_that_begins_too_late_is_not_believed_from_then_on() -> None:
    log = lively().log()
    late = [entry for customer in CUSTOMERS for entry in [e for e in log if e.customer_id == customer][2:]]
    found = rebuilt(late)
    assert len(found) > 30
    assert {each.doubt for each, _ in found} == {"log_incomplete"}


@pytest.mark.parametrize("lost", ["page_view", "seen", "accepted"])
def test_an_entry_that_is_missing_is_noticed(lost: str) -> None:
    log = [entry for entry in lively().log() if entry.customer_id == "c2"]
    at = next(i for i, entry in enumerate(log) if isinstance(entry, EventEntry) and entry.event.type == lost)
    found = rebuilt([entry for i, entry in enumerate(log) if i != at])
    doubts = [each.doubt for each, _ in found]
    assert set(doubts) - {""} in ({"log_incomplete"}, {"state_differs"})
    assert doubts == sorted(doubts, key=bool), "once in doubt, always in doubt"


def test_a_changed_record_is_noticed() -> None:
    log = [entry for entry in lively().log() if entry.customer_id == "c3"]
    at = next(i for i, e in enumerate(log) if isinstance(e, DecisionEntry) and e.personalised and e.state_version)
    entry = log[at]
    assert isinstance(entry, DecisionEntry)
    other_x = np.frombuffer(entry.x, np.float32) + np.float32(0.5)
    for changed in (
        structs.replace(entry, x=other_x.tobytes()),
        structs.replace(entry, relationship=entry.relationship | {"balance": 7.0}),
    ):
        doubts = [each.doubt for each, _ in rebuilt([*log[:at], changed])]
        assert doubts[-1] == "state_differs"
        assert not any(doubts[:-1])
    desk = Desk()
    for _ in range(2):
        desk.decide("c1")
    first, second = (entry for entry in desk.log() if isinstance(entry, DecisionEntry))
    doubts = [each.doubt for each, _ in rebuilt([first, structs.replace(second, state_version=0)])]
    assert doubts == ["", "state_differs"], "a decision lies between"


def test_what_only_the_other_release_declares_is_fed_from_the_start() -> None:
    base = lively().plan
    catalog = structs.replace(
        base.catalog, features=(*base.catalog.features, SEARCHES), journeys=(DEPOSIT,), concerns=(PAYMENT,)
    )
    found = rebuilt(lively().log(), Plan(catalog, 2))
    searches, steps = dict.fromkeys(CUSTOMERS, 0.0), dict.fromkeys(CUSTOMERS, False)
    waiting = iter(found)
    told = 0
    for entry in lively().log():
        if isinstance(entry, EventEntry):
            searches[entry.customer_id] += entry.event.type == "search"
            steps[entry.customer_id] |= entry.event.type == "deposit"
        elif isinstance(entry, DecisionEntry):
            each, other = next(waiting)
            assert each.entry is not None
            cells = other.aggregates.get("searches", [])
            assert sum(float(amount) for amount in cells[1::2]) == searches[entry.customer_id]
            assert "searches" not in each.state.aggregates
            told += bool(cells)
    assert told
    assert any(other.journeys.get("start") for _, other in found) == any(steps.values())
    assert any(other.concerns for _, other in found)
    assert not any(each.state.journeys or each.state.concerns for each, _ in found)


def test_a_window_that_the_other_release_changes_is_counted_anew() -> None:
    other = small_plan(CATALOG.replace("count: 24h", "count: 7d"), 2)
    found = rebuilt(lively().log(), other)
    cells = [(each.state.aggregates.get("visits"), seen.aggregates.get("visits")) for each, seen in found]
    assert any(kept != fed for kept, fed in cells)
    (aggregate,) = [f.origin for f in other.catalog.features if f.name == "visits"]
    assert isinstance(aggregate, Aggregate)
    assert aggregate.window_ms == 7 * DAY_MS


def test_a_profile_value_of_another_type_is_none_of_the_other_release() -> None:
    base = lively().plan
    features = tuple(
        structs.replace(f, type="number", encoding=Encoding(kind="standard"), default=1.0) if f.name == "tier" else f
        for f in base.catalog.features
    )
    actions = tuple(structs.replace(action, eligible="") for action in base.catalog.actions)
    other = Plan(structs.replace(base.catalog, features=features, actions=actions), 2)
    found = rebuilt(lively().log(), other)
    assert any("tier" in each.state.profile for each, _ in found)
    assert not any("tier" in seen.profile for _, seen in found)
    assert any("age" in seen.profile for _, seen in found)


def test_the_other_release_sees_the_state_itself_when_it_declares_the_same() -> None:
    builder = rebuilder(lively().plan)
    each = next(each for entry in lively().log() if (each := builder.take(entry)) is not None)
    assert builder.seen_by_the_other(each) is each.state


def test_after_a_merge_only_what_was_fed_beside_the_state_is_in_doubt() -> None:
    base = lively().plan
    other = Plan(structs.replace(base.catalog, features=(*base.catalog.features, SEARCHES)), 2)
    absorbed = AbsorbEntry(
        customer_id="c1", at_ms=1, release=1, alias="cookie", handed=Handover(1, state=encode_state(CustomerState()))
    )
    for plan, doubt in ((base, ""), (other, "merged")):
        builder = rebuilder(base, plan)
        builder.fold(absorbed)
        assert builder._pasts["c1"].doubt == doubt


def test_a_customer_who_was_erased_begins_anew() -> None:
    desk = Desk()
    for _ in range(2):
        desk.decide("c1")
    run(ErasureService(desk.store, lambda: desk.plan, desk.clock, partitions=PARTITIONS).erase("c1"))
    desk.decide("c1")
    found = rebuilt(desk.log())
    assert [each.doubt for each, _ in found] == ["", "", ""]
    assert not found[-1][1].reserved


def test_stakes_and_clusters_come_out_again() -> None:
    """What the model said of a customer is taken from the record, where a customer is from the log."""
    text = """
journeys: {start: {steps: {funded: {event: deposit, stakes: 0.5}}}}
clusters: {features: [age], count: 3, track_weight: 2}
"""
    desk = Desk(small_plan(CATALOG + text))
    at = np.array([desk.plan.layout.columns.index("age")])
    desk.model = replace(desk.model, cluster_at=at, centres=np.array([[-2.0], [0.0], [2.0]], np.float32))
    for number, customer in enumerate(CUSTOMERS * 3):
        run(desk.events.change_profile(customer, {"age": 20.0 + 15.0 * (number % 4)}))
        if number % 2:
            desk.record("deposit", customer_id=customer)
        desk.decide(customer)
        desk.pass_time(HOUR_MS)
    past, found = Rebuilder(CUSTOMERS, desk.plan, desk.plan, {1: desk.plan}.__getitem__), []
    for entry in sorted(desk.log(), key=lambda each: each.at_ms):
        known = past.take(entry)
        if known is not None:
            assert not known.doubt
            request = DecideRequest(customer_id=entry.customer_id, placement="hero")
            salt, decision_id = known.entry.policy.salt, known.entry.decision_id
            choice = decide(desk.plan, desk.model, known.state, request, decision_id, entry.at_ms, salt=salt)
            assert choice.policy == known.entry.policy
            assert choice.x.tobytes() == known.entry.x
            found.append((known.entry.stakes, known.entry.cluster))
        past.fold(entry)
    assert {stakes for stakes, _ in found} == {0.0, 0.5}
    assert {cluster for _, cluster in found} == {0, 1, 2}
