"""Journeys and concerns: where customers are, told from when each event that matters last happened.

Only latest times are kept, so the order in which events come in does not matter, and a duplicate changes nothing. Where
a customer is, is worked out from these times by what the catalog says when asked: a release with other steps sees the
same past. What a release does not declare is kept, as a rollback may bring it back. Whether the customer or an agent
reports an event makes no difference to steps and concerns.

A step that was entered again leaves the steps behind it again: `opened → funded` and then `opened` once more is
`opened`, until `funded` comes after it.

A step may have two sides, what the customer does there and what the company owes. Of either the latest few times are
kept that are not before the step was last entered; when it was done first since is worked out from these, so that a
late entry or deed is put right. One event more than `limits.DEEDS` of a side, and its first is forgotten.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, NamedTuple

from nbx.features.state import CustomerState
from nbx.limits import DEEDS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nbx.catalog.model import Concern, Journey, JourneyStep
    from nbx.catalog.rules import Rules
    from nbx.features.schema import Value

OPENED, RESOLVED = 0, 1
"""Places in the two times that are kept of a concern."""
CUSTOMER, COMPANY = 0, 1
"""Sides of a step."""


class Sides(NamedTuple):
    """Which sides of a step did their part in time; one that nothing is expected of did."""

    customer: bool
    company: bool


class Owed(NamedTuple):
    """What entering a step promises to the customer."""

    what: str
    """`<journey>.<step>`."""
    due_ms: int
    made_ms: int
    """When the step was entered."""
    events: tuple[str, ...]
    """Any of which keeps it."""


def feed(state: CustomerState, event: str, at_ms: int, rules: Rules, by: str = "customer") -> None:
    """Note in `state` when an event happened, for each step, side of a step and concern that waits for it.

    `by` says who reports it: only a customer does the customer's part.
    """
    touched = set()
    for journey, step in rules.steps.get(event, ()):
        times = state.journeys.setdefault(journey, {})
        times[step] = max(times.get(step, at_ms), at_ms)
        touched.add(journey)
    for journey, step, side in rules.deeds.get(event, ()):
        if side == COMPANY or by == "customer":
            done = state.deeds.setdefault(f"{journey}.{step}", [[], []])
            done[side] = _latest(done[side], [at_ms])
            touched.add(journey)
    for journey in touched & rules.sided.keys():
        meet(state, rules.journeys[journey], rules)
    for concern, place in rules.turns.get(event, ()):
        turns = state.concerns.setdefault(concern, [0, 0])
        turns[place] = max(turns[place], at_ms)


def meet(state: CustomerState, journey: Journey, rules: Rules) -> None:
    """Work out anew, in `state`, when each step of a journey was entered and each side did its part since."""
    times = state.journeys.get(journey.name, {})
    reached = reached_steps(journey, times)
    for step in rules.sided[journey.name]:
        key, since_ms = f"{journey.name}.{step.name}", times.get(step.name, 0)
        if key in state.deeds:  # the step is not entered before that again
            state.deeds[key] = [done[bisect_left(done, since_ms) :] for done in state.deeds[key]]
        if step.name in reached:
            firsts = (min(done, default=0) for done in state.deeds.get(key, ((), ())))
            state.meetings[key] = [since_ms, *firsts]
        else:
            state.meetings.pop(key, None)


def absorb(state: CustomerState, other: CustomerState, rules: Rules) -> None:
    """Take the ways of another into `state`, as if one customer had gone them all."""
    for journey, steps in other.journeys.items():
        times = state.journeys.setdefault(journey, {})
        times |= {step: max(times.get(step, 0), at_ms) for step, at_ms in steps.items()}
    for concern, turns in other.concerns.items():
        state.concerns[concern] = [max(pair) for pair in zip(state.concerns.get(concern, turns), turns, strict=True)]
    for key, done in other.deeds.items():
        mine = state.deeds.get(key, [[], []])
        state.deeds[key] = [_latest(*pair) for pair in zip(mine, done, strict=True)]
    for key, times_of in other.meetings.items():  # what this release does not declare stays as one of the two had it
        state.meetings[key] = max(state.meetings.get(key, times_of), times_of)
    for journey in rules.sided:
        meet(state, rules.journeys[journey], rules)


def _latest(mine: list[int], more: list[int]) -> list[int]:
    return sorted({*mine, *more})[-DEEDS:]


def sides(step: JourneyStep, times: Sequence[int]) -> Sides:
    """Tell which sides did their part in time.

    Parameters
    ----------
    step
        As declared.
    times
        When it was entered, when the customer and when the company did its part since, epoch milliseconds, 0: not yet.

    Examples
    --------
    >>> from nbx.catalog.model import JourneyStep
    >>> opened = JourneyStep(name="opened", event="o", does=("deposit",), owes=("card",), owes_within_ms=100)
    >>> sides(opened, [5, 900, 106]), met(opened, [5, 900, 105])
    (Sides(customer=True, company=False), True)
    """
    entered_ms, did_ms, kept_ms = times
    return Sides(
        not step.does or _in_time(entered_ms, did_ms, step.does_within_ms),
        not step.owes or _in_time(entered_ms, kept_ms, step.owes_within_ms),
    )


def met(step: JourneyStep, times: Sequence[int]) -> bool:
    """Tell whether both sides of a step met in time: a moment of truth. A step without sides has none."""
    return bool(step.does or step.owes) and all(sides(step, times))


def _in_time(entered_ms: int, done_ms: int, within_ms: int) -> bool:
    return bool(done_ms) and (not within_ms or done_ms <= entered_ms + within_ms)


def owed(journey: str, step: JourneyStep, entered_ms: int) -> Owed:
    """Return what the company owes a customer who entered a step that has something owed."""
    return Owed(f"{journey}.{step.name}", entered_ms + step.owes_within_ms, entered_ms, step.owes)


def all_owed(state: CustomerState, event: str, rules: Rules) -> list[Owed]:
    """Return what is owed for the steps that a customer has entered, of the journeys that an event moves: after `feed`.

    The same whenever it is asked, until a step is entered anew.
    """
    found = []
    for journey in dict.fromkeys(name for name, _ in rules.steps.get(event, ())):
        for step in rules.sided.get(journey, ()):
            times = state.meetings.get(f"{journey}.{step.name}")
            if step.owes and times is not None:
                found.append(owed(journey, step, times[0]))
    return found


def stakes(state: CustomerState, rules: Rules) -> float:
    """Return the highest stakes of the steps that a customer is in, 0..1."""
    highest = 0.0
    for journey in rules.staked:
        if times := state.journeys.get(journey.name):
            current = current_step(journey, times)
            highest = max(highest, *(step.stakes for step in journey.steps if step.name == current), 0.0)
    return highest


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
    reached = reached_steps(journey, times)
    declared = [step.name for step in journey.steps if step.name in reached]
    return max(reversed(declared), key=reached.__getitem__, default="")


def reached_steps(journey: Journey, times: Mapping[str, int]) -> dict[str, int]:
    """Return the steps that are reached, and when."""
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
    return reached


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
