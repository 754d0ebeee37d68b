"""Explanations over a log: the customer as it was, or an honest answer why not; reading and waiting are bounded."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from nbx.audit import explaining
from nbx.audit.explaining import Explainer, read_past
from nbx.audit.history import locate_decision
from nbx.bandits.snapshot import BoundModel
from nbx.catalog.model import Holdout
from nbx.catalog.plan import Plan
from nbx.decision.degraded import degraded_entry
from nbx.decision.explained import Customer, Explained, Known, explained
from nbx.decision.messages import DecideRequest
from nbx.decision.smallest_change import finished
from nbx.decision.warm_up import warm_up
from nbx.errors import Invalid, NotReady, Unavailable, Unknown
from nbx.experience.entries import DecisionEntry, decode_entry, encode_entry
from nbx.experience.erasure import ErasureService
from nbx.features.state import CustomerState
from nbx.ids import new_decision_id, partition_of
from nbx.limits import EXPLAIN_ENTRIES
from tests.unit.audit.test_rebuilding import lively
from tests.unit.decision.asking import recorded
from tests.worlds import CATALOG, DAY_MS, NOW_MS, PARTITIONS, Desk, prior_model, run, small_plan


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    warm_up()


def explainer(desk: Desk, plan: Plan | None = None, most: int = EXPLAIN_ENTRIES) -> Explainer:
    async def plan_of(number: int) -> Plan:
        if plan is None:
            return await desk.plan_of(number)
        return plan

    async def model_for(_: Plan) -> BoundModel:
        return desk.model

    async def places_of(_: Plan) -> dict[str, tuple[int, int]]:
        return {"actions.gold_card.eligible": (25, 15)}

    return Explainer(desk.store, PARTITIONS, plan_of, model_for, places_of, most=most)


def explain(desk: Desk, decision_id: str, action: str = "", plan: Plan | None = None) -> Explained:
    return run(explainer(desk, plan).explain(decision_id, action))


def test_every_decision_of_lively_customers_is_explained_with_the_customer_as_it_was() -> None:
    desk = lively()
    decisions = [entry for entry in desk.log() if isinstance(entry, DecisionEntry)]
    standings = set()
    for entry in decisions[::9]:
        found = explain(desk, entry.decision_id, "gold_card")
        assert (found.doubt, found.values_from) == ("", "rebuilt"), found.told
        why = found.why_not
        assert why is not None
        standings.add((why.standing, why.reason))
        removed = {each.action: each.reason for each in entry.removed}
        assert why.reason == removed.get("gold_card", "")
        for each in why.conditions:
            assert (each.path, each.line, each.column) == ("actions.gold_card.eligible", 25, 15)
            assert each.saw == ({"customer.tier": "gold"} if entry.personalised else {})
    assert {("removed", "not_eligible"), ("removed", "needs_personalise")} <= standings
    assert {"shown", "not_drawn"} & {standing for standing, _ in standings}


def test_reading_and_explaining_change_nothing() -> None:
    desk = lively()
    before = ([*desk.log()], {customer: desk.state(customer) for customer in ("c0", "c1", "c2")})
    entry = next(entry for entry in desk.log() if isinstance(entry, DecisionEntry))
    first, again = explain(desk, entry.decision_id, "alert"), explain(desk, entry.decision_id, "alert")
    assert msgspec.json.encode(first) == msgspec.json.encode(again)
    assert ([*desk.log()], {customer: desk.state(customer) for customer in ("c0", "c1", "c2")}) == before


def test_the_past_is_read_backwards_only_of_the_customer_and_only_so_far() -> None:
    desk = Desk()
    others = [f"o{n}" for n in range(60) if partition_of(f"o{n}", PARTITIONS) == partition_of("anna", PARTITIONS)][:5]
    for number in range(40):
        desk.record("page_view", customer_id="anna" if number % 4 == 0 else others[number % 5])
        desk.pass_time(DAY_MS // 8)
    located = run(locate_decision(desk.store, desk.decide().decision_id, PARTITIONS))
    desk.record("page_view", customer_id="anna")
    past = run(read_past(desk.store, located, 1000))
    mine = [entry for entry in desk.log() if entry.customer_id == "anna"]
    assert past.entries == mine[:-2], "all before the decision, not the decision, nothing after it"
    assert not past.cut
    assert past.read <= 42
    short = run(read_past(desk.store, located, most=15))
    assert short.cut
    assert short.read <= 16
    assert short.entries == mine[:-2][len(mine[:-2]) - len(short.entries) :], "the latest, without a gap"


def test_a_log_that_is_too_long_is_named() -> None:
    desk = Desk()
    for _ in range(8):
        desk.record("page_view", customer_id="anna")
        desk.pass_time(DAY_MS)
    decision_id = desk.decide().decision_id
    assert explain(desk, decision_id, "alert").doubt == ""
    found = run(explainer(desk, most=5).explain(decision_id, "alert"))
    assert (found.doubt, found.values_from) == ("log_too_long", "record")
    assert found.entries_read <= 6
    assert found.why_not is not None
    assert found.why_not.conditions[0].saw == {"customer.age": 40.0}, "what x tells"
    assert found.why_not.smallest is None
    assert any("told from the record alone" in words for words in found.told)


def test_ids_that_are_none_and_actions_that_are_unknown() -> None:
    desk = Desk()
    reply = desk.decide()
    with pytest.raises(Invalid):
        explain(desk, "anna")
    with pytest.raises(Unknown):
        explain(desk, new_decision_id(0, NOW_MS))
    with pytest.raises(Unknown, match="Did you mean `alert`"):
        explain(desk, reply.decision_id, "alrt")


def test_an_erased_customer_is_told_of_without_what_was_personal() -> None:
    desk = Desk()
    run(desk.events.change_profile("anna", {"age": 71.0, "tier": "gold"}))
    before = desk.decide().decision_id
    erasures = ErasureService(desk.store, lambda: desk.plan, desk.clock, partitions=PARTITIONS)
    run(erasures.erase("anna", "test"))
    desk.pass_time(1000)
    for new_life in (False, True):
        if new_life:
            after = desk.decide().decision_id
            assert explain(desk, after, "alert").doubt == ""
        found = explain(desk, before, "gold_card")
        assert (found.doubt, found.contributions, found.relationship) == ("erased", (), {})
        assert found.why_not is not None
        assert found.why_not.conditions[0].saw == {}
        assert found.why_not.conditions[0].unknown == ("customer.tier",)
        assert explain(desk, before).doubt == "erased"


def test_a_decision_of_a_release_that_cannot_be_read_is_told_from_its_record() -> None:
    desk = Desk()
    decision_id = desk.decide().decision_id
    gone = explainer(desk)

    async def plan_of(number: int) -> Plan:
        raise NotReady(f"release {number}")

    gone._plan_of = plan_of
    found = run(gone.explain(decision_id))
    assert found.worth
    assert found.contributions == ()
    with pytest.raises(Unknown, match="cannot be read any more"):
        run(gone.explain(decision_id, "alert"))


def test_rules_that_do_not_answer_as_on_record_are_not_believed() -> None:
    desk = Desk()
    decision_id = desk.decide().decision_id
    other = small_plan(CATALOG.replace("customer.tier != 'gold'", "customer.tier != 'basic'"))
    found = explain(desk, decision_id, "alert", other)
    assert (found.doubt, found.values_from) == ("rules_differ", "record")


def test_a_degraded_decision_is_told_as_what_it_is() -> None:
    desk = Desk()
    request = DecideRequest(customer_id="anna", placement="hero")
    decision_id = new_decision_id(partition_of("anna", PARTITIONS), NOW_MS)
    spot = desk.plan.placements["hero"]
    entry = degraded_entry(desk.plan, spot, request, decision_id, NOW_MS, "state_unavailable", "test")
    run(desk.decisions.log_degraded(entry))
    found = explain(desk, decision_id, "alert")
    assert (found.doubt, found.slots[0].how, found.slots[0].action) == ("degraded", "default", "tips")
    assert found.why_not is not None
    assert found.why_not.standing == "not_asked"
    assert found.worth == ()
    assert explain(desk, decision_id).told[0].startswith("slot 0: tips. Nothing could be looked up in time.")


@pytest.mark.parametrize(("kind", "how"), [("silent", "held_out"), ("random", "chance")])
def test_held_out_customers(kind: str, how: str) -> None:
    plan = small_plan()
    held = Plan(replace(plan.catalog, holdout=Holdout(**{kind: 0.5})), 1)
    state = CustomerState(holdout=kind)
    entry = recorded(held, prior_model(held), state, "hero")
    known = Known(entry, held, prior_model(held), Customer(state, ""))
    found = finished(explained(known, "travel_card" if kind == "silent" else ""))
    assert found.slots[0].how == how
    assert "held out" in found.told[0]
    if found.why_not is not None:
        assert (found.why_not.reason, found.why_not.smallest.changes) == ("holdout", ())  # type: ignore[union-attr]


def test_mandatory_actions_are_told_apart() -> None:
    plan = small_plan(CATALOG.replace('    eligible: "customer.age > 70.0"\n', ""))
    entry = recorded(plan, prior_model(plan), CustomerState(), "hero", slots=3)
    found = finished(explained(Known(entry, plan, prior_model(plan), Customer(None, "not_needed"))))
    assert found.slots[0].how == "mandatory"
    assert found.told[0].startswith("slot 0: alert. Everybody concerned has to get it")
    assert all(slot.how in ("best", "explored", "no_candidate") for slot in found.slots[1:])


def test_a_record_of_an_older_build_lacks_fields_and_is_explained_all_the_same() -> None:
    plan = small_plan()
    entry = recorded(plan, prior_model(plan), CustomerState(), "hero")
    fields: list[Any] = msgspec.msgpack.decode(encode_entry(entry))
    old = decode_entry(msgspec.msgpack.encode(fields[: 1 + DecisionEntry.__struct_fields__.index("took_us") + 1]))
    assert isinstance(old, DecisionEntry)
    assert old.channel == ""
    for state in (None, CustomerState()):
        known = Known(old, plan, prior_model(plan), Customer(state, "" if state else "log_incomplete"))
        found = finished(explained(known, "alert"))
        assert found.why_not is not None
        assert found.why_not.conditions[0].saw == {"customer.age": 40.0}


def test_only_so_many_wait() -> None:
    desk = Desk()
    decision_id = desk.decide().decision_id

    async def crowd() -> list[Any]:
        one = explainer(desk)
        calls = [one.explain(decision_id, "alert") for _ in range(explaining.WAITING + 5)]
        return await asyncio.gather(*calls, return_exceptions=True)

    found = run(crowd())
    refused = [each for each in found if isinstance(each, Unavailable)]
    assert len(refused) == 5
    assert {each.code for each in refused} == {"explain_busy"}
    assert sum(isinstance(each, Explained) for each in found) == explaining.WAITING
