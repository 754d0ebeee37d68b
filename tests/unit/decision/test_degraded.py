"""The declared default is shown when nothing can be looked up, unless what needs no looking up forbids it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from nbx.decision.degraded import degraded_entry, degraded_reply
from nbx.decision.messages import DecideReply, DecideRequest
from nbx.experience.holdout import assignment
from nbx.features.state import CustomerState
from tests.worlds import small_plan

NOON_MS = int(datetime(2026, 7, 1, 12, tzinfo=UTC).timestamp() * 1000)
CATALOG = """
catalog: fallback
{more}
placements:
  web: {{channel: web, impressions: reported, slots: 2, delivery: 60s, default: {{action: tips, treatment: second}}}}
groups:
  help: {{{group}}}
actions:
  tips:
    group: help
    class: service
    {action}
    treatments:
      first: {{placements: [web], applicable: "customer.age > 1.0", content: {{say: first}}}}
      second: {{placements: [web], content: {{say: second}}{treatment}}}
features:
  age: {{type: number, default: 40}}
  zone: {{type: category, encode: none, personal: false}}
"""


def answered(
    customer: str = "anna", *, more: str = "", group: str = "", action: str = "", treatment: str = "", slots: int = 2
) -> DecideReply:
    plan = small_plan(CATALOG.format(more=more, group=group, action=action, treatment=treatment))
    request = DecideRequest(customer_id=customer, placement="web", slots=slots)
    placement = plan.placements["web"]
    entry = degraded_entry(plan, placement, request, "d1", NOON_MS, "state_unavailable", "salt")
    return degraded_reply(entry, placement)


def test_the_declared_treatment_is_shown_in_the_first_slot() -> None:
    reply = answered()
    assert (reply.slots[0].action, reply.slots[0].treatment) == ("tips", "second")
    assert bytes(reply.slots[0].content) == b'{"say":"second"}'
    assert reply.slots[1].none == "state_unavailable"


@pytest.mark.parametrize(
    "forbidden",
    [
        {"group": "ends: 2026-07-01T12:00"},
        {"action": "starts: 2026-07-02"},
        {"treatment": ", ends: 2026-01-01"},
        {"more": 'contact: {quiet_hours: [{from: "11:00", to: "13:00"}]}'},
        {"more": 'time_zone: Asia/Tokyo\ncontact: {quiet_hours: [{from: "20:00", to: "22:00", channels: [web]}]}'},
        # noon in the catalog's zone is night in somebody's
        {"more": 'time_zone: {feature: zone, otherwise: UTC}\ncontact: {quiet_hours: [{from: "01:00", to: "02:00"}]}'},
    ],
)
def test_what_needs_no_state_still_holds(forbidden: dict[str, str]) -> None:
    assert [slot.none for slot in answered(**forbidden).slots] == ["state_unavailable"] * 2  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "harmless",
    [
        {"group": "ends: 2026-07-01T12:01"},
        {"more": 'contact: {quiet_hours: [{from: "13:00", to: "11:00"}]}'},
        {"more": 'contact: {quiet_hours: [{from: "11:00", to: "13:00"}], exempt: [service]}'},
        {"more": "holdout: {random: 1.0}"},
    ],
)
def test_and_nothing_more(harmless: dict[str, str]) -> None:
    assert answered(**harmless).slots[0].action == "tips"  # type: ignore[arg-type]


def test_a_customer_held_out_gets_no_default() -> None:
    more = "holdout: {silent: 0.5}"
    plan = small_plan(CATALOG.format(more=more, group="", action="", treatment=""))
    names = [f"c{i}" for i in range(60)]
    held = {n for n in names if assignment(n, CustomerState(), plan.catalog.holdout, "salt") == "silent"}
    assert 0 < len(held) < 60
    replies = {name: answered(name, more=more) for name in names}
    assert {name for name, reply in replies.items() if not reply.slots[0].action} == held
    assert {name for name, reply in replies.items() if reply.holdout == "silent"} == held
