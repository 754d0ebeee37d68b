"""Contact policy: how often and how soon again, counted on proof plus what may still be seen.

Exposures are kept in whole seconds; one counts for as long as any moment of its second is in the window, so that no
limit is passed by a fraction.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

import numpy as np

from nbx.catalog.model import Limit
from nbx.catalog.plan import COUNTLESS, PlacementPlan, Positions, Scope
from nbx.catalog.rules import CHANNEL, OVERALL, Rules, channel_scope
from nbx.experience.entries import SharedLimit
from nbx.features.state import CustomerState, Reservation


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
        self._state, self._rules, self._now_ms = state, rules, now_ms
        self._open: dict[str, int] = {}
        open_ = 0
        for reserved in state.reserved.values():
            if reserved.until_ms > now_ms:
                open_ += 1
                known = rules.actions
                scopes = known[reserved.action].counts_in if reserved.action in known else (reserved.action,)
                for scope in (*scopes, channel_scope(reserved.channel), OVERALL):
                    self._open[scope] = self._open.get(scope, 0) + 1
        exposures, touches = state.exposures, state.touches
        seen = sum(map(len, touches.values())) if touches else 0
        self.most, self.longest = seen + open_, open_
        """No scope has more exposures on record and open reservations than `most`, no action more than `longest`."""
        if exposures:
            counts = [*map(len, exposures.values())]
            self.most, self.longest = max(sum(counts), seen) + open_, max(counts) + open_

    def totals(self) -> dict[str, int]:
        """Return scope → all exposures on record and open reservations; scopes without any are not in it."""
        total: dict[str, int] = {}
        known = self._rules.actions
        for action, times in self._state.exposures.items():
            if count := len(times):
                for scope in known[action].counts_in if action in known else (action,):
                    total[scope] = total.get(scope, 0) + count
        for channel, times in self._state.touches.items():
            if count := len(times):
                total[channel_scope(channel)] = count
                total[OVERALL] = total.get(OVERALL, 0) + count
        for scope, count in self._open.items():
            total[scope] = total.get(scope, 0) + count
        return total

    def left(self, scope: str, limit: Limit) -> int:
        """Return how many exposures a limit still allows; below 1: none."""
        since_s = (self._now_ms - limit.per_ms) // 1000
        seen = sum(len(times) - bisect_left(times, since_s) for times in self._times(scope))
        return limit.max - seen - self._open.get(scope, 0)

    def free_ms(self, scope: str, limit: Limit) -> int:
        """Return when a limit allows one more if nothing else is shown, epoch milliseconds; 0: it does now, or never.

        Each exposure counts until its whole second has left the window, each open reservation until it ends.
        """
        first_s = (self._now_ms - limit.per_ms) // 1000
        leaving = [
            (at_s + 1) * 1000 + limit.per_ms
            for times in self._times(scope)
            for at_s in times[bisect_left(times, first_s) :]
        ]
        leaving += [each.until_ms for each in self._state.reserved.values() if self._counts(each, scope)]
        over = len(leaving) - limit.max
        return sorted(leaving)[over] if 0 <= over < len(leaving) else 0

    def _counts(self, reserved: Reservation, scope: str) -> bool:
        """Tell whether a reservation is open and counts in a scope."""
        known = self._rules.actions
        scopes = known[reserved.action].counts_in if reserved.action in known else (reserved.action,)
        return reserved.until_ms > self._now_ms and scope in (*scopes, channel_scope(reserved.channel), OVERALL)

    def too_soon_ms(self, scope: str, gap_ms: int) -> int:
        """Return until when nothing may be shown in a scope, epoch milliseconds; 0: it may now."""
        last_s = max((times[-1] for times in self._times(scope) if times), default=None)
        until_ms = (last_s + 1) * 1000 + gap_ms if last_s is not None else 0
        if scope in self._open:
            until_ms = max(until_ms, self._now_ms + gap_ms)
        return until_ms if until_ms > self._now_ms else 0

    def _times(self, scope: str) -> Iterator[list[int]]:
        """Yield the exposures that count in a scope, epoch seconds, ascending in each list."""
        exposures, touches = self._state.exposures, self._state.touches
        if scope in exposures:
            yield exposures[scope]
        elif scope == OVERALL:  # every exposure was on a channel, and these are few
            yield from touches.values()
        elif scope.startswith(CHANNEL):
            yield touches.get(scope.removeprefix(CHANNEL), [])
        else:
            known = self._rules.actions
            for action, times in exposures.items():
                if action in known and scope in known[action].counts_in:
                    yield times


def too_soon(contacts: Contacts, placement: PlacementPlan) -> Iterator[tuple[Positions, str]]:
    """Yield what a gap holds back, and until when in words."""
    for scope in placement.gaps:
        until_ms = contacts.too_soon_ms(scope.key, scope.gap_ms)
        if until_ms:
            yield scope.held, f"{scope.key}: {scope.gap_ms // 1000} s between prompts, until {until_ms}"


def reached_limits(contacts: Contacts, placement: PlacementPlan) -> Iterator[tuple[Positions, str]]:
    """Yield what a limit that is used up holds back, with the limit in words.

    Only what this customer has met can have used anything up, so the cost grows with that, not with the catalog; and
    mostly all there ever was, in the window or not, is below every limit.
    """
    if contacts.most < placement.least_shared and contacts.longest < placement.least_own:
        return
    for key, count in contacts.totals().items():
        if count >= placement.least.get(key, COUNTLESS):
            scope = placement.scopes[key]
            for limit in scope.limits:
                if contacts.left(key, limit) <= 0:
                    yield scope.held, _words(limit) if key in placement.position else f"{key}: {_words(limit)}"


def shared_limits(
    contacts: Contacts, placement: PlacementPlan, positions: Positions, slots: int
) -> tuple[SharedLimit, ...]:
    """Return what a slate of `slots` could overshoot by itself: limits, and actions that exclude each other."""
    shared = []
    for scope in placement.scopes.values():
        if len(scope.counted) > 1:
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


def _words(limit: Limit) -> str:
    return f"{limit.max} per {limit.per_ms // 1000} s"
