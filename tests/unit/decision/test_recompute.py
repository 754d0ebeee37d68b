"""A decision made again from what it rests on: budgets are read from the record, and what differs is named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec import structs

from nbx.decision.choice import decide
from nbx.decision.messages import DecideRequest
from nbx.decision.recompute import decide_again, differences, request_of, whole_purse
from nbx.decision.record import decision_entry
from nbx.experience.entries import Continued, DecisionEntry, Removed, Spent
from nbx.features.state import CustomerState
from tests.worlds import CATALOG, NOW_MS, prior_model, small_plan

BUDGETS = (
    CATALOG.replace("    value: 40\n", "    value: 40\n    cost: 2\n").replace(
        "    value: 20\n", "    value: 20\n    cost: 5\n"
    )
    + """
budgets:
  cards: {actions: [gold_card, travel_card, pay_card], units: 100, per: 7d}
  costs: {actions: [travel_card, pay_card], money: 100, per: 7d}
"""
)
PLAN = small_plan(BUDGETS)
MODEL = prior_model(PLAN)
MONEY = 10_000


def decided(number: int, purse: dict[str, int], **asked: Any) -> DecisionEntry:
    request = DecideRequest(customer_id="anna", placement="hero", request_id="r", **asked)
    decision_id = f"001{number:023x}"
    choice = decide(PLAN, MODEL, CustomerState(), request, decision_id, NOW_MS, salt="s", purse=purse)
    entry = decision_entry(
        choice, request, decision_id, NOW_MS, release=1, snapshot=0, state_version=3, took_us=17, build="b"
    )
    plans = [use.plan for use in PLAN.placements["hero"].budgets]
    costs = [(plan.resource, sum(plan.amounts.get(slot.action, 0) for slot in entry.slots)) for plan in plans]
    spent = tuple([Spent(resource, "lease", amount) for resource, amount in costs if amount])
    return structs.replace(entry, spent=spent)


def again(entry: DecisionEntry) -> DecisionEntry:
    return decide_again(entry, PLAN, MODEL, CustomerState())


@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest.mark.parametrize("units", [0, 1, 2, 3, 50])
@pytest.mark.parametrize("money", [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 12, 50])
def test_whatever_budgets_had_left_the_record_tells_enough_of_it(slots: int, units: int, money: int) -> None:
    purse = {"cards/units": units, "costs/money": money * MONEY}
    for number in range(8):
        entry = decided(number + 10 * slots, purse, slots=slots)
        assert again(entry) == entry
        assert differences(entry, again(entry), PLAN) == []


def test_a_limit_of_contacts_with_the_same_members_is_none_of_a_budget() -> None:
    """At most two cards a day, whatever budgets have: two limits with the same members, of which one is a budget's."""
    purse = {"cards/units": 1, "costs/money": 50 * MONEY}
    entry = decided(1, purse, slots=3)
    assert [(limit.members, limit.allowance) for limit in entry.shared][:2] == [((0, 1, 2), 2), ((0, 1, 2), 1)]
    assert whole_purse(entry, PLAN, MODEL, CustomerState())["cards/units"] == 1
    entry = decided(1, {}, slots=3)
    assert (entry.shared[0].members, entry.shared[0].allowance) == ((0, 1, 2), 2)
    assert whole_purse(entry, PLAN, MODEL, CustomerState()) == {}


def test_what_was_asked_is_asked_again() -> None:
    asked = {"slots": 2, "context": {"is_mobile": True}, "exclude": ("tips",)}
    request = request_of(decided(1, {}, **asked))
    expected = DecideRequest(customer_id="anna", placement="hero", request_id="r", **asked)  # type: ignore[arg-type]
    assert request == expected


def told(entry: DecisionEntry, **changed: Any) -> list[tuple[str, str, str]]:
    altered = structs.replace(entry, **changed)
    found = differences(altered, again(altered), PLAN)
    return [(each.what, each.recorded, each.recomputed) for each in found]


def test_each_part_that_differs_is_named() -> None:
    entry = next(e for e in (decided(n, {}, slots=2) for n in range(50)) if e.slots[0].action and e.spent)
    assert told(entry) == []
    assert told(entry, took_us=99, build="other", release_digest="x", state_version=9) == [], "not recomputed"
    assert told(entry, stakes=-0.0) == [("stakes", "-0.0", "0.0")], "bits, not numbers"
    assert told(entry, holdout="silent") == [("holdout", "'silent'", "none")]
    assert told(entry, relationship={**entry.relationship, "balance": 1.5}) == [("relationship.balance", "1.5", "0.0")]
    order = dict(reversed(entry.relationship.items()))
    assert [what for what, *_ in told(entry, relationship=order)] == ["relationship: order"]
    slot = structs.replace(entry.slots[1], expires_at_ms=7)
    assert told(entry, slots=(entry.slots[0], slot)) == [
        ("slots[1].expires_at_ms", "7", str(entry.slots[1].expires_at_ms))
    ]
    assert told(entry, spent=(structs.replace(entry.spent[0], amount=9), *entry.spent[1:])) == [
        ("spent[0].amount", "9", str(entry.spent[0].amount))
    ]
    x = np.frombuffer(entry.x, np.float32).copy()
    x[1] += np.float32(2.0)
    ((what, recorded, recomputed),) = told(entry, x=x.tobytes())
    assert what == f"x[{PLAN.layout.columns[1]}]"
    assert float(recorded) - float(recomputed) == 2.0
    table = np.frombuffer(entry.factors, np.float32).copy()
    table[8 + 2] = 77.0
    ((what, recorded, _),) = told(entry, factors=table.tobytes())
    assert (what, recorded) == (f"candidates[{entry.actions[1]}].value", "77.0")
    assert [what for what, *_ in told(entry, factors=b"")] == ["factors"]
    assert [what for what, *_ in told(entry, x=b"")] == ["x"]
    open_ = Continued(kind="concern", name="n", channel="web", opened_at=1, last_at=1, last="e")
    assert [what for what, *_ in told(entry, continues=(open_,))] == ["continues"]
    assert len(told(entry, removed=tuple(Removed(f"a{k}", "paused", "") for k in range(99)))) == 1
    (only,) = differences(structs.replace(entry, learns=False, stakes=1.0), entry, PLAN, only=frozenset({"stakes"}))
    assert only.what == "stakes"
