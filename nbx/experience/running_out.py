"""Letting a customer's timer of promises speak: one commit that breaks what is past due."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbx.experience.entries import TimerEntry
from nbx.experience.pending import pending_of
from nbx.experience.promises import TIMER, next_due_ms
from nbx.features.keys import partition_keys
from nbx.features.store import Verdict
from nbx.limits import COMMIT_ATTEMPTS

if TYPE_CHECKING:
    from nbx.catalog.plan import Plan
    from nbx.clock import Clock
    from nbx.features.store import Store, Timer


async def run_out(store: Store, plan: Plan, clock: Clock, partition: int, timer: Timer, timeout_ms: float) -> bool:
    """Break what a customer was promised and is past due, or drop the timer when nothing waits any more.

    The entry's time is when the first of them was due: what falls due later is told by the next turn of the timer.
    False: others were changing the customer all the time.
    """
    customer_id = timer.member.removeprefix(TIMER)
    keys = partition_keys(partition)
    for _ in range(COMMIT_ATTEMPTS):
        (packed,) = await store.read([keys.customer(customer_id)], timeout_ms)
        pending = pending_of(keys, packed, clock.now_ms())
        due_ms = next_due_ms(pending.state)
        if not due_ms:
            await store.drop_timers(partition, [timer.member])
            return True
        if due_ms <= clock.now_ms():  # otherwise it was put off meanwhile: the commit arms the timer anew
            entry = TimerEntry(
                customer_id=customer_id, at_ms=due_ms, release=plan.release, decision_id="", slot=0, kind="promise"
            )
            pending.fold(entry, "", None, plan)
        if (await store.commit(pending.commit(partition, customer_id), timeout_ms)).verdict is Verdict.DONE:
            return True
    return False
