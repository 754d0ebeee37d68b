"""Making good after the store was away: log what was answered degraded, and take back what was never shown."""

from __future__ import annotations

import asyncio

from nbx.decision.service import DecisionService
from nbx.errors import Unavailable
from nbx.experience.entries import DecisionEntry, Event
from nbx.experience.service import EventService

AT_ONCE = 64
"""Decisions logged together: a service that was late for hundreds a second must not fall behind with telling."""


async def recover(decisions: DecisionService, events: EventService) -> int:
    """Write what waits; returns how many were written. Stops quietly when the store is away again.

    A commit that timed out may have been applied although its caller was answered otherwise: each of its slots is
    reported as skipped for a technical reason, which takes back an assumed exposure and charges nobody. When it was not
    applied the report is refused as unknown, and that is all.
    """
    written = 0
    while decisions.degraded:
        done, more = await _log(decisions)
        written += done
        if not more:
            return written
    while decisions.uncertain:
        decision_id, customer_id, slots = decisions.uncertain.popleft()
        try:
            await events.record([_withdrawn(decision_id, customer_id, slot) for slot in range(slots)])
        except Unavailable:
            decisions.uncertain.appendleft((decision_id, customer_id, slots))
            return written
        written += 1
    return written


async def _log(decisions: DecisionService) -> tuple[int, bool]:
    """Log the oldest that wait, each customer's one after the other; returns how many, and whether to go on."""
    # taken before they are written: a queue that overflows meanwhile drops its oldest, which must not be others
    waiting, taken = decisions.degraded, dict[str, DecisionEntry]()
    while waiting and len(taken) < AT_ONCE and waiting[0].customer_id not in taken:
        entry = waiting.popleft()
        taken[entry.customer_id] = entry
    entries = list(taken.values())
    try:
        told = await asyncio.gather(*map(decisions.log_degraded, entries), return_exceptions=True)
    except BaseException:  # cancelled: what was written is found to be there when it is tried again
        waiting.extendleft(reversed(entries))
        raise
    left = [entry for entry, fault in zip(entries, told, strict=True) if isinstance(fault, Unavailable)]
    waiting.extendleft(reversed(left))
    for fault in told:
        if isinstance(fault, BaseException) and not isinstance(fault, Unavailable):
            raise fault
    return len(entries) - len(left), not left


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
