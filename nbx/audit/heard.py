"""What customers said and what they were promised: sentiment, effort, comments, promises, obligations and concerns.

All of it is read from events and timers of the report's window. Promises kept are those that an event `promise_kept`
told of. Obligations follow from outcomes as they are now: `failed` and `complained` open one on the action's topic,
an event `resolved` (of its `topic`, or without one of all) or an acceptance of an action that resolves the topic closes
it, and time does, by the release that decided. What a broken promise opens besides is told with the promises.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from msgspec import Struct

from nbx.audit.clustered import Mean, mean
from nbx.audit.experienced import Experienced
from nbx.audit.newest import Newest
from nbx.audit.reading import Window, erased_by
from nbx.catalog.model import Action, Catalog, Concern
from nbx.experience.causes import POSITIVE
from nbx.experience.entries import Entry, EventEntry, TimerEntry
from nbx.limits import REPORT_ROWS

COMMENTS = 500
"""Comments kept while the log is read, the newest."""
COMMENTS_TOLD = 10
OPENING = frozenset({"failed", "complained"})
"""Outcomes that open an obligation."""
_ANNOYED = frozenset({"declined", "dismissed", "failed", "complained"})
_HARD = 4.0
"""Efforts above it speak of trouble."""


class Mood(Struct, frozen=True, kw_only=True):
    """What customers said how they felt."""

    sentiment: Mean
    """−1..1."""
    effort: Mean
    """1, the least, to 7."""


class Promises(Struct, frozen=True, kw_only=True):
    """What became of promises of one kind."""

    what: str
    kept: int
    """As told by `promise_kept`, also late ones."""
    broken: int
    """Past due."""
    customers_broken: int
    """To whom one was broken."""


class Obligations(Struct, frozen=True, kw_only=True):
    """What became of obligations on one topic."""

    topic: str
    opened: int
    """By failures and complaints with decisions of the window, while none was open."""
    resolved: int
    timed_out: int
    open: int
    """Still."""
    decisions: tuple[str, ...]
    """That opened those still open, the newest first."""


class Concerns(Struct, frozen=True, kw_only=True):
    """Events of one concern of the release in force."""

    name: str
    opened: int
    resolved: int
    customers: int
    """Who opened it."""


class Comment(Struct, frozen=True, kw_only=True):
    """Free words of a customer, or of an agent about one."""

    at_ms: int
    decision_id: str
    """Empty: about no decision."""
    action: str
    type: str
    by: str
    sentiment: float | None
    effort: float | None
    text: str


class _Said(NamedTuple):
    at_ms: int
    kind: str
    """`mood`, `kept`, `broken`, `resolved`, `opens` or `resolves`."""
    name: str
    sentiment: float | None = None
    effort: float | None = None


class Heard:
    """Takes in the log in its order and keeps what was said in a window, and about which placement.

    Parameters
    ----------
    kept
        The decisions: with a placement asked for, only what names one of them counts. It takes the log in before this.
    concerns
        Of the release in force.
    """

    def __init__(self, kept: Experienced, concerns: Iterable[Concern], bound: int = REPORT_ROWS) -> None:
        self._kept = kept
        self._span: Window = kept.span
        self._concerns = [(each.name, frozenset(each.opens), frozenset(each.resolves)) for each in concerns]
        self._said: Newest[int, tuple[str, _Said]] = Newest(bound)
        self._comments: Newest[int, Comment] = Newest(COMMENTS)
        self._count = 0

    @property
    def cut(self) -> bool:
        """Whether more was said than is kept."""
        return self._said.cut

    def take(self, entries: Iterable[Entry]) -> None:
        """Take in log entries."""
        for entry in entries:
            if customer := erased_by(entry):
                self._said.forget(customer)
                self._comments.forget(customer)
            elif isinstance(entry, EventEntry | TimerEntry) and self._counts(entry):
                for said in _said_by(entry, self._concerns):
                    self._count += 1
                    self._said.put(self._count, entry.customer_id, (entry.customer_id, said))
                if isinstance(entry, EventEntry) and entry.event.text and _is_negative(entry):
                    self._count += 1
                    self._comments.put(self._count, entry.customer_id, self._comment(entry))

    def _counts(self, entry: EventEntry | TimerEntry) -> bool:
        if not self._span.since_ms <= entry.at_ms < self._span.until_ms:
            return False
        about = entry.event.decision_id if isinstance(entry, EventEntry) else entry.decision_id
        return not self._kept.placement or self._kept.made.get(about) is not None

    def _comment(self, entry: EventEntry) -> Comment:
        event = entry.event
        made = self._kept.made.get(event.decision_id)
        slot = made.slots.get(event.slot) if made is not None else None
        return Comment(
            at_ms=entry.at_ms,
            decision_id=event.decision_id,
            action=slot.action if slot is not None else "",
            type=event.type,
            by=event.by,
            sentiment=event.sentiment,
            effort=event.effort,
            text=event.text,
        )

    def mood(self) -> Mood:
        """Return how customers felt."""
        return Mood(sentiment=self._mean("sentiment"), effort=self._mean("effort"))

    def _mean(self, of: str) -> Mean:
        numbers: dict[str, int] = {}
        told = [
            (float(value), numbers.setdefault(customer, len(numbers)))
            for _, (customer, said) in self._said
            if (value := getattr(said, of)) is not None
        ]
        return mean(np.array([each for each, _ in told]), np.array([who for _, who in told], dtype=np.int64))

    def comments(self) -> tuple[Comment, ...]:
        """Return the newest negative comments, the newest first."""
        each = sorted((comment for _, comment in self._comments), key=lambda comment: -comment.at_ms)
        return tuple(each[:COMMENTS_TOLD])

    def promises(self) -> tuple[Promises, ...]:
        """Return what became of promises, by what was promised."""
        kept = Counter(said.name for _, said in self._of("kept"))
        broken = Counter(said.name for _, said in self._of("broken"))
        customers = {(said.name, customer) for customer, said in self._of("broken")}
        return tuple(
            Promises(
                what=what,
                kept=kept[what],
                broken=broken[what],
                customers_broken=sum(name == what for name, _ in customers),
            )
            for what in sorted(kept.keys() | broken.keys())
        )

    def concerns(self) -> tuple[Concerns, ...]:
        """Return how often each concern was opened and resolved."""
        opened = Counter(said.name for _, said in self._of("opens"))
        resolved = Counter(said.name for _, said in self._of("resolves"))
        customers = {(said.name, customer) for customer, said in self._of("opens")}
        return tuple(
            Concerns(
                name=name,
                opened=opened[name],
                resolved=resolved[name],
                customers=sum(each == name for each, _ in customers),
            )
            for name, _, _ in self._concerns
        )

    def obligations(self, catalog_of: Callable[[int], Catalog], now_ms: int) -> tuple[Obligations, ...]:
        """Return what became of obligations, by topic; `catalog_of` must know the releases that decided."""
        steps = self._steps(catalog_of)
        topics_of: defaultdict[str, list[str]] = defaultdict(list)
        for customer, topic in steps:
            topics_of[customer].append(topic)
        for customer, said in self._of("resolved"):
            topics = [said.name] if said.name else topics_of.get(customer, [])
            for topic in topics:
                if (customer, topic) in steps:
                    steps[customer, topic].append(_Step(said.at_ms, "", 0))
        counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        still: defaultdict[str, list[_Step]] = defaultdict(list)
        for (_, topic), each in steps.items():
            if not any(step.decision_id for step in each):
                continue
            open_ = _follow(sorted(each, key=_in_turn), counts[topic], now_ms)
            still[topic] += [open_] if open_ is not None else []
        return tuple(
            Obligations(
                topic=topic,
                opened=count["opened"],
                resolved=count["resolved"],
                timed_out=count["timed_out"],
                open=len(still[topic]),
                decisions=tuple(step.decision_id for step in sorted(still[topic], reverse=True)[:5]),
            )
            for topic, count in sorted(counts.items())
        )

    def _steps(self, catalog_of: Callable[[int], Catalog]) -> dict[tuple[str, str], list[_Step]]:
        """(customer, topic) → what outcomes did to the obligation."""
        known: dict[int, dict[str, tuple[Action, str]]] = {}
        found: dict[tuple[str, str], list[_Step]] = {}
        for decision_id, made in self._kept.made:
            if made.release not in known:
                known[made.release] = _topics(catalog_of(made.release))
            lasts_ms = catalog_of(made.release).experience.obligation_ms
            for slot in made.slots.values():
                told, declared = slot.told, known[made.release].get(slot.action)
                if told is None or declared is None:
                    continue
                if told.outcome in OPENING:
                    found.setdefault((made.customer_id, declared[1]), []).append(
                        _Step(told.at_ms, decision_id, lasts_ms)
                    )
                elif told.outcome in POSITIVE:
                    for topic in declared[0].resolves:
                        found.setdefault((made.customer_id, topic), []).append(_Step(told.at_ms, "", 0))
        return found

    def _of(self, kind: str) -> Iterator[tuple[str, _Said]]:
        return (each for _, each in self._said if each[1].kind == kind)


class _Step(NamedTuple):
    """A moment of an obligation: opened by a decision, or resolved."""

    at_ms: int
    decision_id: str
    """Empty: resolved."""
    lasts_ms: int


def _in_turn(step: _Step) -> tuple[int, bool, str]:
    """What is resolved in the same moment comes last, as in the state."""
    return step.at_ms, not step.decision_id, step.decision_id


def _follow(steps: list[_Step], count: Counter[str], now_ms: int) -> _Step | None:
    """Count what happened to one obligation; returns by what it was opened last, if it is still open."""
    open_: _Step | None = None
    for step in steps:
        if open_ is not None and step.at_ms - open_.at_ms >= open_.lasts_ms:
            count["timed_out"] += 1
            open_ = None
        if step.decision_id:
            count["opened"] += open_ is None
            open_ = step
        elif open_ is not None:
            count["resolved"] += 1
            open_ = None
    if open_ is not None and now_ms - open_.at_ms >= open_.lasts_ms:
        count["timed_out"] += 1
        return None
    return open_


def _topics(catalog: Catalog) -> dict[str, tuple[Action, str]]:
    of_group = {group.name: group.topic or group.name for group in catalog.groups}
    return {
        action.name: (action, action.topic or of_group.get(action.group, action.group)) for action in catalog.actions
    }


def _said_by(
    entry: EventEntry | TimerEntry, concerns: Iterable[tuple[str, frozenset[str], frozenset[str]]]
) -> Iterator[_Said]:
    if isinstance(entry, TimerEntry):
        yield from (_Said(entry.at_ms, "broken", what) for what in entry.broken)
        return
    event = entry.event
    if event.sentiment is not None or event.effort is not None:
        yield _Said(entry.at_ms, "mood", "", event.sentiment, event.effort)
    if event.type == "promise_kept":
        yield _Said(entry.at_ms, "kept", str(event.properties.get("what", "")))
    if event.type == "resolved":
        yield _Said(entry.at_ms, "resolved", str(event.properties.get("topic", "")))
    for name, opens, resolves in concerns:
        if event.type in opens:
            yield _Said(entry.at_ms, "opens", name)
        if event.type in resolves:
            yield _Said(entry.at_ms, "resolves", name)


def _is_negative(entry: EventEntry) -> bool:
    event = entry.event
    low = event.sentiment is not None and event.sentiment < 0.0
    return low or (event.effort is not None and event.effort > _HARD) or event.type in _ANNOYED
