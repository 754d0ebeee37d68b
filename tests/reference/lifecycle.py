"""What the life cycle promises, computed the slow way: from everything a slot ever heard, all over again each time.

Written from the words of `nbx.experience.lifecycle` and docs/design.md, not from its code: the outcome of a slot is the
truest of what reached it; a timer speaks only while nobody else did; what an agent reports of an own act is
truer than any timer and less true than any answer of the customer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from nbx.experience.entries import DecisionEntry, Entry, EraseEntry, EventEntry, TimerEntry

TRUTH = (
    "not_delivered",
    "not_seen",
    "ignored",
    "dismissed",
    "declined",
    "accepted",
    "converted",
    "failed",
    "complained",
)
"""From the least to the most true."""
ANSWERS = frozenset({"dismissed", "declined", "accepted", "converted", "failed", "complained"})
BY_AGENT = frozenset({"skipped", "unsuitable", "no_time"})
PROOF = frozenset({"seen", "dismissed", "declined", "accepted", "converted"})
"""Of these each proves that the customer saw the action."""

SlotKey = tuple[str, int]


@dataclass
class Slot:
    """Everything a slot heard, in the order it was logged."""

    action: str
    decided_ms: int
    implicit: bool
    until_ms: int
    """When its reservation ends."""
    heard: list[tuple[str, int]] = field(default_factory=list)
    """(event type, or `timer:` and the outcome it claims; time)."""

    def hear_timer(self, kind: str, due_ms: int) -> None:
        kinds = {what for what, _ in self.heard}
        seen = bool(kinds & PROOF) or self.implicit
        if kind == "delivery":
            if not (seen or "delivered" in kinds):
                self.heard.append(("timer:not_delivered", due_ms))
        else:
            self.heard.append(("timer:ignored" if seen else "timer:not_seen", due_ms))

    def outcome(self) -> tuple[str, int] | None:
        """Return the outcome and its time, by what was heard until now; None: still open."""
        answers = [(TRUTH.index(what), at_ms, what) for what, at_ms in self.heard if what in ANSWERS]
        if answers:
            best = max(rank for rank, _, _ in answers)
            return next((what, at_ms) for rank, at_ms, what in answers if rank == best)
        skipped = [at_ms for what, at_ms in self.heard if what in BY_AGENT]
        if skipped:
            return "not_seen", skipped[0]
        claims = [(what.removeprefix("timer:"), at_ms) for what, at_ms in self.heard if what.startswith("timer:")]
        if not claims:
            return None
        best = max(TRUTH.index(what) for what, _ in claims)
        return next((what, at_ms) for what, at_ms in claims if TRUTH.index(what) == best)

    def exposed_ms(self) -> int | None:
        """Return when it was proved to have been seen, unless an agent took that back; None: it was not."""
        shown: int | None = self.decided_ms if self.implicit else None
        answered = skipped = False
        for what, at_ms in self.heard:
            answered = answered or what in ANSWERS
            if what in BY_AGENT and not answered and not skipped:
                shown, skipped = None, True
            elif what in PROOF and shown is None:
                shown = at_ms
        return shown

    def reserved(self, now_ms: int) -> bool:
        """Tell whether it may still be seen."""
        return self.exposed_ms() is None and self.outcome() is None and self.until_ms > now_ms


class Reference:
    """Slots of one customer as of a place in the log."""

    def __init__(self) -> None:
        self.slots: dict[SlotKey, Slot] = {}
        self.told: dict[SlotKey, list[str]] = {}
        """Outcomes a slot has had, without repetitions."""

    def take(self, entry: Entry) -> None:
        """Go on by one log entry; its own outcomes are not looked at."""
        match entry:
            case DecisionEntry():
                for number, slot in enumerate(entry.slots):
                    if slot.action:
                        until_ms = entry.at_ms + slot.delivery_ms + slot.attention_ms
                        key = (entry.decision_id, number)
                        self.slots[key] = Slot(slot.action, entry.at_ms, slot.implicit, until_ms)
            case EventEntry():
                self._hear((entry.event.decision_id, entry.event.slot), entry.event.type, entry.at_ms)
            case TimerEntry():
                key = (entry.decision_id, entry.slot)
                if key in self.slots and entry.kind != "goal":
                    self.slots[key].hear_timer(entry.kind, entry.at_ms)
                    self._note(key)
            case EraseEntry():
                self.slots.clear()
                self.told.clear()
            case _:
                pass

    def _hear(self, key: SlotKey, what: str, at_ms: int) -> None:
        if key in self.slots and what in ANSWERS | BY_AGENT | PROOF | {"delivered"}:
            self.slots[key].heard.append((what, at_ms))
            self._note(key)

    def _note(self, key: SlotKey) -> None:
        outcome = self.slots[key].outcome()
        told = self.told.setdefault(key, [])
        if outcome is not None and told[-1:] != [outcome[0]]:
            told.append(outcome[0])

    def contacts(self, actions: Iterable[str], per_ms: int, now_ms: int) -> int:
        """Count exposures of the window and those that may still come."""
        wanted = frozenset(actions)
        count = 0
        for slot in self.slots.values():
            if slot.action in wanted:
                exposed_ms = slot.exposed_ms()
                seen = exposed_ms is not None and exposed_ms // 1000 > (now_ms - per_ms) // 1000
                count += seen or slot.reserved(now_ms)
        return count
