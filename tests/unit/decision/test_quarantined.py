"""Features that are stale or in quarantine: what decides in their place, what is removed, and what the record says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nbx.decision.choice import Choice, decide
from nbx.decision.messages import DecideRequest
from nbx.features.state import CustomerState, ProfileValue
from tests.worlds import CATALOG, DAY_MS, NOW_MS, Desk, prior_model, small_plan

PLAN = small_plan()
MODEL = prior_model(PLAN)


def chosen(*quarantined: str, placement: str = "hero", at_ms: int = 0, **profile: float | str) -> Choice:
    state = CustomerState(profile={name: ProfileValue(value, NOW_MS + at_ms) for name, value in profile.items()})
    model = replace(MODEL, quarantined=frozenset(quarantined))
    request = DecideRequest(customer_id="anna", placement=placement)
    return decide(PLAN, model, state, request, f"000{NOW_MS:011x}{1:012x}", NOW_MS, salt="s")


def test_a_quarantined_feature_is_at_its_default_and_its_conditions_remove() -> None:
    free, held = chosen(age=80.0, tier="gold"), chosen("age", "tier", age=80.0, tier="gold")
    assert free.quarantined == ()
    assert held.quarantined == ("age", "tier")
    assert held.x.tolist() == chosen().x.tolist() != free.x.tolist()
    assert {each.action: each.reason for each in free.removed} == {"gold_card": "not_eligible"}
    reasons = {each.action: (each.reason, each.detail) for each in held.removed}
    assert reasons == {
        "gold_card": ("quarantined", "customer.tier != 'gold'"),
        "alert": ("quarantined", "customer.age > 70.0"),
    }


def test_a_quarantine_of_what_the_placement_does_not_use_says_nothing() -> None:
    text = CATALOG.replace("encode: {onehot: [basic, gold]}", "encode: none")
    plan = small_plan(text)
    assert plan.rules.uses == {"hero": frozenset({"age", "tier"}), "desk": frozenset({"age", "tier"})}
    unread = small_plan(text.replace("    eligible: \"customer.tier != 'gold'\"\n", ""))
    assert unread.rules.uses["hero"] == frozenset({"age"})
    assert chosen("unheard_of").quarantined == ()


@pytest.mark.parametrize(("age_days", "expected"), [(29, ()), (31, ("age",))])
def test_what_is_too_old_is_known_to_be(age_days: int, expected: tuple[str, ...]) -> None:
    choice = chosen(at_ms=-age_days * DAY_MS, age=50.0, tier="gold")
    assert choice.stale == expected, "of a feature without `max_age` no value is"
    assert chosen("age", at_ms=-age_days * DAY_MS, age=50.0).stale == expected, "in quarantine too"


def test_the_record_tells_both_and_the_outcome_after_it() -> None:
    desk = Desk()
    desk.model = replace(desk.model, quarantined=frozenset({"tier"}))
    reply = desk.decide(placement="desk", exclude=("gold_card", "travel_card"))
    while not reply.slots[0].action:
        reply = desk.decide(placement="desk", exclude=("gold_card", "travel_card"))
    desk.record("declined", decision_id=reply.decision_id)
    assert desk.observed[-1].quarantined == ("tier",)
