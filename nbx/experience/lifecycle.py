"""The life of a slot: decided → delivered → seen → one terminal outcome, corrected by later, truer events.

A slot's outcome is the truest of the events that reached it (`RANK`), so it does not depend on their order, and a
duplicate changes nothing. Timers only speak while nobody else did. `ignored` is proved: seen, and unanswered when
attention ended.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from msgspec import Struct, msgpack

from nbx.catalog.model import OutcomeName
from nbx.experience.entries import SlotRecord
from nbx.experience.goals import OpenGoal
from nbx.features.store import Timer

RANK: dict[OutcomeName, int] = {
    "not_delivered": 0,
    "not_seen": 1,
    "ignored": 2,
    "dismissed": 3,
    "declined": 4,
    "accepted": 5,
    "converted": 6,
    "failed": 7,
    "complained": 8,
}
"""Of two outcomes the one with the higher rank is truer."""

ANSWERS: dict[str, OutcomeName] = {
    "accepted": "accepted",
    "declined": "declined",
    "dismissed": "dismissed",
    "converted": "converted",
    "failed": "failed",
    "complained": "complained",
}
AGENT_EVENTS = frozenset({"skipped", "unsuitable", "no_time"})
"""What an agent may report of an own act: the customer was not shown the action."""
SLOT_EVENTS = frozenset({"delivered", "seen", *ANSWERS, *AGENT_EVENTS})
"""Event types that belong to a slot of a decision."""
_PROVES_EXPOSURE = frozenset({"seen", "accepted", "declined", "dismissed", "converted"})


class OpenSlot(Struct, array_like=True):
    """Where one slot stands. Times are epoch milliseconds, 0: not yet."""

    action: str
    """Empty: silence, which has no life."""
    treatment: str
    group: str
    delivery_ms: int
    attention_ms: int
    delivered_at_ms: int = 0
    seen_at_ms: int = 0
    outcome: OutcomeName | None = None
    outcome_at_ms: int = 0
    cause: str = ""
    """As reported with the outcome; empty when nobody said."""
    reason: str = ""
    accepted: bool = False
    """The customer accepted at some time, whatever came later."""
    revision: int = -1
    """Of the last outcome told to the learner; -1: none yet."""
    by_agent: bool = False
    """`not_seen` because the agent said so, which is truer than any timer."""
    told: OutcomeName | None = None
    """Outcome as last charged and told to the learner."""
    charged: float = 0.0
    """Weighed points now in the balance for this slot."""
    charged_at_ms: int = 0
    value: float | None = None
    """Money of the acceptance as reported last by the truest event that did."""
    converted_value: bool = False
    """`value` came with `converted`, which no `accepted` overrules."""
    seen_reported: bool = False
    """A `seen` arrived, or deciding was showing: exposure does not rest on the answer alone."""
    told_cause: str = ""
    """Cause as last told to the learner."""
    told_seen: bool = False
    """`seen_reported` as last told to the learner."""
    exposed_at_ms: int = 0
    """Time under which the exposure is counted; a later report may lower `seen_at_ms`, never this."""
    signs: list[str] = []
    """Evidence that events of the slot brought, codes of `nbx.experience.causes`, sorted."""
    mood: float = 0.0
    """Points for the latest sentiment and effort said of it, not weighed."""
    mood_at_ms: int = 0
    given: bool = False
    """What the action gives was counted."""
    told_evidence: tuple[str, ...] = ()
    """Evidence as last told to the learner, likewise the rule."""
    told_rule: str = ""


class OpenDecision(Struct, array_like=True):
    """What events of a decision need; kept until it can no longer be corrected."""

    customer_id: str
    at_ms: int
    placement: str
    release: int
    x: bytes
    """float32[d]; empty for a degraded decision, which teaches nothing."""
    slots: list[OpenSlot]
    goal: OpenGoal | None = None
    learns: bool = True
    """As `DecisionEntry.learns`."""
    channel: str = ""
    stale: tuple[str, ...] = ()
    """As `DecisionEntry.stale`, likewise the next five."""
    quarantined: tuple[str, ...] = ()
    stakes: float = 0.0
    cluster: int = -1
    after: str = ""
    balance: float = 0.0
    """As `Outcome.balance`."""
    degraded: bool = False
    personalised: bool = True
    """As `DecisionEntry.personalised`."""


class Change(NamedTuple):
    """What an event did to a slot."""

    exposed: bool
    """It is now proved that the customer saw the action, and was not before."""
    hidden_at_ms: int
    """An exposure assumed at that time did not take place; 0: none."""
    settled: bool
    """The outcome, its cause or its answer changed, or an answer's exposure was reported after it."""


_DECODER = msgpack.Decoder(OpenDecision)
_ENCODER = msgpack.Encoder()


def encode_open(decision: OpenDecision) -> bytes:
    """Pack an open decision."""
    return _ENCODER.encode(decision)


def decode_open(packed: bytes) -> OpenDecision:
    """Unpack an open decision."""
    return _DECODER.decode(packed)


def keep_ms(decision: OpenDecision, remember_ms: int) -> int:
    """Return how long a decision is kept; with a goal a minute longer, so that whoever finds it awaited finds it."""
    return remember_ms + 60_000 if decision.goal is not None else remember_ms


def open_slot(record: SlotRecord, at_ms: int) -> OpenSlot:
    """Start a slot's life; on an implicit placement it is seen at once."""
    shown = record.implicit and bool(record.action)
    return OpenSlot(
        action=record.action,
        treatment=record.treatment,
        group=record.group,
        delivery_ms=record.delivery_ms,
        attention_ms=record.attention_ms,
        delivered_at_ms=at_ms if shown else 0,
        seen_at_ms=at_ms if shown else 0,
        seen_reported=shown,
    )


def note_signs(slot: OpenSlot, signs: Collection[str]) -> None:
    """Keep evidence that an event brought, in place; in which order events come makes no difference."""
    if signs:
        slot.signs = sorted({*slot.signs, *signs})


def apply_event(slot: OpenSlot, kind: str, cause: str, reason: str, at_ms: int, value: float | None = None) -> Change:
    """Move a slot on by one event, in place.

    Parameters
    ----------
    slot
        Changed in place; must hold an action.
    kind
        One of `SLOT_EVENTS`.
    cause, reason
        As reported; empty when not.
    at_ms
        When it happened.
    value
        Money, of an acceptance or conversion.
    """
    exposed = kind in _PROVES_EXPOSURE and not slot.seen_at_ms
    if kind in _PROVES_EXPOSURE or kind == "delivered":
        slot.delivered_at_ms = min(slot.delivered_at_ms or at_ms, at_ms)
    if kind in _PROVES_EXPOSURE:
        slot.seen_at_ms = min(slot.seen_at_ms or at_ms, at_ms)
    if kind in ("delivered", "seen"):
        news = kind == "seen" and not slot.seen_reported
        slot.seen_reported = slot.seen_reported or news
        return Change(exposed, hidden_at_ms=0, settled=news and slot.outcome in _PROVES_EXPOSURE)
    if kind in AGENT_EVENTS:
        return _skipped(slot, cause, reason or kind, at_ms)
    answered = kind in ("accepted", "converted") and not slot.accepted
    slot.accepted = slot.accepted or answered
    valued = _revalue(slot, kind, value)
    settled = _settle(slot, ANSWERS[kind], cause, reason, at_ms)
    return Change(exposed, 0, settled or answered or valued)


def say_mood(slot: OpenSlot, points: float, at_ms: int) -> bool:
    """Keep the latest said of how it was, in points, of two at one time the worse; True when that is news."""
    if (at_ms, -points) <= (slot.mood_at_ms, -slot.mood):
        return False
    slot.mood_at_ms, changed = at_ms, points != slot.mood
    slot.mood = points
    return changed


def apply_timer(slot: OpenSlot, kind: str, due_ms: int) -> bool:
    """Let a timer speak; True when the outcome changed. A timer never overrules an event."""
    if kind == "delivery":
        return not slot.delivered_at_ms and _settle(slot, "not_delivered", "", "", due_ms)
    return _settle(slot, "ignored" if slot.seen_at_ms else "not_seen", "", "", due_ms)


def timers(decision_id: str, number: int, slot: OpenSlot, decided_at_ms: int) -> tuple[list[Timer], list[str]]:
    """Return the timers to arm and the members to cancel for where a slot stands."""
    delivery, attention = f"delivery:{decision_id}:{number}", f"attention:{decision_id}:{number}"
    if slot.by_agent or (slot.outcome is not None and RANK[slot.outcome] >= RANK["ignored"]):
        return [], [delivery, attention]
    if slot.delivered_at_ms:
        if slot.outcome == "not_seen" and not slot.seen_at_ms:
            return [], [delivery, attention]
        from_ms = slot.seen_at_ms or slot.delivered_at_ms
        return [Timer(attention, from_ms + slot.attention_ms)], [delivery]
    if slot.outcome is not None:
        return [], [delivery, attention]
    return [Timer(delivery, decided_at_ms + slot.delivery_ms)], []


def _revalue(slot: OpenSlot, kind: str, value: float | None) -> bool:
    """Note what an acceptance was worth; True when that is news."""
    converted = kind == "converted"
    if value is None or kind not in ("accepted", "converted") or (slot.converted_value and not converted):
        return False
    news = value != slot.value
    slot.value, slot.converted_value = value, converted
    return news


def _skipped(slot: OpenSlot, cause: str, reason: str, at_ms: int) -> Change:
    if slot.by_agent or (slot.outcome is not None and RANK[slot.outcome] > RANK["ignored"]):
        return Change(exposed=False, hidden_at_ms=0, settled=False)
    hidden_at_ms = slot.seen_at_ms
    slot.outcome, slot.outcome_at_ms, slot.cause, slot.reason = "not_seen", at_ms, cause, reason
    slot.by_agent, slot.seen_at_ms = True, 0
    return Change(exposed=False, hidden_at_ms=hidden_at_ms, settled=True)


def _settle(slot: OpenSlot, outcome: OutcomeName, cause: str, reason: str, at_ms: int) -> bool:
    if slot.outcome is None or RANK[outcome] > (RANK["ignored"] if slot.by_agent else RANK[slot.outcome]):
        slot.by_agent = False
        slot.outcome, slot.outcome_at_ms, slot.cause, slot.reason = outcome, at_ms, cause, reason
        return True
    if outcome == slot.outcome and (cause or reason) and (cause, reason) != (slot.cause, slot.reason):
        slot.cause, slot.reason = cause or slot.cause, reason or slot.reason
        return True
    return False
