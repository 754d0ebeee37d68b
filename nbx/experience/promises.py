"""Promises: what the company undertook to do for a customer, and whether it did.

A promise comes by a `promise` event, by accepting a treatment that declares one, or by entering a journey's step in
which something is owed. It is kept by `promise_kept`, or by one of its own events, and broken when its time runs out
before. That is told once, by the customer's one timer, as of the due time: points are charged, the behaviour event
`promise_broken` happens, and an obligation on its topic is open until it is kept late or resolved
(`nbx.experience.obligations`). A promise that was kept in time, and is heard of late, takes the charge back.

Of promises of the same thing the one made last is kept in mind: making it anew replaces it, and news of an older one
change nothing.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING

from nbx.experience.relationship import charge, weighed
from nbx.features.state import CustomerState, Promise
from nbx.features.store import Timer
from nbx.limits import PROMISES

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
) -> None:
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
    """
    known = state.promises.get(what)
    if known is not None and known.due_ms:
        if source and known.source == source:
            if made_ms < known.made_ms:
                known.made_ms, known.due_ms = made_ms, due_ms
                _settle(state, known, policy)
            return
        if made_ms <= known.made_ms:
            return
        if not known.kept_ms and known.due_ms < made_ms:  # its time ran out, whether or not that was told yet
            known.broken = True
            _settle(state, known, policy)
    kept_ms = known.kept_ms if known is not None and known.kept_ms >= made_ms else 0
    promise = Promise(due_ms, made_ms, topic, events, kept_ms, source=source)
    state.promises[what] = promise
    _settle(state, promise, policy)
    while len(state.promises) > PROMISES:
        del state.promises[min(state.promises, key=lambda each: (is_open(state.promises[each]), *_age(state, each)))]


def keep(state: CustomerState, policy: ExperiencePolicy, what: str, at_ms: int) -> None:
    """Note that a promise was kept at a time; also when the promise itself is yet to be heard of."""
    promise = state.promises.get(what)
    if promise is None:
        if len(state.promises) < PROMISES:
            state.promises[what] = Promise(0, 0, kept_ms=at_ms)
        return
    if at_ms >= promise.made_ms and (not promise.kept_ms or at_ms < promise.kept_ms):
        promise.kept_ms = at_ms
        _settle(state, promise, policy)


def keep_by(state: CustomerState, policy: ExperiencePolicy, event: str, at_ms: int) -> list[str]:
    """Let a behaviour event keep every promise that waits for it; returns which."""
    found = [what for what, promise in state.promises.items() if event in promise.events]
    for what in found:
        keep(state, policy, what, at_ms)
    return found


def break_due(state: CustomerState, policy: ExperiencePolicy, now_ms: int) -> tuple[str, ...]:
    """Break what is past due at `now_ms` and was not kept in time; returns what is news."""
    broken = []
    for what, promise in state.promises.items():
        if promise.due_ms and promise.due_ms <= now_ms and not promise.broken and not _in_time(promise):
            promise.broken = True
            _settle(state, promise, policy)
            broken.append(what)
    return tuple(broken)


def is_open(promise: Promise) -> bool:
    """Tell whether something is still to be done, in time."""
    return bool(promise.due_ms) and not promise.broken and not promise.kept_ms


def next_due_ms(state: CustomerState) -> int:
    """Return when the next promise runs out, epoch milliseconds; 0: none will."""
    waits = (p.due_ms for p in state.promises.values() if p.due_ms and not p.broken and not _in_time(p))
    return min(waits, default=0)


def promise_timers(customer_id: str, state: CustomerState) -> tuple[tuple[Timer, ...], tuple[str, ...]]:
    """Return the timer to arm, or the member to cancel, for a customer's promises."""
    if not state.promises:
        return (), ()
    due_ms, member = next_due_ms(state), promise_timer(customer_id)
    return ((Timer(member, due_ms),), ()) if due_ms else ((), (member,))


def promise_timer(customer_id: str) -> str:
    """Return the timer's name."""
    return f"{TIMER}{customer_id}"


def absorb(state: CustomerState, other: CustomerState) -> None:
    """Take the promises made to another into `state`, whose balance has taken in what they were charged."""
    for what, promise in other.promises.items():
        mine = state.promises.get(what)
        if mine is None or (promise.made_ms, promise.due_ms) > (mine.made_ms, mine.due_ms):
            state.promises[what] = promise
    for what in sorted(state.promises, key=lambda each: _age(state, each))[: max(len(state.promises) - PROMISES, 0)]:
        del state.promises[what]


def _in_time(promise: Promise) -> bool:
    return 0 < promise.kept_ms <= promise.due_ms


def _age(state: CustomerState, what: str) -> tuple[int, str]:
    return state.promises[what].due_ms, what


def _settle(state: CustomerState, promise: Promise, policy: ExperiencePolicy) -> None:
    """Put what a promise is worth to the customer by now in place of what was charged before."""
    points, at_ms = 0.0, 0
    if promise.due_ms and _in_time(promise):
        promise.broken = False
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
