"""Without consent to personalise the decision is the same whoever the customer is; held out, it is nothing or chance.

The first is metamorphic: two customers who agree in what may be used, and in nothing else, get the same record, bit for
bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from nbx.catalog.model import Holdout
from nbx.catalog.plan import Plan
from nbx.decision.choice import Choice, decide
from nbx.decision.messages import DecideRequest
from nbx.decision.record import decision_entry
from nbx.experience.entries import DecisionEntry, encode_entry
from nbx.experience.relationship import balance_at
from nbx.features.state import Consent, CustomerState, Pause, ProfileValue, Reservation
from tests.unit.decision.test_choice import learned_model
from tests.worlds import CATALOG, DAY_MS, NOW_MS, small_plan

PRIVATE = (
    CATALOG.replace(
        "features:",
        """
journeys: {onboarding: {steps: {opened: {event: o}, funded: {event: f, after: [opened]}}}}
concerns: {payment: {opens: [failed_payment], resolves: [paid]}}
contact: {limits: [{max: 9, per: 1d}], gap: 1s, channels: {web: {limits: [{max: 8, per: 1d}]}}}
features:
  region: {type: category, personal: false, encode: {onehot: [north, south]}, default: north}
  vip: {type: boolean, from: context, personal: true}
  pages: {type: number, from: {event: page_view, sum: count, window: 7d}, encode: {log: 20}}""",
    )
    .replace("slots: 3, delivery", "slots: 3, goal: {event: back, within: 30m, value: 3}, delivery")
    .replace(
        "actions:\n",
        """actions:
  welcome:
    {group: cards, value: 30, gives: [points], applicable: "journey.onboarding != 'funded'", owner: x,
     treatments: {t: {placements: [hero], content: {}}}}
  sorry:
    {group: help, class: recovery, value: 9, suitable: "concern.payment", owner: x,
     treatments: {t: {placements: [hero], content: {}}}}
  calm:
    {group: help, class: service, value: 9, suitable: "relationship.strain < 0.6", owner: x,
     treatments: {t: {placements: [hero], content: {}}}}
  northern:
    {group: cards, value: 25, gives: [points], eligible: "customer.region == 'north' || request.is_mobile", owner: x,
     treatments: {t: {placements: [hero, desk], content: {}}}}
  shiny:
    group: cards
    value: 25
    gives: [points]
    owner: x
    context_weights: [{when: "request.vip", weight: 3}, {when: "request.is_mobile", weight: 2}]
    treatments:
      gold: {placements: [hero], content: {}, suitable: "customer.tier == 'gold'"}
      plain: {placements: [hero], content: {}}
""",
    )
)
PLAN = small_plan(PRIVATE)
PERSONAL = ("welcome", "sorry", "calm", "gold_card", "alert")
"""Actions with a condition that reads something personal."""
MODELS = [learned_model(PLAN, seed) for seed in range(1, 6)]
AT_MS = st.integers(NOW_MS - 40 * DAY_MS, NOW_MS)
AT_S = AT_MS.map(lambda at_ms: at_ms // 1000)
ACTIONS = st.sampled_from([action.name for action in PLAN.catalog.actions])
SLOT = st.sampled_from(["x/0", "y/1", "z/2"])


def profiles() -> st.SearchStrategy[dict[str, ProfileValue]]:
    return st.fixed_dictionaries(
        {},
        optional={
            "age": st.builds(ProfileValue, st.floats(18, 99), AT_MS),
            "tier": st.builds(ProfileValue, st.sampled_from(["basic", "gold", "other"]), AT_MS),
        },
    )


def private() -> st.SearchStrategy[dict[str, Any]]:
    """What may not be used, as fields of the state."""
    bucket = NOW_MS * 24 // DAY_MS
    count = st.lists(st.integers(0, 23), max_size=4, unique=True).map(
        lambda ages: [cell for age in sorted(ages, reverse=True) for cell in (bucket - age, 1.0)]
    )
    return st.fixed_dictionaries(
        {
            "profile": profiles(),
            "aggregates": st.fixed_dictionaries({}, optional={"visits": count, "pages": count}),
            "balance": st.floats(-10, 20),
            "balance_at_ms": st.just(NOW_MS),
            "ignored_s": st.lists(AT_S, max_size=5).map(sorted),
            "last_prompt_ms": AT_MS,
            "outcomes": st.dictionaries(st.sampled_from(["accepted", "ignored"]), st.integers(1, 9)),
            "journeys": st.dictionaries(
                st.just("onboarding"), st.dictionaries(st.sampled_from(["opened", "funded"]), AT_MS)
            ),
            "concerns": st.dictionaries(st.just("payment"), st.lists(AT_MS, min_size=2, max_size=2)),
        }
    )


def usable() -> st.SearchStrategy[dict[str, Any]]:
    """What may be used: contacts, consent, holdout and what is not personal."""
    return st.fixed_dictionaries(
        {
            "region": st.sampled_from(["north", "south"]),
            "exposures": st.dictionaries(ACTIONS, st.lists(AT_S, max_size=3).map(sorted), max_size=3),
            "touches": st.dictionaries(st.sampled_from(["web", "phone"]), st.lists(AT_S, max_size=4).map(sorted)),
            "reserved": st.dictionaries(
                SLOT,
                st.builds(Reservation, ACTIONS, st.integers(NOW_MS - 9, NOW_MS + 9), st.just("web")),
                max_size=2,
            ),
            "pauses": st.dictionaries(
                ACTIONS, st.builds(Pause, st.integers(NOW_MS - 9, NOW_MS + 9), st.just("declined"), SLOT), max_size=2
            ),
        }
    )


def customer(known: dict[str, Any], hidden: dict[str, Any], *, agrees: bool) -> CustomerState:
    shared = {name: value for name, value in known.items() if name != "region"}
    profile = {**hidden["profile"], "region": ProfileValue(known["region"], NOW_MS)}
    consent = {"personalise": Consent(agrees, NOW_MS)}
    return CustomerState(**shared, **(hidden | {"profile": profile}), consent=consent)


def requests() -> st.SearchStrategy[DecideRequest]:
    return st.builds(
        DecideRequest,
        customer_id=st.just("anna"),
        placement=st.sampled_from(["hero", "hero", "desk"]),
        slots=st.integers(1, 2),
        context=st.fixed_dictionaries({}, optional={"is_mobile": st.booleans(), "vip": st.booleans()}),
    )


def record(choice: Choice, request: DecideRequest) -> DecisionEntry:
    return decision_entry(choice, request, "d", NOW_MS, release=1, snapshot=1, state_version=1, took_us=0)


@settings(max_examples=80, deadline=None)
@given(usable(), private(), private(), requests(), st.integers(0, 4), st.integers(0, 10**6))
def test_who_does_not_agree_is_treated_like_everybody(
    known: dict[str, Any],
    hidden: dict[str, Any],
    others: dict[str, Any],
    request: DecideRequest,
    model: int,
    number: int,
) -> None:
    made = []
    for each, context in ((hidden, request.context), (others, request.context | {"vip": True})):
        asked = structs.replace(request, context=context)
        state = customer(known, each, agrees=False)
        choice = decide(PLAN, MODELS[model], state, asked, f"d{number}", NOW_MS, salt="s")
        made.append(record(choice, request))
        assert not made[-1].personalised
        assert not set(made[-1].actions) & set(PERSONAL), "a condition of it cannot be asked"
        assert {removed.reason for removed in made[-1].removed} <= {
            "needs_personalise", "not_eligible", "paused", "too_soon", "limit_reached"
        }  # fmt: skip
    assert encode_entry(made[0]) == encode_entry(made[1])


def test_who_agrees_is_not() -> None:
    """The same pairs differ as soon as personalisation is allowed: what is compared above depends on it."""
    known = {"region": "north", "exposures": {}, "touches": {}, "reserved": {}, "pauses": {}}
    nothing: dict[str, Any] = {"profile": {}}
    request = DecideRequest(customer_id="anna", placement="hero")
    changes: dict[str, dict[str, Any]] = {
        "profile": {"profile": {"tier": ProfileValue("gold", NOW_MS)}},
        "aggregates": {"aggregates": {"visits": [NOW_MS * 24 // DAY_MS, 5.0]}},
        "balance": {"balance": -5.0, "balance_at_ms": NOW_MS},
        "prompted": {"last_prompt_ms": NOW_MS - 60_000},
        "ignored": {"ignored_s": [NOW_MS // 1000 - 60]},
        "journey": {"journeys": {"onboarding": {"opened": 1, "funded": 2}}},
        "concern": {"concerns": {"payment": [NOW_MS - 1, 0]}},
    }
    for name, change in changes.items():
        for agrees in (True, False):
            pair = [
                record(
                    decide(
                        PLAN, MODELS[0], customer(known, nothing | each, agrees=agrees), request, "d", NOW_MS, salt="s"
                    ),
                    request,
                )
                for each in ({}, change)
            ]
            assert (encode_entry(pair[0]) == encode_entry(pair[1])) is not agrees, name


def test_the_floor_holds_without_consent_to_personalise() -> None:
    known = {"region": "north", "exposures": {}, "touches": {}, "reserved": {}, "pauses": {}}
    state = customer(known, {"profile": {}, "balance": -11.0, "balance_at_ms": NOW_MS}, agrees=False)
    assert balance_at(state, NOW_MS, PLAN.rules.experience) < PLAN.rules.experience.floor
    request = DecideRequest(customer_id="anna", placement="hero")
    made = record(decide(PLAN, MODELS[0], state, request, "d", NOW_MS, salt="s"), request)
    assert set(made.actions) == {"tips"}
    assert {r.reason for r in made.removed} == {"needs_personalise", "experience_floor"}


def held_out(holdout: Holdout) -> Plan:
    return Plan(structs.replace(PLAN.catalog, holdout=holdout), 1)


SILENT, BY_CHANCE = held_out(Holdout(silent=1.0)), held_out(Holdout(random=1.0))
SHARED = held_out(Holdout(silent=0.3, random=0.3))


@settings(max_examples=60, deadline=None)
@given(usable(), private(), requests(), st.booleans(), st.sampled_from([SILENT, SHARED]), st.integers(0, 10**6))
def test_a_customer_in_the_silent_holdout_gets_nothing_but_mandatory_actions(
    known: dict[str, Any], hidden: dict[str, Any], request: DecideRequest, agrees: bool, plan: Plan, number: int
) -> None:
    asked = structs.replace(request, customer_id=f"c{number}")
    state = customer(known, hidden, agrees=agrees)
    made = record(decide(plan, MODELS[0], state, asked, f"d{number}", NOW_MS, salt="s"), asked)
    if made.holdout != "silent":
        assert plan is SHARED
        return
    assert set(made.actions) <= {"alert"}
    assert {slot.action for slot in made.slots} <= {"", "alert"}
    assert all(slot.propensity == 1.0 for slot in made.slots)
    away = {removed.action: removed.reason for removed in made.removed}
    assert {action: reason for action, reason in away.items() if action != "alert"} == {
        name: "holdout" for name in PLAN.placements[asked.placement].names if name != "alert"
    }


@settings(max_examples=60, deadline=None)
@given(usable(), private(), requests(), st.booleans(), st.integers(0, 10**6))
def test_the_random_holdout_gives_every_candidate_its_nth_chance(
    known: dict[str, Any], hidden: dict[str, Any], request: DecideRequest, agrees: bool, number: int
) -> None:
    state = customer(known, hidden, agrees=agrees)
    chosen = decide(BY_CHANCE, MODELS[1], state, request, f"d{number}", NOW_MS, salt="s")
    made = record(chosen, request)
    assert made.holdout == "random"
    free = [name for name in made.actions if name not in made.mandatory]
    slot = len([each for each in made.slots if each.action in made.mandatory])
    if not free or slot == len(made.slots):
        return
    assert made.slots[slot].action in free, "never silent while something is allowed"
    assert made.slots[slot].propensity == pytest.approx(1 / len(free))
    table = dict(zip(made.actions, chosen.slate.probability[:-1].tolist(), strict=True))
    assert table == pytest.approx({name: 0.0 if name in made.mandatory else 1 / len(free) for name in made.actions})
    assert made.none_probability == 0.0


def test_the_random_holdout_draws_as_often_as_it_says() -> None:
    """2,000 draws of two slots: χ² with n − 1 degrees of freedom stays below its 99.9 % point."""
    state = CustomerState(consent={"personalise": Consent(False, NOW_MS)})
    request = DecideRequest(customer_id="anna", placement="hero", slots=2)
    pairs = np.zeros((99, 99))
    for number in range(2000):
        made = decide(BY_CHANCE, MODELS[2], state, request, f"draw{number}", NOW_MS, salt="s")
        pairs[tuple(made.slate.chosen)] += 1
        n = len(made.positions)
        assert made.slate.propensity == pytest.approx([1 / n, 1 / (n - 1)])
    assert n >= 4
    for counts in (pairs.sum(axis=1)[:n], pairs.sum(axis=0)[:n]):
        assert counts.sum() == 2000
        chi2 = float(((counts - 2000 / n) ** 2 / (2000 / n)).sum())
        assert chi2 < {4: 16.3, 5: 18.5, 6: 20.5}[n], counts
    assert not np.trace(pairs[:n, :n])
