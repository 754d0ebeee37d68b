"""What is to be written of one customer: entries are folded as they come, and everything goes into one commit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from msgspec import structs

from nbx.catalog.plan import Plan
from nbx.experience.entries import Entry, EventEntry, Outcome, ProfileEntry, TimerEntry, encode_entry
from nbx.experience.fold import fold
from nbx.experience.lifecycle import OpenDecision, encode_open, keep_ms
from nbx.experience.merging import merge_timers
from nbx.experience.promises import promise_timers
from nbx.features.keys import PartitionKeys
from nbx.features.state import CustomerState, decode_state, encode_state
from nbx.features.store import Commit, Put, Timer, versioned


@dataclass(slots=True)
class Pending:
    """Folded, not yet committed, changes of one customer."""

    keys: PartitionKeys
    now_ms: int
    state: CustomerState
    version: int
    entries: list[bytes]
    puts: dict[str, Put]
    arm: dict[str, Timer]
    cancel: dict[str, None]
    canonical: CustomerState | None = None
    """Of an alias: the canonical customer's state."""

    def fold(
        self,
        entry: Entry,
        decision_id: str,
        decision: OpenDecision | None,
        plan: Plan,
        others: Mapping[str, OpenDecision | None] = MappingProxyType({}),
    ) -> tuple[Outcome, ...]:
        """Fold an entry and note what is to be written; returns the outcomes."""
        folded = fold(self.state, decision, entry, plan.rules, others, self.canonical)
        if isinstance(entry, EventEntry | TimerEntry) and (folded.outcomes or folded.goals):
            entry = structs.replace(entry, outcomes=folded.outcomes, goals=folded.goals)
        elif isinstance(entry, TimerEntry) and folded.broken:
            entry = structs.replace(entry, broken=folded.broken)
        elif isinstance(entry, ProfileEntry) and folded.outcomes:
            entry = structs.replace(entry, outcomes=folded.outcomes)
        self.entries.append(encode_entry(entry))
        told = [*(goal.decision_id for goal in folded.goals), *(outcome.decision_id for outcome in folded.outcomes)]
        changed = {each: others[each] for each in told if each in others}
        for changed_id, open_decision in ({decision_id: folded.decision} | changed).items():
            if open_decision is not None:
                key = self.keys.decision(changed_id)
                left_ms = keep_ms(open_decision, plan.rules.remember_ms) - (self.now_ms - open_decision.at_ms)
                self.puts[key] = Put(key, encode_open(open_decision), max(left_ms, 60_000))
        for member in folded.cancel:
            self.arm.pop(member, None)
            self.cancel[member] = None
        for timer in folded.arm:
            self.arm[timer.member] = timer
            self.cancel.pop(timer.member, None)
        return folded.outcomes

    def commit(self, partition: int, customer_id: str) -> Commit:
        """Lay out the commit."""
        arm, cancel = merge_timers(customer_id, self.state, self.now_ms) if self.state.merged_into else ((), ())
        due, settled = promise_timers(customer_id, self.state)
        return Commit(
            partition=partition,
            customer_key=self.keys.customer(customer_id),
            expected_version=self.version,
            state=encode_state(self.state),
            entries=tuple(self.entries),
            puts=tuple(self.puts.values()),
            arm=(*self.arm.values(), *arm, *due),
            cancel=(*self.cancel, *cancel, *settled),
        )


def pending_of(keys: PartitionKeys, packed: bytes | None, now_ms: int) -> Pending:
    """Begin with a customer as stored."""
    version, struct = versioned(packed)
    return Pending(keys, now_ms, decode_state(struct), version, [], {}, {}, {})
