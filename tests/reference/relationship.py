"""What a relationship holds, computed the slow way: from everything a customer ever said and was told, all over again.

Written from the words of `nbx.catalog.model` and docs/design.md, not from the code that folds. Nothing is kept but what
happened; balance, obligations, promises, asks and gives are worked out when they are asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from nbx.catalog.model import DEFAULT_POINTS, ExperiencePolicy
from nbx.experience.entries import DecisionEntry, Entry, EraseEntry, EventEntry, TimerEntry
from tests.reference.lifecycle import ANSWERS, BY_AGENT, PROOF, Reference, SlotKey

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nbx.catalog.model import Action, Catalog, PromisePolicy
    from nbx.features.schema import Value

OF_SLOTS = ANSWERS | BY_AGENT | PROOF | {"delivered"}
YES = frozenset({"accepted", "converted"})
UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}


class Turn(NamedTuple):
    """Something that opened or closed obligations; an empty topic is every one."""

    topic: str
    at_ms: int
    opens: bool


class Made(NamedTuple):
    """A promise."""

    what: str
    made_ms: int
    due_ms: int
    topic: str


@dataclass
class Term:
    """One promise, and what became of it."""

    by: SlotKey | str
    """What made it."""
    made: Made
    kept_ms: int | None
    """First time before it was made anew."""
    broken: bool
    good: bool
    """It was kept at some time."""


class Relationship(Reference):
    """One customer's relationship as of a place in the log.

    Parameters
    ----------
    catalogs
        Release → catalog.
    """

    def __init__(self, catalogs: Mapping[int, Catalog]) -> None:
        super().__init__()
        self._catalogs = catalogs
        self._forget()

    def _forget(self) -> None:
        self.decided_ms: dict[SlotKey, int] = {}
        self.treatments: dict[SlotKey, str] = {}
        self.stakes: dict[SlotKey, float] = {}
        self.moods: dict[SlotKey, list[tuple[int, float]]] = {}
        self.felt: list[tuple[int, float]] = []
        self.turns: list[Turn] = []
        self.made: dict[SlotKey | str, list[Made]] = {}
        """By the slot that undertook it, or one by one by its event."""
        self.kept: list[tuple[str, int]] = []
        self.ran_out: set[SlotKey | str] = set()
        """Of these it was told that they ran out."""

    def take(self, entry: Entry) -> None:
        """Go on by one log entry."""
        super().take(entry)
        match entry:
            case DecisionEntry():
                for number, slot in enumerate(entry.slots):
                    key = (entry.decision_id, number)
                    self.decided_ms[key], self.treatments[key] = entry.at_ms, slot.treatment
                    self.stakes[key] = entry.stakes
            case EventEntry():
                self._happened(entry)
                self.ran_out |= {term.by for term in self.promises() if term.broken}  # made anew too late tells it
            case TimerEntry() if entry.kind == "promise":
                self.run_out(entry.at_ms)
            case EraseEntry():
                self._forget()
            case _:
                pass

    def _happened(self, entry: EventEntry) -> None:
        event, key, policy = entry.event, (entry.event.decision_id, entry.event.slot), self._policy(entry.release)
        felt = points_of_mood(event.sentiment, event.effort, policy) if event.by == "customer" else None
        if event.type not in OF_SLOTS:
            if felt:
                self.felt.append((entry.at_ms, felt))
            self._promised(event.type, event.properties, entry)
        elif key in self.slots:
            if felt is not None:
                self.moods.setdefault(key, []).append((entry.at_ms, felt))
            self._answered(key, event.type, entry)

    def _promised(self, kind: str, said: Mapping[str, Value], entry: EventEntry) -> None:
        if kind == "resolved":
            self.turns.append(Turn(str(said.get("topic", "")), entry.at_ms, opens=False))
        elif kind == "promise_kept":
            self.kept.append((str(said["what"]), entry.at_ms))
        elif kind == "promise":
            made = Made(
                str(said["what"]), entry.at_ms, due_of(said["due"], entry.at_ms), topic=str(said.get("topic", ""))
            )
            self.made[entry.event.event_id] = [made]

    def _answered(self, key: SlotKey, kind: str, entry: EventEntry) -> None:
        action = self._action(entry.release, self.slots[key].action)
        topic = self.topic(entry.release, action)
        if kind in ("failed", "complained"):
            self.turns.append(Turn(topic, entry.at_ms, opens=True))
        elif kind in YES:
            self.turns += [Turn(each, entry.at_ms, opens=False) for each in action.resolves]
            promise = self._undertaken(action, self.treatments[key])
            if promise is not None:
                made = Made(promise.what, entry.at_ms, entry.at_ms + promise.within_ms, topic)
                self.made.setdefault(key, []).append(made)

    def _undertaken(self, action: Action, treatment: str) -> PromisePolicy | None:
        return next((each.promise for each in action.treatments if each.name == treatment), None)

    def _policy(self, release: int) -> ExperiencePolicy:
        return self._catalogs[release].experience

    def _action(self, release: int, name: str) -> Action:
        return next(each for each in self._catalogs[release].actions if each.name == name)

    def topic(self, release: int, action: Action) -> str:
        """Return what an action is about."""
        group = next(each for each in self._catalogs[release].groups if each.name == action.group)
        return action.topic or group.topic or group.name

    def run_out(self, now_ms: int) -> None:
        """Take note that what was due by now was told."""
        self.ran_out |= {key for key, each in self._made() if each.due_ms <= now_ms}

    def _made(self) -> list[tuple[SlotKey | str, Made]]:
        """Return what was promised, by what made it; of several yeses to one slot the earliest did."""
        return [(key, min(each, key=lambda one: (one.made_ms, one.due_ms))) for key, each in self.made.items()]

    def promises(self) -> list[Term]:
        """Return every promise, and what became of it by what was told.

        A promise of the same thing made again takes the place of one whose time has not run out.
        """
        made = sorted(self._made(), key=lambda each: each[1])
        found = []
        for number, (key, each) in enumerate(made):
            after = [other.made_ms for _, other in made[number + 1 :] if other.what == each.what]
            until_ms = min(after, default=None)
            later = [at_ms for what, at_ms in self.kept if what == each.what and at_ms >= each.made_ms]
            kept_ms = min((at_ms for at_ms in later if until_ms is None or at_ms < until_ms), default=None)
            over = key in self.ran_out if until_ms is None else each.due_ms < until_ms
            broken = over and (kept_ms is None or kept_ms > each.due_ms)
            found.append(Term(key, each, kept_ms, broken=broken, good=bool(later)))
        return found

    def charges(self, release: int) -> list[tuple[int, float]]:
        """Return everything on the account: (time, weighed points)."""
        policy = self._policy(release)
        points = {str(name): worth for name, worth in (DEFAULT_POINTS | policy.points).items()}
        found = [(at_ms, _weighed(worth, policy)) for at_ms, worth in self.felt]
        for key, slot in self.slots.items():
            if (outcome := slot.outcome()) is not None:
                # of two words of one moment the worse counts
                mood = max(self.moods.get(key, [(0, 0.0)]), key=lambda said: (said[0], -said[1]))[1]
                worth = _weighed(points[outcome[0]] + mood, policy) * (1 + self.stakes[key])
                found.append((outcome[1], worth))
        for term in self.promises():
            if term.broken:
                found.append((term.made.due_ms, _weighed(policy.promise_broken, policy)))
            elif term.kept_ms is not None and term.kept_ms <= term.made.due_ms:
                found.append((term.kept_ms, policy.promise_kept))
        return found

    def worth(self, release: int, at_ms: int) -> float:
        """Return the balance, decayed to a time."""
        return _decayed(self.charges(release), self._policy(release), at_ms)

    def open_topics(self, release: int, now_ms: int) -> dict[str, int]:
        """Return topic → since when the company owes the customer something there."""
        turns = list(self.turns)
        turns += [Turn(t.made.topic, t.made.due_ms, opens=True) for t in self.promises() if t.broken and not t.good]
        found: dict[str, int] = {}
        for topic in {turn.topic for turn in turns if turn.opens and turn.topic}:
            opened_ms = max(turn.at_ms for turn in turns if turn.opens and turn.topic == topic)
            closed_ms = max((turn.at_ms for turn in turns if not turn.opens and turn.topic in ("", topic)), default=0)
            if opened_ms > closed_ms and now_ms < opened_ms + self._policy(release).obligation_ms:
                found[topic] = opened_ms
        return found

    def asks(self, release: int) -> list[tuple[int, str]]:
        """Return every ask of a prompt that was seen, as of its decision."""
        return [
            (self.decided_ms[key], ask)
            for key, slot in self.slots.items()
            if slot.exposed_ms() is not None
            for ask in self._action(release, slot.action).asks
        ]

    def gives(self, release: int) -> list[tuple[int, str]]:
        """Return every give of an action that was accepted, whatever came of it, as of its decision."""
        return [
            (self.decided_ms[key], give)
            for key, slot in self.slots.items()
            if any(what in YES for what, _ in slot.heard)
            for give in self._action(release, slot.action).gives
        ]

    def amount(self, release: int, what: list[tuple[int, str]], at_ms: int) -> float:
        """Return how much asks or gives weigh at a time."""
        return _decayed([(time_ms, 1.0) for time_ms, _ in what], self._policy(release), at_ms)


def points_of_mood(sentiment: float | None, effort: float | None, policy: ExperiencePolicy) -> float | None:
    """Return what a customer says of how it was, in points; None: nothing."""
    if sentiment is None and effort is None:
        return None
    eased = 0.0 if effort is None else (4 - effort) / 3
    return policy.sentiment * (sentiment or 0.0) + policy.effort * eased


def due_of(due: Value, at_ms: int) -> int:
    """Return when something is due: a time after, or a moment."""
    if not isinstance(due, str):
        return int(due)
    if due[:-1].isdigit() and due[-1] in UNITS_MS:
        return at_ms + int(due[:-1]) * UNITS_MS[due[-1]]
    return int(datetime.fromisoformat(due).timestamp() * 1000)


def _weighed(points: float, policy: ExperiencePolicy) -> float:
    return points * policy.loss_aversion if points < 0 else points


def _decayed(charges: list[tuple[int, float]], policy: ExperiencePolicy, at_ms: int) -> float:
    half_lives = ((at_ms - time_ms) / policy.half_life_ms for time_ms, _ in charges)
    return math.fsum(worth * math.exp2(-age) for (_, worth), age in zip(charges, half_lives, strict=True))
