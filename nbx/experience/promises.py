"""Promises: what the company undertook to do for a customer, and whether it did.

A promise comes by a `promise` event, by accepting a treatment that declares one, or by entering a journey's step in
which something is owed. It is kept by `promise_kept`, or by one of its own events, and broken when its time runs out
before. That is told once, by the customer's one timer, as of the due time: points are charged, the behaviour event
`promise_broken` happens, and an obligation on its topic is open until it is kept late or resolved
(`nbx.experience.obligations`). A promise that was kept in time, and is heard of late, takes the charge back.

A promise of the same thing made anew takes the place of one whose time has not run out; one that ran out stays broken.
The latest few promises of a thing and the latest times at which it was kept are remembered, and what each is worth is
worked out from these, so that the order in which they are heard of does not matter.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING

from nbx.experience.relationship import charge, weighed
from nbx.features.state import CustomerState, Promise
from nbx.features.store import Timer
from nbx.limits import DEEDS, PROMISES, TERMS

if TYPE_CHECKING:
    from nbx.catalog.model import ExperiencePolicy
    from nbx.features.schema import Value

PROMISE = "promise"
KEPT = "promise_kept"
BROKEN = "promise_broken"
"""Types of behaviour events; the last is nbx's own, as of the due time."""
TIMER = "promise:"
"""Begins the names of timers; the customer's id follows."""

DUE_MS = 3650 * 86_400_000
"""How far ahead a promise may be due: ten years; what is later is a wrong number."""
_AFTER = re.compile(r"(\d{1,6})([smhdw])")
_UNIT_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}


def due_of(due: Value, at_ms: int) -> int:
    """Read when a promise is due: epoch milliseconds, RFC 3339 with a zone, or a time after `at_ms` such as `2d`.

    Raises
    ------
    ValueError
        It is none of these, or not after `at_ms`.

    Examples
    --------
    >>> due_of("2h", 1_000), due_of(5_000.0, 1_000), due_of("1970-01-01T00:00:05Z", 1_000)
    (7201000, 5000, 5000)
    """
    if isinstance(due, str):
        after = _AFTER.fullmatch(due)
        if after:
            found = at_ms + int(after[1]) * _UNIT_MS[after[2]]
        else:
            moment = datetime.fromisoformat(due)
            if moment.tzinfo is None:
                raise ValueError(f"{due!r} has no time zone")
            found = int(moment.timestamp() * 1000)
    else:
        found = int(due)
    if isinstance(due, bool) or not at_ms < found <= at_ms + DUE_MS:
        raise ValueError(f"{due!r} is not within ten years after the promise")
    return found


def make_promise(
    state: CustomerState,
    policy: ExperiencePolicy,
    what: str,
    *,
    due_ms: int,
    made_ms: int,
    topic: str = "",
    events: tuple[str, ...] = (),
    source: str = "",
) -> list[int]:
    """Keep a promise in mind, in `state`; the same one again changes nothing.

    Parameters
    ----------
    state, policy
        The customer, and what a promise is worth.
    what
        Names it.
    due_ms, made_ms
        Epoch milliseconds.
    topic
        Of the obligation that breaking it opens; empty: none.
    events
        Behaviour events that keep it, besides `promise_kept`.
    source
        Slot (`<decision_id>/<slot>`) whose acceptance made it: of several answers the earliest counts.

    Returns
    -------
    When promises ran out that are news only by being made anew, epoch milliseconds.
    """
    made = Promise(due_ms, made_ms, topic, events, source=source)
    known = state.promises.get(what) or Promise(0, 0)
    terms, kept = _terms(known), known.kept
    same = next((term for term in terms if source and term.source == source), None)
    if same is None:
        if any(_age(term) == _age(made) for term in terms):
            return []
        terms.append(made)
    elif _age(made) < _age(same):
        same.made_ms, same.due_ms = made_ms, due_ms
    news = _arrange(state, policy, what, terms, kept)
    _bound(state)
    return news


def keep(state: CustomerState, policy: ExperiencePolicy, what: str, at_ms: int) -> None:
    """Note that a promise was kept at a time; also when the promise itself is yet to be heard of."""
    known = state.promises.get(what) or Promise(0, 0)
    if at_ms not in known.kept:
        _arrange(state, policy, what, _terms(known), sorted([*known.kept, at_ms])[-DEEDS:])
        _bound(state)


def keep_by(state: CustomerState, policy: ExperiencePolicy, event: str, at_ms: int) -> None:
    """Let a behaviour event keep every promise that waits for it."""
    for what in [what for what, promise in state.promises.items() if event in promise.events]:
        keep(state, policy, what, at_ms)


def break_due(state: CustomerState, policy: ExperiencePolicy, now_ms: int) -> tuple[str, ...]:
    """Break what is past due at `now_ms` and was not kept in time; returns what is news."""
    broken = tuple(what for what, promise in state.promises.items() if _waits(promise) and promise.due_ms <= now_ms)
    for what in broken:
        promise = state.promises[what]
        promise.told = True
        _arrange(state, policy, what, _terms(promise), promise.kept)
    return broken


def is_open(promise: Promise) -> bool:
    """Tell whether something is still to be done, in time."""
    return bool(promise.due_ms) and not promise.broken and not promise.kept_ms


def next_due_ms(state: CustomerState) -> int:
    """Return when the next promise runs out, epoch milliseconds; 0: none will."""
    return min((promise.due_ms for promise in state.promises.values() if _waits(promise)), default=0)


def promise_timers(customer_id: str, state: CustomerState) -> tuple[tuple[Timer, ...], tuple[str, ...]]:
    """Return the timer to arm, or the member to cancel, for a customer's promises."""
    if not state.promises:
        return (), ()
    due_ms, member = next_due_ms(state), promise_timer(customer_id)
    return ((Timer(member, due_ms),), ()) if due_ms else ((), (member,))


def promise_timer(customer_id: str) -> str:
    """Return the timer's name."""
    return f"{TIMER}{customer_id}"


def absorb(state: CustomerState, other: CustomerState, policy: ExperiencePolicy) -> None:
    """Take the promises made to another into `state`, whose balance has taken in what they were charged."""
    for what, theirs in other.promises.items():
        mine = state.promises.get(what) or Promise(0, 0)
        terms = _terms(mine)
        for term in _terms(theirs):
            if all(_age(term) != _age(known) for known in terms):
                terms.append(term)
            elif term.charged:  # both were told the same: it counts once
                charge(state, -term.charged, term.charged_at_ms, policy)
        _arrange(state, policy, what, terms, sorted({*mine.kept, *theirs.kept})[-DEEDS:])
    _bound(state)


def _terms(promise: Promise) -> list[Promise]:
    """Return every promise of the same thing that is remembered, oldest first."""
    return [*promise.earlier, promise] if promise.due_ms else []


def _arrange(
    state: CustomerState, policy: ExperiencePolicy, what: str, terms: list[Promise], kept: list[int]
) -> list[int]:
    """Put promises of one thing, in any order, in `state`, each charged by what is known of all of them.

    A promise runs until the next one is made, which takes its place unless its time had run out. Returns when those
    ran out of which nobody told.
    """
    terms.sort(key=_age)
    news = []
    for number, term in enumerate(terms):
        until_ms = terms[number + 1].made_ms if number + 1 < len(terms) else 0
        term.kept_ms = next((at for at in kept if term.made_ms <= at and (not until_ms or at < until_ms)), 0)
        over = term.due_ms < until_ms if until_ms else term.told
        term.broken = over and not _in_time(term)
        if term.broken and not term.told:
            term.told = True
            news.append(term.due_ms)
        _settle(state, term, policy)
        term.earlier, term.kept = [], []
    del terms[:-TERMS]  # what the oldest were charged stays
    promise = terms[-1] if terms else Promise(0, 0, kept_ms=kept[0])
    promise.earlier, promise.kept = terms[:-1], kept
    state.promises[what] = promise
    return news


def _bound(state: CustomerState) -> None:
    """Forget what matters least when there are too many: what is settled, what is broken, then what is open."""
    while len(state.promises) > PROMISES:
        weights = {
            what: (is_open(each), each.broken and not each.kept_ms, each.due_ms, what)
            for what, each in state.promises.items()
        }
        del state.promises[min(weights, key=weights.__getitem__)]


def _waits(promise: Promise) -> bool:
    """Tell whether it is yet to be told that a promise ran out, should it."""
    return bool(promise.due_ms) and not promise.told and not _in_time(promise)


def _in_time(promise: Promise) -> bool:
    return 0 < promise.kept_ms <= promise.due_ms


def _age(promise: Promise) -> tuple[int, int, str, str]:
    return promise.made_ms, promise.due_ms, promise.topic, promise.source


def _settle(state: CustomerState, promise: Promise, policy: ExperiencePolicy) -> None:
    """Put what a promise is worth to the customer by now in place of what was charged before."""
    points, at_ms = 0.0, 0
    if _in_time(promise):
        points, at_ms = weighed(policy.promise_kept, policy), promise.kept_ms
    elif promise.broken:
        points, at_ms = weighed(policy.promise_broken, policy), promise.due_ms
    if (points, at_ms) == (promise.charged, promise.charged_at_ms):
        return
    if promise.charged:
        charge(state, -promise.charged, promise.charged_at_ms, policy)
    if points:
        charge(state, points, at_ms, policy)
    promise.charged, promise.charged_at_ms = points, at_ms
