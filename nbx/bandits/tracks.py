"""Touch tracks: what the best customers of each cluster accepted next, as decayed counts of transitions.

Best are the customers whose balance, when it was decided, was at least the mean of their cluster, so that the track
tells what goes well with those who are well treated, not what is accepted most. An acceptance counts when it is first
told; a failure after it does not take it back, as the answer was a yes.
"""

from __future__ import annotations

import math

from msgspec import Struct, field

from nbx.bandits.snapshot import Step

HALF_LIFE_MS = 30 * 86_400_000
"""Of transitions and mean balances: offers change with the month."""
KEPT = 256
"""Transitions kept per cluster; beyond it the rarest makes room."""


class Decayed(Struct, array_like=True):
    """A sum that halves every `HALF_LIFE_MS`, as of its newest addition."""

    amount: float = 0.0
    at_ms: int = 0

    def add(self, amount: float, at_ms: int) -> None:
        """Add what happened at a time; what came late counts for less."""
        if at_ms > self.at_ms:
            self.amount, self.at_ms = self.at(at_ms), at_ms
        self.amount += amount * math.exp2((at_ms - self.at_ms) / HALF_LIFE_MS)

    def at(self, now_ms: int) -> float:
        """Return the sum at a time; before the newest addition it is that one's."""
        return self.amount * math.exp2(min(self.at_ms - now_ms, 0) / HALF_LIFE_MS)


class Track(Struct):
    """What is kept of one cluster: itself what a checkpoint holds.

    Examples
    --------
    >>> track = Track()
    >>> for balance, action in ((4.0, "savings"), (-6.0, "loan"), (5.0, "savings")):
    ...     track.answered(balance, at_ms=0)
    ...     track.accepted(balance, "card", action, at_ms=0)
    >>> track.steps(cluster=0, now_ms=0)
    [Step(cluster=0, after='card', next='savings', count=2.0)]
    """

    size: Decayed = field(default_factory=Decayed)
    """Answers."""
    balance: Decayed = field(default_factory=Decayed)
    """Sum of the balances of those who answered."""
    transitions: list[tuple[str, str, Decayed]] = []
    """(accepted before, accepted then, how often), in the order in which they were first seen."""

    def answered(self, balance: float, at_ms: int) -> None:
        """Count an answer of a customer with a balance."""
        self.size.add(1.0, at_ms)
        self.balance.add(balance, at_ms)

    def accepted(self, balance: float, after: str, action: str, at_ms: int) -> None:
        """Count an acceptance, if the customer is among the best."""
        now_ms = max(at_ms, self.size.at_ms)
        if balance * self.size.at(now_ms) < self.balance.at(now_ms):
            return
        count = next((each for before, then, each in self.transitions if (before, then) == (after, action)), None)
        if count is None:
            if len(self.transitions) == KEPT:
                self.transitions.remove(min(self.transitions, key=lambda each: each[2].at(now_ms)))
            count = Decayed()
            self.transitions.append((after, action, count))
        count.add(1.0, at_ms)

    def steps(self, cluster: int, now_ms: int) -> list[Step]:
        """Return the transitions as of a time, the most frequent first."""
        found = [Step(cluster, after, action, count.at(now_ms)) for after, action, count in self.transitions]
        return sorted(found, key=lambda step: (-step.count, step.after, step.next))
