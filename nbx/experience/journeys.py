"""Journeys and concerns: where customers are, told from when each event that matters last happened.

Only latest times are kept, so the order in which events come in does not matter, and a duplicate changes nothing. Where
a customer is, is worked out from these times by what the catalog says when asked: a release with other steps sees the
same past. What a release does not declare is kept, as a rollback may bring it back. Whether the customer or an agent
reports an event makes no difference here.

A step that was entered again leaves the steps behind it again: `opened → funded` and then `opened` once more is
`opened`, until `funded` comes after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbx.features.state import CustomerState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nbx.catalog.model import Concern, Journey
    from nbx.catalog.rules import Rules
    from nbx.features.schema import Value

OPENED, RESOLVED = 0, 1
"""Places in the two times that are kept of a concern."""


def feed(state: CustomerState, event: str, at_ms: int, rules: Rules) -> None:
    """Note in `state` when an event happened, for each step and concern that waits for it."""
    for journey, step in rules.steps.get(event, ()):
        times = state.journeys.setdefault(journey, {})
        times[step] = max(times.get(step, at_ms), at_ms)
    for concern, place in rules.turns.get(event, ()):
        turns = state.concerns.setdefault(concern, [0, 0])
        turns[place] = max(turns[place], at_ms)


def current_step(journey: Journey, times: Mapping[str, int]) -> str:
    """Return the step that a customer is in; empty: none.

    A step is reached when it has no `after`, or one of these is reached and its event did not happen later. Of the
    steps reached that with the latest event is the current one, of several at one time the one declared last.

    Parameters
    ----------
    journey
        As declared.
    times
        Step → when its event last happened, epoch milliseconds; steps that are not declared are passed over.

    Examples
    --------
    >>> from nbx.catalog.model import Journey, JourneyStep
    >>> opened, funded = JourneyStep(name="opened", event="o"), JourneyStep(name="funded", event="f", after=("opened",))
    >>> onboarding = Journey(name="onboarding", steps=(opened, funded))
    >>> current_step(onboarding, {"opened": 1, "funded": 2}), current_step(onboarding, {"funded": 2})
    ('funded', '')
    """
    reached: dict[str, int] = {}
    waiting = sorted((step for step in journey.steps if step.name in times), key=lambda step: times[step.name])
    while waiting:  # once, but for events of one moment
        left = []
        for step in waiting:
            at_ms = times[step.name]
            if not step.after or any(reached.get(before, at_ms + 1) <= at_ms for before in step.after):
                reached[step.name] = at_ms
            else:
                left.append(step)
        if len(left) == len(waiting):
            break
        waiting = left
    declared = [step.name for step in journey.steps if step.name in reached]
    return max(reversed(declared), key=reached.__getitem__, default="")


def is_open(concern: Concern, turns: tuple[int, int] | list[int], now_ms: int) -> bool:
    """Tell whether a concern is open: opened, not resolved since or in the same moment, and younger than its timeout.

    Examples
    --------
    >>> from nbx.catalog.model import Concern
    >>> payment = Concern(name="payment", opens=("failed",), timeout_ms=100)
    >>> [is_open(payment, turns, now_ms=60) for turns in ([5, 0], [5, 5], [5, 4], [0, 0])]
    [True, False, True, False]
    >>> is_open(payment, [5, 0], now_ms=105)
    False
    """
    return turns[OPENED] > turns[RESOLVED] and now_ms - turns[OPENED] < concern.timeout_ms


def values(state: CustomerState, rules: Rules, now_ms: int) -> dict[str, dict[str, Value]]:
    """Return what conditions read, for each declared one: `journey` → name → step, `concern` → name → open or not."""
    return {
        "journey": {
            name: current_step(journey, state.journeys.get(name, {})) for name, journey in rules.journeys.items()
        },
        "concern": {
            name: is_open(concern, state.concerns.get(name, (0, 0)), now_ms) for name, concern in rules.concerns.items()
        },
    }
