"""What the demonstration sends, and how fast its catalog plays."""

from __future__ import annotations

from pathlib import Path

from nbx.catalog.parse import parse_catalog
from nbx.demo.run import BURST_MS, DAY_MS, LEAST_ATTENTION_MS, _bursts, _longest_ms, demo_catalog
from nbx.demo.world import Mind, Response, Step, World

SAMPLE = Path(__file__).parents[3] / "examples" / "retail_bank.yaml"


def test_close_events_of_all_slots_travel_together_and_in_order() -> None:
    seen = (Step(15, "delivered"), Step(30, "seen"))
    responses = {
        0: Response((*seen, Step(400, "accepted")), "accepted", seen=True),
        1: Response((*seen, Step(200, "declined")), "declined", seen=True),
    }
    bursts = list(_bursts(responses))
    assert [[(slot, step.type) for slot, step in burst] for burst in bursts] == [
        [(0, "delivered"), (1, "delivered"), (0, "seen"), (1, "seen")],
        [(1, "declined")],
        [(0, "accepted")],
    ]
    assert all(burst[-1][1].delay_ms - burst[0][1].delay_ms <= BURST_MS for burst in bursts)
    assert list(_bursts({})) == []


def test_a_minute_plays_two_weeks_and_answers_still_arrive_in_time() -> None:
    catalog = parse_catalog(SAMPLE.read_text())
    fast = demo_catalog(catalog)
    assert fast.attribution_ms * 2 == 60_000
    assert catalog.attribution_ms * 2 == 14 * DAY_MS
    assert min(placement.attention_ms for placement in fast.placements) >= LEAST_ATTENTION_MS
    world = World(1, customers=5, visits=50, length_ms=1_000, day_ms=100)
    assert _longest_ms(world, fast) == 2 * LEAST_ATTENTION_MS
    answers = [
        response.steps[-1].delay_ms
        for visit in world.visits
        if (response := world.respond(visit, "savings_start", Mind(), 0, implicit=False)).outcome == "declined"
    ]
    assert max(answers) < LEAST_ATTENTION_MS
