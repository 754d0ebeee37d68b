"""What the first drawn slot earns under two releases: one model of rewards, and the draft's prices for both."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec import structs

from nbx.audit.judging import Told
from nbx.audit.shadow_pricing import Priced, Pricing, Weighed
from nbx.catalog.model import ContextWeight
from nbx.catalog.plan import Plan
from nbx.decision.choice import Choice, decide
from nbx.decision.messages import DecideRequest
from nbx.decision.record import decision_entry
from nbx.experience.entries import FACTORS, DecisionEntry
from nbx.features.state import CustomerState, ProfileValue
from tests.worlds import CATALOG, NOW_MS, prior_model, small_plan

BASE = small_plan()
OLD = CustomerState(profile={"age": ProfileValue(80.0, NOW_MS)})
"""The mandatory alert is for this one."""


def changed(text: str = CATALOG, action: str = "", **more: Any) -> Plan:
    """Return the small catalog with something else about one action."""
    catalog = small_plan(text).catalog
    actions = tuple(structs.replace(each, **more) if each.name == action else each for each in catalog.actions)
    return Plan(structs.replace(catalog, actions=actions), 0)


def decided(plan: Plan, number: int, state: CustomerState, slots: int) -> tuple[Choice, DecisionEntry]:
    request = DecideRequest(customer_id="c", placement="hero", slots=slots)
    decision_id = f"000{NOW_MS:011x}{number:012x}"
    choice = decide(plan, prior_model(plan), state, request, decision_id, NOW_MS, salt="s")
    entry = decision_entry(choice, request, decision_id, NOW_MS, release=1, snapshot=0, state_version=0, took_us=1)
    return choice, entry


def priced(
    draft: Plan, number: int = 1, state: CustomerState | None = None, slots: int = 1, **record: Any
) -> tuple[Priced, Choice, Choice, DecisionEntry]:
    """Price a decision of the small catalog under a draft."""
    state = state or CustomerState()
    before, entry = decided(BASE, number, state, slots)
    after, _ = decided(draft, number, state, slots)
    entry = structs.replace(entry, **record)
    return Pricing(draft, BASE, prior_model(draft)).price(entry, before, after), before, after, entry


def weighed(price: Priced) -> Weighed:
    assert isinstance(price.weighed, Weighed)
    return price.weighed


def with_choice(draft: Plan, action: str) -> tuple[Priced, Choice, Choice, DecisionEntry]:
    """Price the first decision whose first slot held an action."""
    for number in range(200):
        found = priced(draft, number)
        if found[3].slots[0].action == action:
            return found
    raise AssertionError(f"200 decisions and never {action}")


def table(choice: Choice) -> dict[str, dict[str, float]]:
    """Return per candidate its chance and what it is worth."""
    return {
        choice.placement.names[position]: {
            "chance": float(choice.slate.probability[i]),
            "p": float(choice.utility.p_response[i]),
            "value": float(choice.factors.value[i]),
            "gain": float(choice.utility.gain[i]),
            "points": float(choice.factors.experience[i]),
        }
        for i, position in enumerate(choice.positions.tolist())
    }


def test_both_releases_are_expected_to_earn_at_the_drafts_prices() -> None:
    draft = changed(
        CATALOG.replace("value: 40", "value: 70"),
        "gold_card",
        context_weights=(ContextWeight(when="true", weight=3.0),),
    )
    price, before, after, _ = priced(draft)
    mine, theirs = table(after), table(before)
    assert mine["gold_card"]["gain"] == pytest.approx(180.0)
    for side, expected in ((theirs, price.before), (mine, price.after)):
        assert expected[0] == pytest.approx(sum(side[name]["chance"] * mine[name]["p"] for name in side))
        assert expected[1] == pytest.approx(
            sum(side[name]["chance"] * mine[name]["p"] * mine[name]["value"] for name in side)
        )
        assert expected[3] == pytest.approx(
            sum(side[name]["chance"] * mine[name]["p"] * mine[name]["gain"] for name in side)
        )


def test_what_the_draft_withholds_has_the_drafts_price_and_the_model_in_force() -> None:
    draft = changed(CATALOG.replace("value: 60", "value: 90"), "gold_card", eligible="false", lever=2.0)
    price, before, after, _ = with_choice(draft, "gold_card")
    assert "gold_card" not in table(after)
    theirs = table(before)
    worth = {name: each["value"] for name, each in theirs.items()} | {"gold_card": 90.0}
    assert price.before[1] == pytest.approx(sum(e["chance"] * e["p"] * worth[name] for name, e in theirs.items()))
    gain = {name: each["gain"] for name, each in theirs.items()} | {"gold_card": 180.0}
    assert price.before[3] == pytest.approx(sum(e["chance"] * e["p"] * gain[name] for name, e in theirs.items()))
    row = weighed(price)
    assert (row.after, row.terms.worth, row.terms.gain) == (0.0, 90.0, 180.0)
    assert row.before == row.propensity == pytest.approx(theirs["gold_card"]["chance"])
    assert row.predicted[1] == pytest.approx(90.0 * theirs["gold_card"]["p"])


@pytest.mark.parametrize("action", ["gold_card", "travel_card"])
def test_the_logged_choice_is_weighed_and_priced(action: str) -> None:
    draft = changed(CATALOG.replace("value: 60", "value: 45").replace("floor: -10}", "floor: -10, exchange: 2.0}"))
    price, _, after, entry = with_choice(draft, action)
    row, mine = weighed(price), table(after)[action]
    assert row.after == mine["chance"]
    assert row.predicted.tolist() == pytest.approx(
        [mine["p"], mine["p"] * mine["value"], mine["points"], mine["p"] * mine["gain"] + 3.0 * mine["points"]]
    )
    assert (row.propensity, row.missed) == (entry.slots[0].propensity, 0.0)
    told = Told(0, accepted=True, points=1.0)
    assert row.terms.rewards(told) == (1.0, mine["value"], 1.0, mine["value"] + 2.0 * 1.5)


def test_silence_earns_nothing() -> None:
    price, _, after, _ = with_choice(changed(CATALOG.replace("value: 60", "value: 45")), "")
    row = weighed(price)
    assert row.after == float(after.slate.probability[-1])
    assert not row.predicted.any()
    assert row.terms.rewards(None) == (0.0, 0.0, 0.0, 0.0)
    assert not row.awaited.shown


def test_who_does_not_want_to_be_learned_from_is_not_judged() -> None:
    price, *_ = priced(changed(), learns=False)
    assert price.weighed == "no_consent"
    assert price.after[0] > 0.0, "but counted"


def test_what_the_log_could_not_draw_is_missed() -> None:
    draft = changed()
    _, _, after, entry = priced(draft)
    logged = np.frombuffer(entry.factors, np.float32).reshape(len(entry.actions), len(FACTORS)).copy()
    logged[entry.actions.index("travel_card"), -2] = 0.0
    price, *_ = priced(draft, factors=logged.tobytes())
    assert weighed(price).missed == pytest.approx(table(after)["travel_card"]["chance"])
    price, *_ = priced(draft, none_probability=0.0)
    assert weighed(price).missed == pytest.approx(float(after.slate.probability[-1]))


def test_the_first_drawn_slot_is_judged_and_only_behind_the_same_mandatory_actions() -> None:
    same, before, *_ = priced(changed(), state=OLD, slots=2)
    row = weighed(same)
    assert (before.slate.arbitrated, row.awaited.slot) == (1, 1)
    assert row.before == row.after == row.propensity
    no_alert, *_ = priced(changed(action="alert", eligible="false"), state=OLD, slots=2)
    assert no_alert.weighed == "mandatory"
    only_alert, *_ = priced(changed(), state=OLD)
    assert only_alert.weighed == "mandatory", "nothing was drawn"
    assert not only_alert.before.any()
