"""What the fold costs per event, diagnosis included: a slot's events against a behaviour event that touches no slot.

    python -m benchmarks.bench_fold [--smoke]

A customer with a past (64 exposures, journeys, a correction), one open decision, and its slot's events in turn:
delivered with signs, seen, declined. Both kinds of events are folded in turn (A B A B);
decoding is not counted, as both need it. Told is the median of rounds, the ratio, and whether a slot event stays within
the bar of 50 us.
"""

from __future__ import annotations

import statistics
import sys
import time

from msgspec.structs import replace

from nbx.catalog.rules import Rules
from nbx.experience.entries import Event, EventEntry
from nbx.experience.fold import fold
from nbx.experience.lifecycle import OpenDecision, OpenSlot, decode_open, encode_open
from nbx.features.schema import Value
from nbx.features.state import CustomerState, decode_state, encode_state
from tests.worlds import CATALOG, NOW_MS, small_plan

BAR_US = 50.0
DECISION = f"000{NOW_MS:011x}{1:012x}"
TEXT = CATALOG.replace("hero:\n    {channel: web,", "hero:\n    {latency: 3s, channel: web,")
EXTRA = """
journeys: {start: {steps: {opened: {event: opened}, funded: {event: funded, after: [opened]}}}}
concerns: {payment: {opens: [payment_failed], resolves: [paid]}}
"""


def main(*, smoke: bool) -> None:
    """Measure and print."""
    rules = small_plan(TEXT + EXTRA).rules
    state = CustomerState(
        exposures={"gold_card": [NOW_MS // 1000 - 100 * n for n in range(64, 0, -1)]},
        corrected={"tier": NOW_MS + 60_000},
        concerns={"payment": [NOW_MS - 60_000, 0]},
        journeys={"start": {"opened": NOW_MS - 5_000}},
    )
    slot = OpenSlot("gold_card", "t", "cards", 60_000, 600_000)
    decision = OpenDecision("anna", NOW_MS, "hero", 1, bytes(4 * 12), [slot], channel="web", stale=("age",))
    kept, opened = encode_state(state), encode_open(decision)
    signs: dict[str, Value] = {"viewable": 0.9, "errors": 1.0, "render_ms": 4_000.0}
    slot_events = [
        _entry(n, Event(event_id=kind, type=kind, decision_id=DECISION, properties=signs if n == 0 else {}))
        for n, kind in enumerate(("delivered", "seen", "declined"))
    ]
    behaviour = [_entry(n, replace(each.event, type="page_view", decision_id="")) for n, each in enumerate(slot_events)]
    with_slot, without = [], []
    for _ in range(20 if smoke else 2_000):
        with_slot.append(_round(kept, opened, slot_events, rules))
        without.append(_round(kept, opened, behaviour, rules))
    mine, plain = statistics.median(with_slot), statistics.median(without)
    worst = sorted(with_slot)[int(0.95 * len(with_slot))]
    print(f"slot event, diagnosis included: {mine:.1f} us (95 %: {worst:.1f} us), bar {BAR_US:g} us")
    print(f"behaviour event, no slot:       {plain:.1f} us, ratio {mine / plain:.1f}")
    if mine > BAR_US and not smoke:
        sys.exit(1)


def _entry(number: int, event: Event) -> EventEntry:
    at_ms = NOW_MS + 1_000 * (number + 1)
    return EventEntry(customer_id="anna", at_ms=at_ms, release=1, event=event, received_ms=at_ms)


def _round(kept: bytes, opened: bytes, entries: list[EventEntry], rules: Rules) -> float:
    """Fold the entries one after the other; returns microseconds per entry."""
    state, decision = decode_state(kept), decode_open(opened)
    begun_ns = time.perf_counter_ns()
    for entry in entries:
        fold(state, decision, entry, rules)
    return (time.perf_counter_ns() - begun_ns) / 1000 / len(entries)


if __name__ == "__main__":
    main(smoke="--smoke" in sys.argv)
