"""From what a customer did and was done for to the steps entered, and whether both sides met there.

The words are those of `nbx.experience.journeys`, over the whole history instead of what a state keeps of it: every
entry of a step counts by itself, and ends where the step is entered anew.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from itertools import groupby
from typing import Literal, NamedTuple

from nbx.catalog.model import Journey, JourneyStep
from nbx.experience.journeys import reached_steps

Verdict = Literal["met", "missed", "open"]
"""Open: its time still runs. What may be done whenever is missed until it is done."""


class Happened(NamedTuple):
    """A behaviour event."""

    at_ms: int
    event: str
    by_customer: bool


class Entered(NamedTuple):
    """A step that a customer entered."""

    step: JourneyStep
    at_ms: int
    did_ms: int
    """When the customer first did its part; 0: not."""
    kept_ms: int
    """When the company did; 0: not."""
    ends_ms: int
    """When it was entered anew; 0: not."""

    def customer(self, now_ms: int) -> Verdict:
        """Tell whether the customer's side did its part in time."""
        return self._side(self.step.does, self.step.does_within_ms, self.did_ms, now_ms)

    def company(self, now_ms: int) -> Verdict:
        """Tell whether the company's side did."""
        return self._side(self.step.owes, self.step.owes_within_ms, self.kept_ms, now_ms)

    def both(self, now_ms: int) -> Verdict:
        """Tell whether both did: a moment of truth."""
        verdicts = {self.customer(now_ms), self.company(now_ms)}
        return "missed" if "missed" in verdicts else "open" if "open" in verdicts else "met"

    def settled_ms(self, now_ms: int) -> int:
        """Return when it was known whether both sides met; `now_ms` while it is open."""
        verdict = self.both(now_ms)
        if verdict == "met":
            return max(self.at_ms, self.did_ms if self.step.does else 0, self.kept_ms if self.step.owes else 0)
        if verdict == "open":
            return now_ms
        lapsed = [
            min(self.at_ms + within_ms if within_ms else now_ms, self.ends_ms or now_ms)
            for side, within_ms in ((self.customer, self.step.does_within_ms), (self.company, self.step.owes_within_ms))
            if side(now_ms) == "missed"
        ]
        return min(lapsed)

    def _side(self, events: tuple[str, ...], within_ms: int, done_ms: int, now_ms: int) -> Verdict:
        until_ms = self.at_ms + within_ms
        if not events or (done_ms and (not within_ms or done_ms <= until_ms)):
            return "met"
        over = not within_ms or done_ms or self.ends_ms or now_ms > until_ms
        return "missed" if over else "open"


def walk(journey: Journey, history: Iterable[Happened]) -> list[Entered]:
    """Return the steps of a journey that a customer entered, those of one moment as they are declared.

    Examples
    --------
    >>> opened = JourneyStep(name="opened", event="o", does=("deposit",), does_within_ms=10)
    >>> journey = Journey(name="onboarding", steps=(opened,))
    >>> first, again = walk(journey, [Happened(1, "o", True), Happened(5, "deposit", True), Happened(9, "o", True)])
    >>> (first.did_ms, first.both(now_ms=10)), (again.did_ms, again.both(now_ms=10))
    ((5, 'met'), (0, 'open'))
    """
    rows = sorted(set(history))
    times: dict[str, int] = {}
    entries: list[tuple[JourneyStep, int]] = []
    for at_ms, together in groupby(rows, key=lambda row: row.at_ms):
        events = {row.event for row in together}
        moved = [step for step in journey.steps if step.event in events]
        if moved:
            times |= {step.name: at_ms for step in moved}
            reached = reached_steps(journey, times)
            entries += [(step, at_ms) for step in moved if step.name in reached]
    does, owes = {}, {}
    for step in journey.steps:
        does[step.name] = [row.at_ms for row in rows if row.by_customer and row.event in step.does]
        owes[step.name] = [row.at_ms for row in rows if row.event in step.owes]
    found, later = [], dict.fromkeys(does, 0)
    for step, at_ms in reversed(entries):
        ends_ms, later[step.name] = later[step.name], at_ms
        did_ms, kept_ms = (_first(done[step.name], at_ms, ends_ms) for done in (does, owes))
        found.append(Entered(step, at_ms, did_ms, kept_ms, ends_ms))
    return found[::-1]


def _first(times: list[int], since_ms: int, ends_ms: int) -> int:
    """Return the first of ascending times from `since_ms` until before `ends_ms` (0: without end); 0: none."""
    at = bisect_left(times, since_ms)
    return times[at] if at < len(times) and (not ends_ms or times[at] < ends_ms) else 0
