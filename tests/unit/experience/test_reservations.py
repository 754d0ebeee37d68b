"""Prompts that may still be seen: who is asked for all the time carries few of them, and limits miss none."""

from __future__ import annotations

import pytest

from nbx.experience.entries import DecisionEntry
from nbx.features.state import encode_state
from nbx.limits import CONTACTS, UNLIMITED
from tests.worlds import Desk, small_plan

CATALOG = """
catalog: busy
placements:
  web: {{channel: web, impressions: reported, delivery: 1h, attention: 1h}}
  desk: {{channel: phone, impressions: reported, delivery: 1h, attention: 1h}}
contact: {{channels: {{phone: {{limits: [{{max: 20, per: 7d}}]}}}}}}
groups: {{all: {{}}}}
exploration: {{floor: 0.5}}
actions:
  free: {{group: all, value: 5, gives: [g], treatments: {{t: {{placements: [web, desk], content: {{headline: H}}}}}}}}
  bound: {{group: all, value: 5, gives: [g], limits: [{{max: {most}, per: 7d}}],
          treatments: {{t: {{placements: [web], content: {{headline: H}}}}}}}}
"""


def given(desk: Desk) -> list[tuple[str, str]]:
    """Return (action, channel) of every prompt that was given out."""
    decided = [entry for entry in desk.log() if isinstance(entry, DecisionEntry)]
    return [(slot.action, entry.channel) for entry in decided for slot in entry.slots if slot.action]


@pytest.mark.parametrize("most", [3, CONTACTS])
def test_who_asks_all_the_time_carries_few_and_no_limit_is_passed(most: int) -> None:
    desk = Desk(small_plan(CATALOG.format(most=most)))
    for number in range(400):
        desk.decide("anna", "desk" if number % 4 == 0 else "web")
        desk.clock.advance(1_000)
        carried = [(each.action, each.channel) for each in desk.state().reserved.values()]
        assert carried.count(("free", "web")) <= UNLIMITED
        assert carried.count(("bound", "web")) == given(desk).count(("bound", "web")) if number % 50 == 0 else True
    assert given(desk).count(("bound", "web")) == most
    assert sum(channel == "phone" for _, channel in given(desk)) == 20
    assert given(desk).count(("free", "web")) > 10 * UNLIMITED
    assert len(encode_state(desk.state())) < 12_000


def test_the_latest_to_end_are_kept() -> None:
    desk = Desk(small_plan(CATALOG.format(most=1)))
    for _ in range(40):
        desk.decide("anna", "web")
        desk.clock.advance(1_000)
    free = [each.until_ms for each in desk.state().reserved.values() if each.action == "free"]
    assert len(free) == UNLIMITED
    given_until = desk.clock.now_ms() + 2 * 3_600_000
    assert min(free) > given_until - 4 * UNLIMITED * 1_000
