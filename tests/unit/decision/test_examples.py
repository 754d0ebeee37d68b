"""Examples in a catalog: every thing that may be given reaches the decision, and every demand can fail."""

from __future__ import annotations

import time
from typing import Any

import pytest
from msgspec import structs

from nbx.catalog.model import (
    Action,
    Budget,
    Catalog,
    Concern,
    ConsentPolicy,
    ContactPolicy,
    ContactRule,
    Example,
    Expect,
    Given,
    Group,
    Holdout,
    Journey,
    JourneyStep,
    Limit,
    Placement,
    QuietHours,
    Treatment,
)
from nbx.catalog.plan import Plan
from nbx.decision.examples import ExampleResult, given_state, run_examples
from nbx.experience.relationship import relationship_features
from nbx.features.schema import Aggregate, Encoding, Feature
from tests.worlds import DAY_MS, NOW_MS, small_plan

HOUR_MS = 3_600_000
NOON_MS = NOW_MS // DAY_MS * DAY_MS + 12 * HOUR_MS


def bank(**more: Any) -> Catalog:
    """Return the small catalog with something added."""
    return structs.replace(small_plan().catalog, **more)


def ask(catalog: Catalog, expect: Expect, placement: str = "hero", **given: Any) -> ExampleResult:
    """Run one example."""
    told = Given(placement=placement, **{"at_ms": NOON_MS, **given})
    example = Example(name="it", given=told, expect=expect)
    (result,) = run_examples(Plan(structs.replace(catalog, examples=(example,)), 1))
    assert result.name == "it"
    assert result.passed == (not result.words)
    return result


def words(catalog: Catalog, expect: Expect, placement: str = "hero", **given: Any) -> str:
    return "; ".join(ask(catalog, expect, placement, **given).words)


def needs(condition: str, **more: Any) -> Catalog:
    """Return the small catalog in which tips need a condition."""
    catalog = bank(**more)
    actions = tuple(structs.replace(a, eligible=condition) if a.name == "tips" else a for a in catalog.actions)
    return structs.replace(catalog, actions=actions)


TIPS = Expect(allowed=("tips",))
NO_TIPS = Expect(blocked={"tips": "not_eligible"})


def holds(condition: str, *, holds: bool = True, features: tuple[Feature, ...] = (), **given: Any) -> bool:
    """Whether tips are allowed, or else blocked by a condition."""
    catalog = needs(condition, features=(*bank().features, *features))
    return ask(catalog, TIPS if holds else NO_TIPS, **given).passed


def test_what_is_told_of_a_customer_and_a_request_reaches_the_conditions() -> None:
    assert holds("customer.tier == 'gold'", customer={"tier": "gold"})
    assert holds("customer.tier == 'gold'", holds=False)
    assert holds("customer.age == 33.0", customer={"age": 33}), "a whole number is a number"
    assert holds("request.is_mobile", request={"is_mobile": True})
    assert holds("relationship.balance == -3.0", relationship={"balance": -3})
    assert holds("relationship.ignored_30d == 4.0", relationship={"ignored_30d": 4.0})
    assert holds("relationship.minutes_since_prompt == 90.0", relationship={"minutes_since_prompt": 90})
    assert holds("relationship.minutes_since_prompt == 10080.0"), "nobody was ever prompted"


@pytest.mark.parametrize("strain", [0.01, 0.5, 0.9])
def test_a_strain_is_that_of_some_balance(strain: float) -> None:
    plan = small_plan()
    state = given_state(plan, Given(placement="hero", relationship={"strain": strain}, at_ms=NOON_MS))
    found = relationship_features(state, NOON_MS, plan.rules.experience)
    assert found["strain"] == pytest.approx(strain, abs=1e-12)


AGGREGATES = {
    "count": Aggregate(event="e", kind="count", window_ms=DAY_MS),
    "sum": Aggregate(event="e", kind="sum", property="p", window_ms=7 * DAY_MS),
    "last": Aggregate(event="e", kind="last", property="p"),
    "time_since": Aggregate(event="e", kind="time_since"),
    "decayed_mean": Aggregate(event="e", kind="decayed_mean", property="p", half_life_ms=DAY_MS),
}


@pytest.mark.parametrize("kind", AGGREGATES)
@pytest.mark.parametrize("value", [2.5, 0.0, 30.0])
def test_an_aggregate_has_the_value_that_is_told(kind: str, value: float) -> None:
    feature = Feature(name="it", type="number", encoding=Encoding(kind="none"), default=-1.0, origin=AGGREGATES[kind])
    assert holds(f"customer.it == {value}", features=(feature,), customer={"it": value})
    assert holds(f"customer.it == {value}", holds=False, features=(feature,), customer={"it": value + 1})


STEPS = (
    JourneyStep(name="opened", event="account_opened"),
    JourneyStep(name="funded", event="deposit", after=("opened",)),
    JourneyStep(name="active", event="pay", after=("funded",)),
    JourneyStep(name="lost", event="close", after=("nowhere",)),
)


def test_a_customer_is_in_the_step_and_has_the_concern_that_are_told() -> None:
    more = {
        "journeys": (Journey(name="start", steps=STEPS),),
        "concerns": (Concern(name="payment", opens=("payment_failed",)),),
    }
    for step in ("", "opened", "funded", "active"):
        catalog = needs(f"journey.start == '{step}'", **more)
        assert ask(catalog, TIPS, journey={"start": step} if step else {}).passed, step
        assert not ask(catalog, TIPS, journey={"start": "opened" if step != "opened" else "funded"}).passed
    assert "no way leads there" in words(catalog, TIPS, journey={"start": "lost"})
    catalog = needs("concern.payment", **more)
    assert ask(catalog, TIPS, concern={"payment": True}).passed
    assert ask(catalog, NO_TIPS, concern={"payment": False}).passed
    assert ask(catalog, NO_TIPS).passed


def test_contacts_pauses_consent_and_budgets_hold_back_what_they_should() -> None:
    overall = ContactRule(limits=(Limit(max=2, per_ms=DAY_MS),), gap_ms=HOUR_MS)
    contact = ContactPolicy(overall=overall, quiet_hours=(QuietHours(from_minute=0, to_minute=60),))
    catalog = bank(
        contact=contact,
        consent=ConsentPolicy(channels={"phone": "opt_in"}),
        budgets=(Budget(name="gifts", actions=("pay_card",), units=10, per_ms=DAY_MS),),
    )
    seen = {"tips": (2 * HOUR_MS,), "pay_card": (3 * HOUR_MS,)}
    held: dict[str, dict[str, Any]] = {
        "limit_reached": {"seen": seen},
        "too_soon": {"seen": {"tips": (HOUR_MS // 2,)}},
        "quiet_hours": {"at_ms": NOON_MS - 12 * HOUR_MS},
        "no_consent": {"consent": {"contact:web": False}},
    }
    for reason, given in held.items():
        assert ask(catalog, Expect(blocked={"tips": reason, "gold_card": reason}), **given).passed, reason
    assert ask(catalog, Expect(allowed=("tips",)), seen={"tips": (2 * HOUR_MS,)}).passed
    assert ask(catalog, Expect(blocked={"tips": "no_consent"}), "desk").passed
    assert ask(catalog, Expect(allowed=("tips",)), "desk", consent={"contact:phone": True}).passed
    assert ask(catalog, Expect(blocked={"tips": "paused"}, allowed=("gold_card",)), paused=("tips",)).passed
    spent = Expect(blocked={"pay_card": "budget_spent"}, allowed=("gold_card",))
    assert ask(catalog, spent, spent=("gifts",)).passed
    assert not ask(catalog, spent).passed


def test_nobody_is_held_out_unless_told() -> None:
    catalog = bank(holdout=Holdout(silent=0.9, random=0.05))
    assert ask(catalog, Expect(allowed=("tips",))).passed
    assert ask(catalog, Expect(silent=True), holdout="silent").passed
    assert "its share is 0" in words(bank(), Expect(silent=True), holdout="silent")
    assert "every customer is in a holdout" in words(bank(holdout=Holdout(silent=1.0)), TIPS)


def test_words_tell_what_was_expected_and_what_came() -> None:
    catalog = bank()
    gold: dict[str, Any] = {"customer": {"tier": "gold"}}
    assert words(catalog, Expect(allowed=("gold_card",)), **gold) == (
        "gold_card: expected to be allowed; it is blocked by not_eligible: customer.tier != 'gold'"
    )
    assert words(catalog, Expect(blocked={"gold_card": "paused"}), **gold) == (
        "gold_card: expected to be blocked by paused; it is blocked by not_eligible: customer.tier != 'gold'"
    )
    assert ask(catalog, Expect(blocked={"gold_card": ""}), **gold).passed, "any reason will do"
    assert words(catalog, Expect(blocked={"tips": ""})) == "tips: expected to be blocked; it is allowed"
    nowhere = "pay_card: expected to be {}; it has no treatment for desk"
    assert words(catalog, Expect(allowed=("pay_card",)), "desk") == nowhere.format("allowed")
    assert words(catalog, Expect(blocked={"pay_card": ""}), "desk") == nowhere.format("blocked")
    assert words(catalog, Expect(ranked=(("pay_card", "tips"),)), "desk") == nowhere.format("ranked")
    assert words(catalog, Expect(silent=True), relationship={"balance": -20}) == "expected silence; allowed: tips"
    both = words(catalog, TIPS, relationship={"balance": 0, "strain": 0.5})
    assert "strain follows from balance" in both
    assert words(catalog, TIPS, "nowhere") == "given: there is no placement nowhere; it has hero, desk"


def test_ranks_are_those_of_expected_utility() -> None:
    catalog = bank()
    assert ask(catalog, Expect(ranked=(("gold_card", "travel_card", "pay_card"), ("gold_card", "tips")))).passed
    assert words(catalog, Expect(ranked=(("pay_card", "gold_card", "travel_card"),))) == (
        "pay_card: expected to be worth more than gold_card; it is worth 10, gold_card 30"
    )
    equal = structs.replace(catalog, actions=tuple(structs.replace(a, value=5.0) for a in catalog.actions))
    assert not ask(equal, Expect(ranked=(("pay_card", "gold_card"),))).passed, "worth the same is not worth more"


def test_fifty_examples_of_five_hundred_actions_are_run_at_once() -> None:
    condition = "customer.tier == 'gold'"
    groups = tuple(Group(name=f"g{i}", limits=(Limit(max=3, per_ms=DAY_MS),)) for i in range(20))
    actions = tuple(
        Action(
            name=f"a{i}",
            group=f"g{i % 20}",
            value=float(i),
            eligible=condition if i % 3 == 0 else "",
            treatments=(Treatment(name="t", placements=("hero",)),),
        )
        for i in range(500)
    )
    features = (*small_plan().catalog.features[1:2],)
    hero = Placement(name="hero", channel="web", impressions="reported")
    catalog = Catalog(name="large", features=features, groups=groups, actions=actions, placements=(hero,))
    expect = Expect(blocked={"a3": "not_eligible", "a4": "paused"}, allowed=("a1",), ranked=(("a499", "a1"),))
    examples = tuple(
        Example(name=f"e{i}", given=Given(placement="hero", seen={"a1": (i,)}, paused=("a4",)), expect=expect)
        for i in range(50)
    )
    plan = Plan(structs.replace(catalog, examples=examples), 1)
    run_examples(Plan(structs.replace(catalog, examples=examples[:1]), 1))
    before = time.process_time()
    results = run_examples(plan)
    took_s = time.process_time() - before
    assert [result.words for result in results if not result.passed] == []
    assert took_s < 0.4, f"{took_s:.3f} s of CPU"
