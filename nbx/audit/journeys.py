"""The journeys report: where customers went, whether both sides met there, for whom, and what came after.

Everything is read from the log, from its beginning: whether a step was entered depends on those before it. Journeys
and segments are those of the release in force, whatever was in force when it happened. A customer is in the segments
that the latest decision with consent to personalise has on record; who has none is counted, and in no segment.

What came after a meeting are the answers to decisions made within `AFTER_MS` of it, until the step is entered anew, of
those who agree to learning. They come after, not because: who is met may be who would have accepted anyway.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from msgspec import Struct, field

from nbx.audit.intervals import wilson
from nbx.audit.reading import Window, erased_by, outcomes_of
from nbx.audit.walks import Entered, Happened, Verdict, walk
from nbx.catalog.plan import Plan
from nbx.experience.entries import DecisionEntry, Entry, EventEntry, MovedEntry, Outcome
from nbx.ids import decision_ref
from nbx.limits import REPORT_ROWS

AFTER_MS = 30 * 86_400_000
EXAMPLES = 3
"""Customers or decisions named behind a figure."""


class Share(Struct, frozen=True, kw_only=True):
    """How often something came about."""

    count: int
    """Entries or answers that it is a share of."""
    share: float | None
    """None: of nothing."""
    low: float | None
    """95 % Wilson interval."""
    high: float | None
    examples: tuple[str, ...]
    """Customers (of answers: decisions) with whom it did not come about, the latest first."""


class Delay(Struct, frozen=True, kw_only=True):
    """How long a side took that did its part, in time or not."""

    count: int
    median_s: float | None
    p90_s: float | None


class Afterwards(Struct, frozen=True, kw_only=True):
    """What came after."""

    accepted: Share
    balance: float | None
    """Mean, of the relationship, when it was decided; None without answers."""


class StepReport(Struct, frozen=True, kw_only=True):
    """One step of a journey, of all customers or of a segment."""

    journey: str
    step: str
    feature: str = ""
    """Of the segment; empty: all customers."""
    value: str = ""
    stakes: float
    entries: int
    open: int
    """Entries whose time still runs: in no share of what they may still turn out to be."""
    customer: Share | None
    """None: nothing is expected of the customer."""
    company: Share | None
    """None: nothing is owed."""
    harmony: Share | None
    """Both sides; None: it has none."""
    customer_delay: Delay
    company_delay: Delay
    after_met: Afterwards | None = None
    """None where there are no sides."""
    after_missed: Afterwards | None = None


class Touch(Struct, frozen=True, kw_only=True):
    """A transition on a touch track."""

    after: str
    """Action accepted before; empty: none."""
    next: str
    count: float
    """Of the best customers, those of long ago for less."""
    on_track: bool
    """It is what `track_weight` weighs."""


class ClusterReport(Struct, frozen=True, kw_only=True):
    """One cluster."""

    cluster: int
    size: float
    """Answers behind it, those of long ago for less."""
    centre: dict[str, float]
    """Column → value, in units of the feature; of a category its share."""
    track: tuple[Touch, ...]


class JourneysReport(Struct, frozen=True, kw_only=True):
    """What `nbx report journeys` tells."""

    since_ms: int
    until_ms: int
    release: int
    customers: int
    """Who entered a step."""
    cut: bool
    """More than `limits.REPORT_ROWS` customers, events and answers: customers met first were left out."""
    without_segments: int
    """Of those customers; in no segment."""
    steps: tuple[StepReport, ...]
    segments: tuple[StepReport, ...]
    snapshot: int = 0
    clusters: tuple[ClusterReport, ...] = ()


class _Answer(NamedTuple):
    decided_ms: int
    decision_id: str
    accepted: bool
    balance: float


class _Life(Struct):
    """What is kept of a customer."""

    history: list[Happened] = field(default_factory=list)
    answers: dict[tuple[str, int], tuple[int, _Answer]] = field(default_factory=dict)
    """Decision and slot → revision and answer."""
    segments: tuple[int, dict[str, str]] = (-1, {})
    """As of when, and feature → value."""

    def __len__(self) -> int:
        return 1 + len(self.history) + len(self.answers)


class _Row(NamedTuple):
    """An entry with whose it was."""

    customer_id: str
    entered: Entered
    answers: tuple[_Answer, ...]
    """Of what was decided once it was known whether the sides met."""


class JourneysTally:
    """Takes in the log in its order, from its beginning.

    Parameters
    ----------
    span
        Steps entered in this window count, with everything that became of them until `now_ms`.
    plan
        The release in force.
    plan_of
        Gives the plans of the releases that decided.
    now_ms
        When the report is made.
    bound
        Most events and answers kept.
    """

    def __init__(
        self, span: Window, plan: Plan, plan_of: Callable[[int], Plan], now_ms: int, bound: int = REPORT_ROWS
    ) -> None:
        self._span, self._plan, self._plan_of, self._now_ms, self._bound = span, plan, plan_of, now_ms, bound
        self._events = plan.rules.steps.keys() | plan.rules.deeds.keys()
        self._lives: OrderedDict[str, _Life] = OrderedDict()
        self._into: dict[str, str] = {}
        """Alias → whom it was merged into."""
        self._kept = 0
        self._cut = False

    def take(self, entries: Iterable[Entry]) -> None:
        """Take in log entries; `plan_of` must know the releases that decided them."""
        for entry in entries:
            if isinstance(entry, MovedEntry):
                self._merge(entry.customer_id, entry.into)
            elif customer := erased_by(entry):
                self._drop(customer)
            elif isinstance(entry, DecisionEntry):
                self._take_segments(entry)
            elif isinstance(entry, EventEntry) and entry.event.type in self._events:
                happened = Happened(entry.at_ms, entry.event.type, entry.event.by == "customer")
                self._life(entry.customer_id).history.append(happened)
                self._kept += 1
            for outcome in outcomes_of(entry):
                self._take_outcome(entry.customer_id, outcome)
            while self._kept > self._bound and len(self._lives) > 1:
                self._drop(next(iter(self._lives)))
                self._cut = True

    def report(self) -> JourneysReport:
        """Sum up."""
        rows: dict[tuple[str, str], list[_Row]] = defaultdict(list)
        entered: set[str] = set()
        for customer, life in self._lives.items():
            for journey in self._plan.catalog.journeys:
                for each in walk(journey, life.history):
                    if self._span.since_ms <= each.at_ms < self._span.until_ms:
                        rows[journey.name, each.step.name].append(_Row(customer, each, self._answers(life, each)))
                        entered.add(customer)
        steps = [(journey.name, step.name) for journey in self._plan.catalog.journeys for step in journey.steps]
        segments = []
        for feature in self._plan.catalog.segments:
            value_of = {customer: self._lives[customer].segments[1].get(feature) for customer in entered}
            for value in sorted({value for value in value_of.values() if value is not None}):
                of_value = {key: [row for row in rows[key] if value_of[row.customer_id] == value] for key in steps}
                segments += [self._step(*key, mine, feature, value) for key, mine in of_value.items() if mine]
        return JourneysReport(
            since_ms=self._span.since_ms,
            until_ms=self._span.until_ms,
            release=self._plan.release,
            customers=len(entered),
            cut=self._cut,
            without_segments=sum(not self._lives[customer].segments[1] for customer in entered)
            if self._plan.catalog.segments
            else 0,
            steps=tuple(self._step(*key, rows[key]) for key in steps),
            segments=tuple(segments),
        )

    def _life(self, customer_id: str) -> _Life:
        while customer_id in self._into:
            customer_id = self._into[customer_id]
        if customer_id not in self._lives:
            self._lives[customer_id] = _Life()
            self._kept += 1
        return self._lives[customer_id]

    def _merge(self, alias: str, into: str) -> None:
        gone = self._lives.get(alias)
        self._drop(alias)
        self._into[alias] = into
        self._into.pop(into, None)
        if gone is not None:
            life = self._life(into)
            self._kept += len(gone) - 1
            life.history += gone.history
            life.answers |= gone.answers
            life.segments = max(life.segments, gone.segments, key=lambda known: known[0])

    def _drop(self, customer_id: str) -> None:
        if (gone := self._lives.pop(customer_id, None)) is not None:
            self._kept -= len(gone)

    def _take_segments(self, entry: DecisionEntry) -> None:
        if entry.segments and entry.personalised:
            names = self._plan_of(entry.release).catalog.segments
            life = self._life(entry.customer_id)
            if entry.at_ms >= life.segments[0]:
                life.segments = entry.at_ms, dict(zip(names, entry.segments, strict=False))

    def _take_outcome(self, customer_id: str, outcome: Outcome) -> None:
        if outcome.response is None or not outcome.learns:
            return
        answers, key = self._life(customer_id).answers, (outcome.decision_id, outcome.slot)
        known = answers.get(key)
        if known is None:
            self._kept += 1
        if known is None or outcome.revision > known[0]:
            decided_ms = decision_ref(outcome.decision_id).at_ms
            answer = _Answer(decided_ms, outcome.decision_id, outcome.response == 1, outcome.balance)
            answers[key] = outcome.revision, answer

    def _answers(self, life: _Life, entered: Entered) -> tuple[_Answer, ...]:
        if entered.both(self._now_ms) == "open":
            return ()
        since_ms = entered.settled_ms(self._now_ms)
        until_ms = min(since_ms + AFTER_MS, entered.ends_ms or self._now_ms + 1)
        return tuple(each for _, each in life.answers.values() if since_ms <= each.decided_ms < until_ms)

    def _step(self, journey: str, name: str, rows: Sequence[_Row], feature: str = "", value: str = "") -> StepReport:
        step = next(each for each in self._plan.rules.journeys[journey].steps if each.name == name)
        rows = sorted(rows, key=lambda row: (-row.entered.at_ms, row.customer_id))
        sided = bool(step.does or step.owes)
        both = [(row, row.entered.both(self._now_ms)) for row in rows]

        def share(verdict_of: Callable[[Entered], Verdict]) -> Share:
            told = [(row.customer_id, verdict_of(row.entered)) for row in rows]
            return _share([(verdict == "met", customer) for customer, verdict in told if verdict != "open"])

        return StepReport(
            journey=journey,
            step=name,
            feature=feature,
            value=value,
            stakes=step.stakes,
            entries=len(rows),
            open=sum(verdict == "open" for _, verdict in both),
            customer=share(lambda each: each.customer(self._now_ms)) if step.does else None,
            company=share(lambda each: each.company(self._now_ms)) if step.owes else None,
            harmony=share(lambda each: each.both(self._now_ms)) if sided else None,
            customer_delay=_delay([(row.entered.at_ms, row.entered.did_ms) for row in rows]),
            company_delay=_delay([(row.entered.at_ms, row.entered.kept_ms) for row in rows]),
            after_met=_afterwards([row for row, verdict in both if verdict == "met"]) if sided else None,
            after_missed=_afterwards([row for row, verdict in both if verdict == "missed"]) if sided else None,
        )


def _share(told: Sequence[tuple[bool, str]]) -> Share:
    """Sum up whether something came about, with whom, the latest first."""
    count = len(told)
    rate = sum(came for came, _ in told) / count if count else None
    low, high = wilson(rate, count) if rate is not None else (None, None)
    missed = list(dict.fromkeys(name for came, name in told if not came))
    return Share(count=count, share=rate, low=low, high=high, examples=tuple(missed[:EXAMPLES]))


def _delay(times: Sequence[tuple[int, int]]) -> Delay:
    took = [(done_ms - entered_ms) / 1000 for entered_ms, done_ms in times if done_ms]
    median, p90 = np.quantile(took, (0.5, 0.9)).tolist() if took else (None, None)
    return Delay(count=len(took), median_s=median, p90_s=p90)


def _afterwards(rows: Sequence[_Row]) -> Afterwards:
    answers = sorted({answer for row in rows for answer in row.answers}, key=lambda each: (-each.decided_ms, each))
    balances = [each.balance for each in answers]
    return Afterwards(
        accepted=_share([(each.accepted, each.decision_id) for each in answers]),
        balance=float(np.mean(balances)) if balances else None,
    )
