"""What became of customers, each followed equally long from its first decision: what return on experience rests on.

A customer is *met* at its first decision of the window, and followed for `follow_ms`. Decisions of that time count,
with what is known of them `settle_ms` after its end; then the customer is *counted*, and nothing that is told of it
changes any more: a later truth does not count, nor does what it does next. So everybody is followed equally long,
customers enter in the order in which they were met, and a report made later only adds customers. That is what makes
looking again and again safe (`nbx.audit.sequential`).

The arm is that of the hash of the id, whatever befell the customer later: held out by a merge with somebody who is,
or by shares that changed (intent to treat). Such decisions are counted beside. An alias that was met before it was
merged, and the customer it turned out to be, count each as what their own id says; leaving out whoever merged would
choose among customers by what they did. Only erased customers are gone, from every sum.

Sums per customer are kept and what decisions in their time added to them, until they are counted: memory grows with
customers (`limits.ROI_CUSTOMERS`), and decisions of customers still followed (`limits.REPORT_ROWS`). When there are
more, nobody new is met: those met first stay, as a sequence may not lose its beginning.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from msgspec import Struct

from nbx.audit.clustered import F64, I64
from nbx.audit.experienced import LOST
from nbx.audit.reading import SKEW_MS, Window, erased_by, outcomes_of
from nbx.catalog.model import Catalog, Holdout
from nbx.experience.causes import POSITIVE
from nbx.experience.entries import DecisionEntry, Entry, EventEntry, GoalOutcome, MovedEntry, Outcome, TimerEntry
from nbx.experience.holdout import assignment
from nbx.experience.relationship import weighed
from nbx.features.state import CustomerState
from nbx.limits import REPORT_ROWS, ROI_CUSTOMERS

ARMS = ("nbx", "silent", "random")
PASSED_OVER = -1
CAUSES = ("assumption", "information", "execution", "timing", "unknown")
COLUMNS = (
    "visits", "accepted", "value", "points", "money", *CAUSES, "goals", "goals_awaited", "degraded", "otherwise",
)  # fmt: skip
"""Sums per customer: decisions; acceptances and their money; points and what they are worth; what negative outcomes
cost, by cause, ≥ 0; goals reached, and whose outcome is known; degraded decisions; decisions made as of another arm."""
_AT = {name: k for k, name in enumerate(COLUMNS)}
_NOBODY = CustomerState()


class Life(Struct):
    """A customer as met."""

    arm: int
    """Position in `ARMS`; `PASSED_OVER`: met under other shares."""
    first_ms: int
    sums: array[float]
    merged: bool = False


class Followed(Struct):
    """A decision of a customer's time, and what its slots and goal added so far."""

    life: Life
    slots: dict[int, tuple[int, tuple[tuple[int, float], ...]]]
    """Slot (−1: the goal) → revision, and what it added to which column."""


class Counted(NamedTuple):
    """Customers that are counted, in the order in which they were met."""

    arm: I64
    first_ms: I64
    sums: F64
    """(n, len(COLUMNS))"""

    def column(self, name: str) -> F64:
        """Return a column."""
        found: F64 = self.sums[:, _AT[name]]
        return found


class Terms(NamedTuple):
    """Of whom it is asked."""

    span: Window
    """When customers are met."""
    placement: str
    """Empty: all."""
    shares: Holdout
    """Under which they have to be met: a comparison needs the same chances for all."""
    follow_ms: int
    settle_ms: int


class ReturnTally:
    """Takes in the log in its order.

    Parameters
    ----------
    terms
        Of whom.
    catalog_of
        Gives the catalogs of the releases that decided.
    salt
        Of the installation's holdouts.
    customers, decisions
        Most kept.
    """

    def __init__(
        self,
        terms: Terms,
        catalog_of: Callable[[int], Catalog],
        salt: str,
        customers: int = ROI_CUSTOMERS,
        decisions: int = REPORT_ROWS,
    ) -> None:
        self.terms = terms
        self.erased = 0
        """Customers met in the window and erased since."""
        self.decisions = 0
        """Of the window, of all customers and of this placement."""
        self.cut_ms = 0
        """When the last customer that fits was met; 0: all did."""
        self._catalog_of = catalog_of
        self._salt = salt
        self._bounds = customers, decisions
        self._lives: dict[str, Life] = {}
        self._followed: OrderedDict[str, Followed] = OrderedDict()
        self._worth: dict[int, dict[str, float]] = {}
        self._last_ms = 0

    def take(self, entries: Iterable[Entry]) -> None:
        """Take in log entries; `catalog_of` must know the releases that decided them."""
        for entry in entries:
            if isinstance(entry, DecisionEntry):
                self._decided(entry)
                continue
            if customer := erased_by(entry):
                self._erase(customer)
            elif isinstance(entry, MovedEntry):
                for each in (entry.customer_id, entry.into):
                    if each in self._lives:
                        self._lives[each].merged = True
            told_ms = entry.received_ms if isinstance(entry, EventEntry) else entry.at_ms
            self._last_ms = max(self._last_ms, told_ms)
            for outcome in outcomes_of(entry):
                self._tell(outcome, told_ms)
            if isinstance(entry, EventEntry | TimerEntry):
                for goal in entry.goals:
                    self._tell(goal, told_ms)
        self._let_go()

    def counted(self, now_ms: int) -> Counted:
        """Return those whose time is over."""
        lives = [life for life in self._lives.values() if life.arm != PASSED_OVER and self._ends_ms(life) <= now_ms]
        lives.sort(key=lambda life: life.first_ms)
        sums = np.array([life.sums for life in lives], dtype=np.float64).reshape(len(lives), len(COLUMNS))
        arm = np.array([life.arm for life in lives], dtype=np.int64)
        return Counted(arm, np.array([life.first_ms for life in lives], dtype=np.int64), sums)

    def still_followed(self, now_ms: int) -> tuple[int, int]:
        """Return how many are not counted yet, and when the next will be; 0: there is none."""
        ends = [
            end for life in self._lives.values() if life.arm != PASSED_OVER and (end := self._ends_ms(life)) > now_ms
        ]
        return len(ends), min(ends, default=0)

    @property
    def passed_over(self) -> int:
        """Customers met under other shares."""
        return sum(life.arm == PASSED_OVER for life in self._lives.values())

    @property
    def merged(self) -> int:
        """Ids met that were merged within the log that was read, aliases and those they turned out to be."""
        return sum(life.merged and life.arm != PASSED_OVER for life in self._lives.values())

    def _ends_ms(self, life: Life) -> int:
        return life.first_ms + self.terms.follow_ms + self.terms.settle_ms

    def _decided(self, entry: DecisionEntry) -> None:
        terms = self.terms
        self._last_ms = max(self._last_ms, entry.at_ms)
        if entry.at_ms < terms.span.since_ms or terms.placement not in ("", entry.request.placement):
            return
        life = self._lives.get(entry.customer_id)
        inside = entry.at_ms < terms.span.until_ms
        self.decisions += inside
        if life is None:
            life = self._meet(entry) if inside else None
        if life is None or life.arm == PASSED_OVER or entry.at_ms >= life.first_ms + terms.follow_ms:
            return
        life.sums[_AT["visits"]] += 1.0
        life.sums[_AT["degraded"]] += bool(entry.degraded)
        life.sums[_AT["otherwise"]] += (entry.holdout or "nbx") != ARMS[life.arm]
        self._followed[entry.decision_id] = Followed(life, {})
        if len(self._followed) > 2 * self._bounds[1]:  # those met go on deciding
            self._followed.popitem(last=False)

    def _meet(self, entry: DecisionEntry) -> Life | None:
        if self.cut_ms:
            return None
        if len(self._lives) >= self._bounds[0] or len(self._followed) >= self._bounds[1]:
            self.cut_ms = max(entry.at_ms, 1)
            return None
        arm = PASSED_OVER
        if self._catalog_of(entry.release).holdout == self.terms.shares:
            arm = ARMS.index(assignment(entry.customer_id, _NOBODY, self.terms.shares, self._salt) or "nbx")
        life = Life(arm, entry.at_ms, array("d", [0.0]) * len(COLUMNS))
        self._lives[entry.customer_id] = life
        return life

    def _erase(self, customer_id: str) -> None:
        life = self._lives.pop(customer_id, None)
        if life is not None:
            self.erased += life.arm != PASSED_OVER

    def _tell(self, outcome: Outcome | GoalOutcome, told_ms: int) -> None:
        followed = self._followed.get(outcome.decision_id)
        if followed is None or told_ms > self._ends_ms(followed.life):
            return
        revision, added = followed.slots.get(outcome.slot, (-1, ()))
        if outcome.revision <= revision:
            return
        sums = followed.life.sums
        for k, amount in added:
            sums[k] -= amount
        added = tuple(self._added(outcome))
        for k, amount in added:
            sums[k] += amount
        followed.slots[outcome.slot] = outcome.revision, added

    def _added(self, outcome: Outcome | GoalOutcome) -> Iterable[tuple[int, float]]:
        """Yield what an outcome adds to which column."""
        if isinstance(outcome, GoalOutcome):
            if outcome.response is not None:
                yield _AT["goals"], float(outcome.response)
                yield _AT["goals_awaited"], 1.0
            return
        if outcome.response == 1:
            yield _AT["accepted"], 1.0
            declared = self._declared(outcome.release).get(outcome.action, 0.0)
            yield _AT["value"], declared if outcome.value is None else outcome.value
        policy = self._catalog_of(outcome.release).experience
        money = weighed(outcome.experience, policy) * (1.0 + outcome.stakes) * policy.exchange
        yield _AT["points"], outcome.experience
        yield _AT["money"], money
        if outcome.outcome not in POSITIVE and outcome.outcome not in LOST and money < 0.0:
            yield _AT[outcome.cause if outcome.cause in CAUSES else "unknown"], -money

    def _declared(self, release: int) -> dict[str, float]:
        if release not in self._worth:
            self._worth[release] = {action.name: action.value for action in self._catalog_of(release).actions}
        return self._worth[release]

    def _let_go(self) -> None:
        """Forget decisions of which nothing counts any more."""
        while self._followed:
            followed = self._followed[next(iter(self._followed))]
            if self._ends_ms(followed.life) + SKEW_MS >= self._last_ms:
                break
            self._followed.popitem(last=False)
