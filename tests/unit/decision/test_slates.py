"""What bounds a slate, one rule at a time: every candidate is drawn as soon as it may be."""

from __future__ import annotations

import pytest

from nbx.catalog.plan import Plan
from nbx.decision.choice import Choice, decide
from nbx.decision.messages import DecideRequest
from nbx.features.state import CustomerState
from tests.worlds import NOW_MS, prior_model, small_plan

CATALOG = """
catalog: slates
{more}
placements:
  web: {{channel: web, impressions: reported, slots: 6}}
groups:
  cards: {{{cards}}}
  help: {{{help}}}
actions:
  gold: {{group: cards, value: 1000000, gives: [x]{gold}, treatments: {{t: {{placements: [web]}}}}}}
  plain: {{group: cards, value: 1000000, gives: [x], treatments: {{t: {{placements: [web]}}}}}}
  other: {{group: cards, value: 1000000, gives: [x], treatments: {{t: {{placements: [web]}}}}}}
  notice: {{group: help, class: mandatory, treatments: {{t: {{placements: [web]}}}}}}
  alert: {{group: help, class: mandatory, treatments: {{t: {{placements: [web]}}}}}}
exploration: {{floor: 0, scale: 0}}
"""


def plan_with(more: str = "", cards: str = "", help_: str = "", gold: str = "") -> Plan:
    return small_plan(CATALOG.format(more=more, cards=cards, help=help_, gold=gold))


def chosen(plan: Plan, *, exclude: tuple[str, ...] = ("notice", "alert"), state: CustomerState | None = None) -> Choice:
    request = DecideRequest(customer_id="anna", placement="web", slots=6, exclude=exclude)
    return decide(plan, prior_model(plan), state or CustomerState(), request, "d1", NOW_MS, salt="s")


def names(choice: Choice) -> list[str]:
    return [choice.placement.names[choice.positions[i]] for i in choice.slate.chosen if i >= 0]


def test_without_bounds_everything_is_shown_the_mandatory_first() -> None:
    slate = names(chosen(plan_with(), exclude=()))
    assert slate[:2] == ["notice", "alert"]
    assert set(slate[2:]) == {"gold", "plain", "other"}


@pytest.mark.parametrize(
    ("bound", "left"),
    [
        ({"cards": "per_slate: 1"}, 1),
        ({"cards": "per_slate: 2"}, 2),
        ({"cards": "limits: [{max: 1, per: 1d}, {max: 5, per: 7d}]"}, 1),
        ({"cards": "limits: [{max: 5, per: 1d}, {max: 2, per: 7d}]"}, 2),
        ({"more": "contact: {limits: [{max: 2, per: 1d}]}"}, 2),
        ({"more": "contact: {channels: {web: {limits: [{max: 1, per: 1d}]}}}"}, 1),
        ({"more": "contact: {classes: {promotional: {limits: [{max: 2, per: 1d}]}}}"}, 2),
        ({"more": "contact: {exclusive: [[gold, plain, other]]}"}, 1),
        ({"more": "contact: {exclusive: [[gold, plain], [plain, other]]}"}, None),
        ({"gold": ", not_with: [plain]"}, 2),
        ({"gold": ", not_with: [plain, other]"}, None),
    ],
)
def test_each_bound_holds_within_the_slate(bound: dict[str, str], left: int | None) -> None:
    slate = names(chosen(plan_with(**bound)))
    if left is not None:
        assert len(slate) == left
    elif "gold" in bound:
        assert slate == ["gold"] or set(slate) == {"plain", "other"}
    else:
        assert set(slate) in ({"plain"}, {"gold", "other"})


def test_what_is_exempt_counts_and_is_not_held_back() -> None:
    plan = plan_with(more="contact: {limits: [{max: 3, per: 1d}]}")
    slate = names(chosen(plan, exclude=()))
    assert slate[:2] == ["notice", "alert"]
    assert len(slate) == 3, "two of three are the mandatory ones"
    tight = plan_with(more="contact: {limits: [{max: 1, per: 1d}]}")
    assert names(chosen(tight, exclude=())) == ["notice", "alert"], "both, although the first used the limit up"


def test_a_rule_for_an_exempt_class_holds_nothing_back_unless_it_is_no_longer_exempt() -> None:
    rule = "contact: {{classes: {{mandatory: {{limits: [{{max: 1, per: 1d}}]}}}}{}}}"
    seen = CustomerState(exposures={"notice": [NOW_MS // 1000 - 60]}, touches={"web": [NOW_MS // 1000 - 60]})
    free = chosen(plan_with(more=rule.format("")), exclude=(), state=seen)
    assert free.removed == ()
    held = chosen(plan_with(more=rule.format(", exempt: []")), exclude=(), state=seen)
    assert {r.action: r.reason for r in held.removed} == {"notice": "limit_reached", "alert": "limit_reached"}


@pytest.mark.parametrize(
    ("group", "action", "reason"),
    [
        ("starts: 2100-01-01", "", "not_started"),
        ("", ", starts: 2100-01-01", "not_started"),
        ("starts: 2100-01-01", ", starts: 2001-01-01", "not_started"),
        ("ends: 2001-01-01", "", "ended"),
        ("", ", ends: 2001-01-01", "ended"),
        ("ends: 2100-01-01", ", ends: 2001-01-01", "ended"),
        ("starts: 2001-01-01, ends: 2100-01-01", ", starts: 2002-01-01", ""),
    ],
)
def test_terms_of_group_and_action_both_hold(group: str, action: str, reason: str) -> None:
    choice = chosen(plan_with(cards=group, gold=action))
    assert {r.action: r.reason for r in choice.removed}.get("gold", "") == reason
