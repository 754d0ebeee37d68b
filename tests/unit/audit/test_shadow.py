"""Shadow runs: a draft against the release in force, by hand, by a naive twin and by a world whose truth is known."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from functools import cache
from io import StringIO
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec import structs
from rich.console import Console

from nbx.audit.shadow import ShadowQuestion, shadow
from nbx.audit.shadow_report import Part, ShadowReport, Shift
from nbx.audit.shadow_tally import _support
from nbx.audit.tables import show_shadow
from nbx.bandits.ope import Estimate
from nbx.catalog.model import Budget, Holdout
from nbx.catalog.plan import Plan
from nbx.decision.again import asked_again, purse_of
from nbx.decision.choice import decide
from nbx.decision.messages import DecideRequest
from nbx.decision.warm_up import warm_up
from nbx.errors import Invalid, Unknown
from nbx.experience.entries import DecisionEntry, Event, Removed
from nbx.experience.erasure import ErasureService
from nbx.features.schema import Encoding, Feature
from nbx.features.state import CustomerState
from tests.unit.audit.worlds import HOUR_MS, busy_desk
from tests.worlds import CATALOG, DAY_MS, PARTITIONS, Desk, prior_model, run, small_plan

DECISIONS = 120
CUSTOMERS = DECISIONS // 2 + 1


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    warm_up()  # a decision that waits for the compiler would be late, and degraded


def draft(text: str = CATALOG, **more: Any) -> Plan:
    """Return the small catalog with a change, as a draft."""
    catalog = small_plan(text).catalog
    return Plan(structs.replace(catalog, **more), 0)


def run_shadow(desk: Desk, plan: Plan, **question: Any) -> ShadowReport:
    asked = ShadowQuestion(now_ms=desk.clock.now_ms(), **question)
    return run(shadow(desk.store, PARTITIONS, desk.plan_of, plan, desk.plan, asked))


def over(plan: Plan, **question: Any) -> ShadowReport:
    return run_shadow(busy_desk(DECISIONS, slots=2), plan, **question)


def decisions(desk: Desk) -> list[DecisionEntry]:
    return [entry for entry in desk.log() if isinstance(entry, DecisionEntry)]


def shift(shifts: tuple[Shift, ...], name: str) -> Shift:
    (found,) = [each for each in shifts if each.name == name]
    return found


def part(parts: tuple[Part, ...], by: str, value: str) -> Part:
    (found,) = [each for each in parts if (each.by, each.value) == (by, value)]
    return found


def reasons(report: ShadowReport) -> dict[tuple[str, str], tuple[int, int]]:
    return {(each.action, each.reason): (each.before, each.after) for each in report.reasons}


NO_GOLD = CATALOG.replace("tier != 'gold'", "tier == 'gold'")


def test_a_draft_that_says_the_same_changes_nothing() -> None:
    report = over(draft())
    assert report.whole.decisions == report.judged == DECISIONS
    assert report.whole.customers == CUSTOMERS
    assert (report.left_out, report.not_judged, report.unsupported) == ((), {}, 0.0)
    assert report.whole.changed == 0
    for told in (report.whole.actions, report.groups, report.placements, report.segments, report.reasons):
        assert told == ()
    for each in report.rewards:
        assert each.model_before == each.model_after
        assert each.before == each.after
        assert [(e.value, e.low, e.high) for e in each.difference] == [(0.0, 0.0, 0.0)] * 2
        assert each.before[0].value == each.logged.value, "the release that decided, with the model that decided"


def test_the_same_question_gets_the_same_answer_and_leaves_no_trace() -> None:
    desk = busy_desk(DECISIONS, slots=2)
    held = deepcopy((desk.store._values, desk.store._timers, desk.store._logs))
    answers = [msgspec.json.encode(over(draft(NO_GOLD), by=("tier", "age"))) for _ in range(2)]
    assert answers[0] == answers[1]
    assert held == (desk.store._values, desk.store._timers, desk.store._logs)


def test_an_action_that_the_draft_withholds_is_counted_out() -> None:
    report = over(draft(NO_GOLD))
    logged = decisions(busy_desk(DECISIONS, slots=2))
    gold = shift(report.whole.actions, "gold_card")
    assert (gold.after, gold.drawn_after) == (0.0, 0)
    assert gold.drawn_before == sum(slot.action == "gold_card" for entry in logged for slot in entry.slots)
    table = [np.frombuffer(entry.factors, np.float32).reshape(len(entry.actions), -1)[:, -2] for entry in logged]
    expected = sum(
        float(p[entry.actions.index("gold_card")])
        for entry, p in zip(logged, table, strict=True)
        if "gold_card" in entry.actions
    )
    assert gold.before == pytest.approx(expected / DECISIONS, abs=1e-6)
    assert shift(report.groups, "cards").before == pytest.approx(
        sum(each.before for each in report.whole.actions if each.name.endswith("_card")), abs=1e-9
    )
    assert sum(each.after - each.before for each in report.whole.actions) == pytest.approx(0.0, abs=1e-9)
    assert reasons(report)["gold_card", "not_eligible"] == (0, DECISIONS)
    assert reasons(report)["gold_card", "paused"][1] == 0
    assert part(report.placements, "placement", "hero").changed == report.whole.changed > 0
    assert part(report.segments, "tier", "basic").decisions == DECISIONS


def test_a_naive_twin_changes_the_same_slots() -> None:
    desk = Desk()
    for number in range(20):
        desk.decide(f"c{number}", slots=3)
    dear = draft(CATALOG.replace("value: 20", "value: 200"))
    report = run_shadow(desk, dear)
    changed, nobody = 0, CustomerState()
    drawn: Counter[str] = Counter()
    for entry in decisions(desk):
        request = DecideRequest(customer_id=entry.customer_id, placement="hero", slots=3)
        choice = decide(
            dear, prior_model(dear), nobody, request, entry.decision_id, entry.at_ms, salt=entry.policy.salt
        )
        names = [choice.placement.names[choice.positions[i]] if i >= 0 else "" for i in choice.slate.chosen]
        changed += names[0] != entry.slots[0].action
        drawn.update(names)
    assert report.whole.changed == changed > 0
    assert {each.name: each.drawn_after for each in report.whole.actions} == {
        each.name: drawn[each.name] for each in report.whole.actions
    }


def test_actions_that_come_and_go_are_told() -> None:
    catalog = small_plan().catalog
    left = tuple(a for a in catalog.actions if a.name != "pay_card")
    new = structs.replace(left[1], name="new_card", value=500.0, limits=())
    report = over(draft(actions=(*left, new)))
    assert reasons(report)["pay_card", "not_offered"] == (0, DECISIONS)
    assert reasons(report)["new_card", "not_offered"] == (DECISIONS, 0)
    assert shift(report.whole.actions, "new_card").before == 0.0
    assert shift(report.whole.actions, "new_card").after > 0.3
    assert 0.3 < report.unsupported < 1.0
    assert not report.reliable
    assert any("could not draw" in reason for reason in report.rewards[0].support.reasons)


def test_what_only_the_model_speaks_for_is_not_reliable() -> None:
    reward = np.tile([0.0, 1.0], 200)
    assert _support(np.ones(400), reward, unsupported=0.0).reliable
    told = _support(np.ones(400), reward, unsupported=0.02)
    assert not told.reliable
    assert told.reasons == ("the log could not draw 2.0% of the draft's choices: for these only the model speaks",)


def test_a_mandatory_action_is_shown_for_certain_and_another_treatment_is_a_change() -> None:
    desk = Desk()
    for number in range(5):
        run(desk.events.change_profile(f"c{number}", {"age": 80.0}))
        desk.decide(f"c{number}")
    report = run_shadow(desk, draft(CATALOG.replace("customer.age > 70.0", "customer.age > 90.0")))
    alert = shift(report.whole.actions, "alert")
    assert (alert.before, alert.after, alert.drawn_before, alert.drawn_after) == (1.0, 0.0, 5, 0)
    assert report.not_judged == {"mandatory": 5}
    report = run_shadow(
        desk,
        draft(
            CATALOG.replace(
                "{t: {placements: [hero], content: {headline: Alert",
                "{u: {placements: [hero], content: {headline: Alert",
            )
        ),
    )
    assert (report.whole.changed, report.whole.actions) == (5, ())


def test_whoever_gets_nothing_is_counted_by_decisions_and_customers() -> None:
    actions = tuple(structs.replace(action, eligible="customer.age < 0.0") for action in small_plan().catalog.actions)
    report = over(draft(actions=actions))
    assert (report.whole.nothing_before, report.whole.nothing_after) == (0, DECISIONS)
    assert (report.whole.customers_nothing_before, report.whole.customers_nothing_after) == (0, CUSTOMERS)
    silent = part(report.segments, "tier", "basic")
    assert (silent.nothing_before, silent.nothing_after) == (0, DECISIONS)
    assert shift(report.whole.actions, "").after == 1.0


def test_a_cap_that_only_the_draft_has_counts_what_was_shown_before() -> None:
    desk = Desk()
    for number in range(60):
        reply = desk.decide(f"c{number % 20}")
        desk.record("seen", decision_id=reply.decision_id) if reply.slots[0].action else None
        desk.pass_time(4 * HOUR_MS)  # whoever comes again does so after three days: nothing else is in the way
    seen: set[str] = set()
    expected = 0
    for entry in decisions(desk):
        assert "gold_card" in entry.actions
        expected += entry.customer_id in seen
        seen |= {entry.customer_id} if entry.slots[0].action == "gold_card" else set()
    capped = draft(CATALOG.replace("    value: 60\n", "    value: 60\n    limits: [{max: 1, per: 30d}]\n"))
    assert reasons(run_shadow(desk, capped))["gold_card", "limit_reached"] == (0, expected)
    assert expected > 5


def test_reservations_count_for_a_cap_that_only_the_draft_has() -> None:
    desk = Desk()
    only_tips = ("gold_card", "travel_card", "pay_card")
    while not desk.decide("c", exclude=only_tips).slots[0].action:
        desk.clock.advance(1)
    desk.decide("c", exclude=only_tips)
    capped = draft(CATALOG.replace("class: service\n", "class: service\n    limits: [{max: 1, per: 30d}]\n"))
    assert reasons(run_shadow(desk, capped))["tips", "limit_reached"] == (0, 1)


def test_exposures_count_for_as_long_as_the_draft_wants() -> None:
    desk = Desk()
    for _ in range(2):
        while not (reply := desk.decide("c", exclude=("gold_card", "travel_card", "pay_card"))).slots[0].action:
            desk.pass_time(1)
        desk.record("seen", decision_id=reply.decision_id)
        desk.pass_time(40 * DAY_MS)
    desk.decide("c")
    capped = draft(CATALOG.replace("class: service\n", "class: service\n    limits: [{max: 2, per: 90d}]\n"))
    assert reasons(run_shadow(desk, capped))["tips", "limit_reached"] == (0, 1)


def test_the_latest_decisions_are_replayed_and_only_of_the_placement() -> None:
    desk = Desk()
    ids = []
    for number in range(12):
        ids.append(desk.decide(f"c{number}", ("hero", "desk")[number % 2]).decision_id)
        desk.pass_time(20 * HOUR_MS)
    report = run_shadow(desk, draft(NO_GOLD), last=3)
    times = sorted(entry.at_ms for entry in decisions(desk))
    assert (report.whole.decisions, report.since_ms, report.until_ms) == (3, times[-3], times[-1])
    report = run_shadow(desk, draft(NO_GOLD), last=4, placement="desk")
    assert (report.whole.decisions, report.since_ms, report.placement) == (4, times[-7], "desk")
    assert {each.value for each in report.placements} == {"desk"}


def test_what_cannot_be_replayed_is_left_out_by_name() -> None:
    desk = Desk()
    kept, gone, cut = (desk.decide(name).decision_id for name in ("kept", "gone", "cut"))
    lost = desk.decide("cut").decision_id
    elsewhere = desk.decide("kept", "desk").decision_id
    run(ErasureService(desk.store, lambda: desk.plan, desk.clock, partitions=PARTITIONS).erase("gone"))
    for log in desk.store._logs.values():
        log[:] = [row for row in log if cut.encode() not in row[1]]
    desk.clock.advance(1000)
    nowhere = draft(CATALOG.replace("  desk: {", "  kiosk: {").replace("hero, desk", "hero, kiosk"))
    report = run_shadow(desk, nowhere)
    found = {each.why: each.examples for each in report.left_out}
    assert found["erased"] == (gone,)
    assert found["log_incomplete"] == (lost,)
    assert found["placement"] == (elsewhere,)
    assert (report.whole.decisions, kept not in msgspec.json.encode(report.left_out).decode()) == (1, True)


def test_degraded_decisions_are_not_replayed_and_held_out_ones_not_judged() -> None:
    desk = Desk(Plan(structs.replace(small_plan().catalog, holdout=Holdout(random=0.5)), 1))
    for number in range(20):
        desk.decide(f"c{number}")
    held_out = sum(bool(entry.holdout) for entry in decisions(desk))
    desk.store.failing_reads = 1
    desk.decide("late")
    run(desk.decisions.log_degraded(desk.decisions.degraded.popleft()))
    desk.clock.advance(DAY_MS)
    report = run_shadow(desk, Plan(desk.plan.catalog, 0))
    assert report.whole.decisions == 20
    assert 0 < report.not_judged["holdout"] == held_out < 20


def test_a_request_is_asked_as_far_as_the_draft_takes_it() -> None:
    entry = decisions(busy_desk(DECISIONS, slots=2))[0]
    asked = structs.replace(entry.request, context={"is_mobile": True, "unknown": 1.0}, exclude=("tips",))
    narrow = draft(CATALOG.replace("slots: 3, ", "slots: 1, "))
    request = asked_again(structs.replace(entry, request=asked), narrow)
    assert (request.slots, request.exclude, request.context["is_mobile"]) == (1, ("tips",), True)
    features = tuple(
        Feature(name="is_mobile", type="number", encoding=Encoding(kind="none"), default=0.0, origin="context")
        if feature.name == "is_mobile"
        else feature
        for feature in small_plan().catalog.features
    )
    assert "is_mobile" not in asked_again(structs.replace(entry, request=asked), draft(features=features)).context


def test_a_budget_is_spent_as_far_as_the_record_says() -> None:
    gifts = Budget(name="gifts", groups=("cards",), units=9, money=50.0, per_ms=DAY_MS)
    actions = tuple(
        structs.replace(a, cost=2.0 if a.name == "gold_card" else 1.0) for a in small_plan().catalog.actions
    )
    plan = draft(budgets=(gifts,), actions=actions)
    entry = decisions(busy_desk(DECISIONS, slots=2))[0]
    spent = Removed("gold_card", "budget_spent", "gifts/money: not enough is left until later")
    found = purse_of(structs.replace(entry, removed=(spent, Removed("tips", "paused", ""))), plan)
    assert found == {"gifts/money": 19_999}, "enough for the others"
    request = DecideRequest(customer_id="c", placement="hero")
    choice = decide(plan, prior_model(plan), CustomerState(), request, "0" * 26, entry.at_ms, salt="", purse=found)
    assert [each.action for each in choice.removed if each.reason == "budget_spent"] == ["gold_card"]


def test_segments_are_values_and_quartiles_of_what_is_asked_for() -> None:
    desk = Desk()
    for number in range(24):
        run(desk.events.change_profile(f"c{number}", {"age": 20.0 + number, "tier": ("basic", "gold")[number % 2]}))
        desk.decide(f"c{number}", context={"is_mobile": number < 6})
    report = run_shadow(desk, draft(CATALOG.replace("value: 20", "value: 200")), by=("age", "is_mobile", "tier"))
    ages = {each.value: each.decisions for each in report.segments if each.by == "age"}
    assert ages == {"<= 25.75": 6, "25.75 to 31.5": 6, "31.5 to 37.25": 6, "> 37.25": 6}
    mobile = part(report.segments, "is_mobile", "true")
    assert (mobile.decisions, mobile.customers) == (6, 6)
    gold = part(report.segments, "tier", "gold")
    assert gold.decisions == 12
    assert not [each for each in gold.actions if each.name == "gold_card"], "not theirs before or after"
    assert shift(gold.actions, "pay_card").after > shift(gold.actions, "pay_card").before


def test_what_is_asked_wrongly_is_refused() -> None:
    for question in ({"last": 0}, {"last": 20_001}):
        with pytest.raises(Invalid, match="last is") as refused:
            over(draft(), **question)
        assert refused.value.field == "last"
    with pytest.raises(Unknown, match="no placement 'nowhere'"):
        over(draft(), placement="nowhere")
    with pytest.raises(Unknown, match=r"no feature 'shoe'.*age") as unknown:
        over(draft(), by=("shoe",))
    assert unknown.value.field == "by"


def test_nothing_logged_is_nothing_told() -> None:
    report = run_shadow(Desk(), draft())
    assert (report.whole.decisions, report.judged, report.rewards, report.reliable) == (0, 0, (), False)
    assert "no decision is judged" in text_of(report)


def text_of(report: ShadowReport) -> str:
    screen = StringIO()
    Console(file=screen, width=100).print(show_shadow(report))
    return screen.getvalue()


def test_people_can_read_it_within_a_hundred_columns() -> None:
    told = text_of(over(draft(NO_GOLD)))
    for words in ("gold_card", "not_eligible", "tier", "experience", "draft minus release", "NOT RELIABLE", "limit:"):
        assert words in told
    assert max(len(line) for line in told.splitlines()) <= 100


# A world whose truth is known

ACCEPTS = {
    "gold_card": (0.2, 0.1),
    "travel_card": (0.7, 0.5),
    "pay_card": (0.3, 0.3),
    "tips": (0.1, 0.2),
    "": (0.0, 0.0),
}
"""Chance of an acceptance, by whether the customer is mobile."""
DEARER = CATALOG.replace("value: 40", "value: 50").replace("value: 60", "value: 45")


@cache
def known_world(customers: int, seed: int) -> Desk:
    """Decide once for each customer; who is shown something sees it, and accepts with the chances of `ACCEPTS`."""
    desk, rng = Desk(), np.random.default_rng(seed)

    async def live() -> None:
        for number in range(customers):
            mobile = bool(rng.random() < 0.4)
            request = DecideRequest(customer_id=f"c{seed}-{number}", placement="hero", context={"is_mobile": mobile})
            reply = await desk.decisions.decide(request)
            kinds = ["seen"]
            if rng.random() < ACCEPTS[reply.slots[0].action][1 - mobile]:
                kinds.append("accepted")
            if reply.slots[0].action:
                events = [Event(event_id=f"{seed}-{number}-{k}", type=k, decision_id=reply.decision_id) for k in kinds]
                await desk.events.record(events)

    run(live())
    desk.pass_time(2 * HOUR_MS)
    return desk


def truth(desk: Desk, plan: Plan) -> float:
    """Return what a release's acceptance is in the known world, for the customers who came."""
    chances = []
    for mobile in (True, False):
        request = DecideRequest(customer_id="c", placement="hero", context={"is_mobile": mobile})
        now_ms = desk.clock.now_ms()
        choice = decide(plan, prior_model(plan), CustomerState(), request, "0" * 26, now_ms, salt="")
        names = [*(choice.placement.names[position] for position in choice.positions), ""]
        accepted = [ACCEPTS[name][1 - mobile] for name in names]
        chances.append(float(choice.slate.probability @ np.array(accepted)))
    came = np.mean([entry.request.context["is_mobile"] for entry in decisions(desk)])
    return float(chances[0] * came + chances[1] * (1 - came))


def holds(estimate: Estimate, value: float) -> bool:
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.low <= value <= estimate.high


def test_estimates_hold_the_true_effect_of_the_draft() -> None:
    desk = known_world(450, 11)
    dearer = draft(DEARER)
    before, after = truth(desk, desk.plan), truth(desk, dearer)
    report = run_shadow(desk, dearer)
    acceptance = report.rewards[0]
    assert report.judged == 450
    assert report.reliable
    assert after - before > 0.1
    for each in acceptance.after:
        assert holds(each, after), each
        assert not holds(each, before), each
    assert all(holds(each, before) for each in acceptance.before)
    for each in acceptance.difference:
        assert holds(each, after - before)
        assert each.low is not None
        assert each.low > 0.0
    value = report.rewards[1]
    assert value.logged.value is not None
    assert acceptance.model_after == pytest.approx(0.5, abs=0.01), "the prior believes in one half"
