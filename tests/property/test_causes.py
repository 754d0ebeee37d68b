"""A diagnosis does not depend on the order of events, and is that of the slow twin."""

from __future__ import annotations

import numpy as np

from nbx.experience.entries import Event, EventEntry, Outcome
from nbx.experience.fold import fold
from nbx.experience.lifecycle import OpenDecision, OpenSlot
from nbx.features.schema import Value
from nbx.features.state import CustomerState
from tests.reference.causes import Background, Happened, cause_of, evidence_of
from tests.worlds import CATALOG, NOW_MS, small_plan

TEXT = CATALOG.replace("hero:\n    {channel: web,", "hero:\n    {latency: 3s, channel: web,")
PLAN = small_plan(TEXT + "concerns: {payment: {opens: [payment_failed], resolves: [paid], timeout: 1h}}\n")
DECISION = f"000{NOW_MS:011x}{1:012x}"


def world(rng: np.random.Generator) -> tuple[list[Happened], Background]:
    """Draw what happens to one prompt, and what is known beside it."""
    events = []
    for kind in ("delivered", "seen", "seen", "declined", "dismissed", "failed", "accepted", "complained"):
        if rng.random() < (0.25 if kind in ("accepted", "complained") else 0.6):
            properties: dict[str, object] = {}
            for name, values in (
                ("viewable", (0.2, 0.9)), ("errors", (0.0, 2.0)), ("render_ms", (100.0, 9e3)),
                ("feature", ("age", "zodiac")),
            ):  # fmt: skip
                if rng.random() < 0.15:
                    properties[name] = values[int(rng.integers(2))]
            cause = str(rng.choice(["", "timing"], p=[0.9, 0.1]))
            reason = str(rng.choice(["", "busy", "stale_data", "whatever"], p=[0.7, 0.1, 0.1, 0.1]))
            if kind in ("delivered", "seen"):
                cause = reason = ""
            events.append(Happened(kind, NOW_MS + int(rng.integers(1, 90_000)), cause, reason, properties))
    if not any(event.kind in ("declined", "failed") for event in events):
        events.append(Happened("failed", NOW_MS + 9_000))
    opened = int(rng.choice([0, NOW_MS - 600_000, NOW_MS - 4_000_000, NOW_MS + 30_000]))
    return events, Background(
        decided_ms=NOW_MS,
        delivery_ms=60_000,
        latency_ms=3_000,
        other_exposures_s=(NOW_MS // 1000 - int(rng.integers(1, 200)),) if rng.random() < 0.3 else (),
        stale=("age",) if rng.random() < 0.15 else (),
        quarantined=("age",) if rng.random() < 0.15 else (),
        corrected={"tier": NOW_MS + int(rng.integers(-9, 100_000_000))} if rng.random() < 0.2 else {},
        concern=(opened, int(rng.choice([0, NOW_MS + 20_000])), 3_600_000) if rng.random() < 0.3 else (0, 0, 0),
    )


def told(events: list[Happened], known: Background) -> Outcome:
    """Fold the events in the order given; returns the outcome told last."""
    slot = OpenSlot("gold_card", "t", "cards", known.delivery_ms, 600_000)
    decision = OpenDecision(
        "anna", NOW_MS, "hero", 1, b"\0\0\0\0", [slot], channel="web", stale=tuple(known.stale),
        quarantined=tuple(known.quarantined),
    )  # fmt: skip
    state = CustomerState(exposures={"gold_card": list(known.other_exposures_s)}, corrected=dict(known.corrected))
    if known.concern[0]:
        state.concerns["payment"] = list(known.concern[:2])
    last: Outcome | None = None
    for number, each in enumerate(events):
        properties: dict[str, Value] = {k: v for k, v in each.properties.items() if isinstance(v, float | str)}
        event = Event(
            event_id=f"{number}", type=each.kind, decision_id=DECISION, cause=each.cause, reason=each.reason,
            properties=properties,
        )  # fmt: skip
        entry = EventEntry(customer_id="anna", at_ms=each.at_ms, release=1, event=event, received_ms=each.at_ms)
        for outcome in fold(state, decision, entry, PLAN.rules).outcomes:
            assert outcome.previous_evidence == (last.evidence if last else ())
            assert outcome.previous_rule == (last.rule if last else "")
            last = outcome
    assert last is not None
    return last


def test_a_diagnosis_depends_on_no_order_and_agrees_with_the_twin() -> None:
    rng = np.random.default_rng(3)
    causes = set()
    for _ in range(1_500):
        events, known = world(rng)
        outcomes = [told([events[i] for i in rng.permutation(len(events))], known) for _ in range(3)]
        outcomes.append(told([*events, *events], known))
        expected = cause_of(events, known)
        codes = evidence_of(events, known)
        for outcome in outcomes:
            assert (outcome.cause, outcome.outcome) == (expected, outcomes[0].outcome), (events, known, outcome)
            assert outcome.response_weight == outcomes[0].response_weight
            said = {each for each in outcome.evidence if "=" not in each and each not in ("seen", outcome.outcome)}
            answer = {each for each in codes if each.startswith(("named", "aside"))}
            assert said == codes or (outcome.cause == "" and said == codes - answer)
        causes.add(expected)
    assert causes == {"", "assumption", "information", "execution", "timing", "unknown"}
