"""Making good after the store was away: log what was answered degraded, and take back what was never shown."""

from __future__ import annotations

from nbx.decision.service import DecisionService
from nbx.errors import Unavailable
from nbx.experience.entries import Event
from nbx.experience.service import EventService


async def recover(decisions: DecisionService, events: EventService) -> int:
    """Write what waits; returns how many were written. Stops quietly when the store is away again.

    A commit that timed out may have been applied although its caller was answered otherwise: each of its slots is
    reported as skipped for a technical reason, which takes back an assumed exposure and charges nobody. When it was not
    applied the report is refused as unknown, and that is all.
    """
    written = 0
    # taken before it is written: a queue that overflows meanwhile drops its oldest, which must not be another one
    while decisions.degraded:
        entry = decisions.degraded.popleft()
        try:
            await decisions.log_degraded(entry)
        except Unavailable:
            decisions.degraded.appendleft(entry)
            return written
        written += 1
    while decisions.uncertain:
        decision_id, customer_id, slots = decisions.uncertain.popleft()
        try:
            await events.record([_withdrawn(decision_id, customer_id, slot) for slot in range(slots)])
        except Unavailable:
            decisions.uncertain.appendleft((decision_id, customer_id, slots))
            return written
        written += 1
    return written


def _withdrawn(decision_id: str, customer_id: str, slot: int) -> Event:
    return Event(
        event_id=f"withdrawn:{decision_id}:{slot}",
        type="skipped",
        by="agent",
        decision_id=decision_id,
        customer_id=customer_id,
        slot=slot,
        cause="execution",
        reason="timeout",
    )
