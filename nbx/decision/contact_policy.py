"""Contact policy: how often and how soon again, counted on proof plus what may still be seen.

Exposures are kept in whole seconds; one counts for as long as any moment of its second is in the window, so that no
limit is passed by a fraction.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator

import numpy as np

from nbx.catalog.model import Limit
from nbx.catalog.plan import PlacementPlan, Positions, Scope
from nbx.catalog.rules import OVERALL, Rules, channel_scope
from nbx.experience.entries import SharedLimit
from nbx.features.state import CustomerState


class Contacts:
    """A customer's exposures and open reservations by scope: gathered once per decision.

    Parameters
    ----------
    state
        Read only.
    rules
        Say which scopes an action belongs to.
    now_ms
        When.
    """

    def __init__(self, state: CustomerState, rules: Rules, now_ms: int) -> None:
        self._now_ms = now_ms
        self._times: dict[str, list[list[int]]] = defaultdict(list)
        for action, times in state.exposures.items():
            if times:
                for scope in _scopes_of(action, rules):
                    self._times[scope].append(times)
        for channel, times in state.touches.items():
            self._times[channel_scope(channel)].append(times)
        self._open: Counter[str] = Counter()
        for reserved in state.reserved.values():
            if reserved.until_ms > now_ms:
                self._open.update(_scopes_of(reserved.action, rules))
                self._open[channel_scope(reserved.channel)] += 1
        self.met = dict.fromkeys((*self._times, *self._open))
        """Scopes in which there is anything, in the order of the state."""

    def left(self, scope: str, limit: Limit) -> int:
        """Return how many exposures a limit still allows; below 1: none."""
        since_s = (self._now_ms - limit.per_ms) // 1000
        seen = sum(len(times) - bisect_left(times, since_s) for times in self._times.get(scope, ()))
        return limit.max - seen - self._open[scope]

    def too_soon_ms(self, scope: str, gap_ms: int) -> int:
        """Return until when nothing may be shown in a scope, epoch milliseconds; 0: it may now."""
        last_s = max((times[-1] for times in self._times.get(scope, ()) if times), default=None)
        until_ms = (last_s + 1) * 1000 + gap_ms if last_s is not None else 0
        if self._open[scope]:
            until_ms = max(until_ms, self._now_ms + gap_ms)
        return until_ms if until_ms > self._now_ms else 0


def too_soon(contacts: Contacts, placement: PlacementPlan) -> Iterator[tuple[Positions, str]]:
    """Yield what a gap holds back, and until when in words."""
    for scope in placement.scopes:
        if scope.gap_ms and scope.key in contacts.met:
            until_ms = contacts.too_soon_ms(scope.key, scope.gap_ms)
            if until_ms:
                yield scope.held, f"{scope.key}: {scope.gap_ms // 1000} s between prompts, until {until_ms}"


def reached_limits(contacts: Contacts, placement: PlacementPlan) -> Iterator[tuple[Positions, str]]:
    """Yield what a limit that is used up holds back, with the limit in words.

    Only what this customer has met can have used anything up, so the cost grows with that, not with the catalog.
    """
    for action in contacts.met:
        position = placement.limited.get(action, -1)
        for limit in placement.actions[position].limits if position >= 0 else ():
            if contacts.left(action, limit) <= 0:
                yield np.array([position]), _words(limit)
    for scope in placement.scopes:
        if scope.key in contacts.met:
            for limit in scope.limits:
                if contacts.left(scope.key, limit) <= 0:
                    yield scope.held, f"{scope.key}: {_words(limit)}"


def shared_limits(
    contacts: Contacts, placement: PlacementPlan, positions: Positions, slots: int
) -> tuple[SharedLimit, ...]:
    """Return what a slate of `slots` could overshoot by itself: limits of scopes, and actions that exclude each other."""
    shared = []
    for scope in placement.scopes:
        if scope.limits:
            allowance = min(contacts.left(scope.key, limit) for limit in scope.limits)
            limit = _shared(scope, positions, allowance, slots)
            if limit is not None:
                shared.append(limit)
    for together, allowance in placement.together:
        indices = np.flatnonzero(np.isin(positions, together)).tolist()
        if allowance < min(slots, len(indices)):
            shared.append(SharedLimit(tuple(indices), allowance))
    return tuple(shared)


def _shared(scope: Scope, positions: Positions, allowance: int, slots: int) -> SharedLimit | None:
    indices = np.flatnonzero(np.isin(positions, scope.counted)).tolist()
    if allowance >= min(slots, len(indices)):
        return None
    if len(scope.held) == len(scope.counted):
        return SharedLimit(tuple(indices), allowance)
    free = np.isin(positions, scope.held, invert=True)
    return SharedLimit(tuple(indices), allowance, tuple(i for i in indices if free[i]))


def _scopes_of(action: str, rules: Rules) -> tuple[str, ...]:
    known = rules.actions.get(action)
    if known is None:
        return (action, OVERALL)
    return known.counts_in


def _words(limit: Limit) -> str:
    return f"{limit.max} per {limit.per_ms // 1000} s"
