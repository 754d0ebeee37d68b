"""Customers as they were when they were decided for: their log entries folded again, up to each decision asked about.

The fold is that of serving, with the rules of the release that each entry names. Two things are added for a release
that is not in force yet: exposures are kept for as long as its limits reach back, and aggregates, journeys and concerns
that it declares otherwise are fed beside the state, from the log's start.

What is rebuilt is believed as far as it can be checked: a record says how many commits its state had behind it, and
what the relationship and x were. Where the log begins too late (it was trimmed) or anything else differs, the decision
and those that follow it are refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Literal, NamedTuple

from msgspec import Struct, field

from nbx.catalog.plan import Plan
from nbx.catalog.rules import Rules
from nbx.catalog.vocabulary import CLUSTER
from nbx.experience import journeys
from nbx.experience.entries import AbsorbEntry, DecisionEntry, Entry, EraseEntry, EventEntry, TimerEntry
from nbx.experience.fold import fold
from nbx.experience.lifecycle import OpenDecision, keep_ms
from nbx.experience.relationship import relationship_features
from nbx.features.aggregates import fold_event
from nbx.features.schema import Aggregate, Feature, Value
from nbx.features.state import CustomerState

Doubt = Literal["", "log_incomplete", "state_differs", "merged"]
"""Why a rebuilt state is not believed: the log does not reach back to the customer's first entry, it differs from what
the record says, or another customer was merged into it of whom the other release would know something else."""


class Rebuilt(NamedTuple):
    """A decision and the state it was made on. Valid until the next entry is taken, and read only until then."""

    entry: DecisionEntry
    state: CustomerState
    other: CustomerState
    """What of the state the other release sees otherwise: see `Rebuilder.seen_by_the_other`."""
    doubt: Doubt


class _KeepingRules(Rules):
    """Rules under which exposures are kept for as long as either release needs them."""

    def __init__(self, own: Plan, other: Plan) -> None:
        super().__init__(own.catalog, own.release)
        self.keep_s = max(self.keep_s, other.rules.keep_s)


class _Past(Struct):
    """A customer as of the entries taken so far."""

    state: CustomerState = field(default_factory=CustomerState)
    other: CustomerState = field(default_factory=CustomerState)
    """Aggregates, journeys and concerns that the other release declares otherwise; nothing else."""
    open_: dict[str, OpenDecision] = field(default_factory=dict)
    least: int = 0
    """Commits that lie behind the state at least: entries of one commit are several in the log."""
    most: int = 0
    exact: bool = True
    """No entry since their number was known."""
    doubt: Doubt = ""


class Rebuilder:
    """Folds the entries of some customers, and gives their decisions with the state before each.

    Parameters
    ----------
    customers
        Whose.
    base, other
        The release in force, and the one that is to see the same customers. None: states are those that were served,
        to the bit, and whether they are to be believed is for the caller to find out (`versions`).
    plan_of
        Gives the plan of each release that the log names.
    """

    def __init__(
        self, customers: Collection[str], base: Plan | None, other: Plan | None, plan_of: Callable[[int], Plan]
    ) -> None:
        self._pasts = {customer: _Past() for customer in customers}
        self._other = other
        self._plan_of = plan_of
        self._rules: dict[int, Rules] = {}
        self._retyped: set[str] = set()
        self._fed: list[tuple[str, Aggregate]] = []
        self._ways = False
        if base is None or other is None:
            return
        declared = {feature.name: feature for feature in base.catalog.features}
        changed = [feature for feature in other.catalog.features if _kept_otherwise(feature, declared)]
        self._retyped = {feature.name for feature in changed if feature.origin == "profile"}
        self._fed = [(f.name, f.origin) for f in changed if isinstance(f.origin, Aggregate)]
        here, there = base.catalog, other.catalog
        self._ways = (here.journeys, here.concerns) != (there.journeys, there.concerns)

    def take(self, entry: Entry) -> Rebuilt | None:
        """Return a decision with the state it was made on; call `fold` with the entry next. None: another entry."""
        past = self._pasts.get(entry.customer_id)
        if past is None or not isinstance(entry, DecisionEntry):
            return None
        if not past.doubt and not entry.degraded and self._other is not None:
            past.doubt = self._doubt(past, entry)
        return Rebuilt(entry, past.state, past.other, past.doubt)

    def versions(self, customer: str) -> tuple[int, int]:
        """Return how many commits lie behind a customer's state, at least and at most."""
        past = self._pasts[customer]
        return past.least, past.most

    def state_of(self, customer: str) -> CustomerState:
        """Return a customer as of the entries folded; read only, and until the next."""
        return self._pasts[customer].state

    def fold(self, entry: Entry) -> None:
        """Go on by an entry; one of a customer who is not asked about changes nothing."""
        past = self._pasts.get(entry.customer_id)
        if past is None:
            return
        decision_id = ""
        if isinstance(entry, EventEntry):
            decision_id = entry.event.decision_id
            self._feed(past.other, entry)
        elif isinstance(entry, TimerEntry | DecisionEntry):
            decision_id = entry.decision_id
        rules = self._rules_of(entry.release)
        folded = fold(past.state, past.open_.get(decision_id), entry, rules, past.open_)
        if isinstance(entry, DecisionEntry):
            _forget(past.open_, entry.at_ms, rules.remember_ms)
            if folded.decision is not None:
                past.open_[decision_id] = folded.decision
        elif isinstance(entry, AbsorbEntry) and (self._fed or self._ways):
            past.doubt = "merged"
        _count(past, entry)

    def seen_by_the_other(self, rebuilt: Rebuilt) -> CustomerState:
        """Return the customer as the other release sees it: the state itself, or a shallow copy of it."""
        state, beside = rebuilt.state, rebuilt.other
        if not (self._fed or self._ways or self._retyped):
            return state
        copy = CustomerState(**{name: getattr(state, name) for name in state.__struct_fields__})
        copy.aggregates = {name: cells for name, cells in state.aggregates.items() if name not in dict(self._fed)}
        copy.aggregates |= beside.aggregates
        copy.profile = {name: value for name, value in state.profile.items() if name not in self._retyped}
        if self._ways:
            copy.journeys, copy.concerns = beside.journeys, beside.concerns
        return copy

    def _rules_of(self, release: int) -> Rules:
        if release not in self._rules:
            own = self._plan_of(release)
            self._rules[release] = own.rules if self._other is None else _KeepingRules(own, self._other)
        return self._rules[release]

    def _feed(self, beside: CustomerState, entry: EventEntry) -> None:
        for name, aggregate in self._fed:
            if aggregate.event == entry.event.type:
                cells: list[Value] = beside.aggregates.get(name, [])
                if cells := fold_event(aggregate, cells, entry.event.properties, entry.at_ms):
                    beside.aggregates[name] = cells
        if self._ways and self._other is not None:
            journeys.feed(beside, entry.event.type, entry.at_ms, self._other.rules, entry.event.by)

    def _doubt(self, past: _Past, entry: DecisionEntry) -> Doubt:
        if entry.state_version > past.most:
            return "log_incomplete"
        if entry.state_version < past.least:
            return "state_differs"
        if not entry.personalised:  # nothing of the state stands in the record
            return ""
        own = self._plan_of(entry.release)
        relationship = relationship_features(past.state, entry.at_ms, own.rules.experience)
        values = own.resolver.resolve(past.state, entry.request.context, entry.at_ms)
        values |= {name: own.untouched[name] for name in entry.quarantined}
        x = own.layout.encode(values, relationship)
        if own.catalog.clusters is not None:  # the model told it, not the state
            own.layout.mark(x, entry.cluster)
            relationship[CLUSTER] = float(entry.cluster)
        same = relationship == entry.relationship and x.tobytes() == entry.x
        return "" if same else "state_differs"


def _kept_otherwise(feature: Feature, declared: dict[str, Feature]) -> bool:
    """Whether what is kept of a feature is not what the other declaration of it would have kept."""
    before = declared.get(feature.name)
    if isinstance(feature.origin, Aggregate):
        return before is None or before.origin != feature.origin
    return before is not None and before.type != feature.type


def _forget(open_: dict[str, OpenDecision], now_ms: int, remember_ms: int) -> None:
    """Drop decisions that no entry can name any more."""
    for decision_id in [key for key, each in open_.items() if each.at_ms + keep_ms(each, remember_ms) < now_ms]:
        del open_[decision_id]


def _count(past: _Past, entry: Entry) -> None:
    """Bound how many commits lie behind the state after an entry."""
    if isinstance(entry, EraseEntry):  # the version is kept for a while, then forgotten
        past.least, past.most, past.exact, past.doubt = 0, entry.state_version + 1, True, ""
        past.open_.clear()
        past.other = CustomerState()
    elif isinstance(entry, DecisionEntry) and past.least <= entry.state_version <= past.most:
        past.least = past.most = entry.state_version + 1
        past.exact = True
    else:
        past.least += past.exact
        past.most += 1
        past.exact = False
