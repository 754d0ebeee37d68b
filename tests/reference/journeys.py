"""What journeys with their two sides, concerns and consent promise, computed the slow way: from the whole history.

Written from the words of `nbx.experience.journeys` and `nbx.experience.consent`, not from their code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from nbx.catalog.model import Concern, ConsentPolicy, Journey, JourneyStep


class Happened(NamedTuple):
    """A behaviour event."""

    event: str
    at_ms: int


def step(journey: Journey, history: Sequence[Happened]) -> str:
    """Return the step that a customer is in: every way through the journey is walked, to the end."""
    last = {s.name: max((h.at_ms for h in history if h.event == s.event), default=None) for s in journey.steps}
    reached = []
    for place, each in enumerate(journey.steps):
        for path in _ways_to(journey, each.name, ()):
            times = [last[name] for name in path]
            if None not in times and all(early <= late for early, late in pairwise(t for t in times if t is not None)):
                reached.append((last[each.name], place, each.name))
    return max(reached)[2] if reached else ""


def _ways_to(journey: Journey, name: str, behind: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield every way from a step that is entered from anywhere to `name`, no step twice."""
    (found,) = [s for s in journey.steps if s.name == name]
    if name in behind:
        return
    if not found.after:
        yield (name, *behind)
    for before in found.after:
        yield from _ways_to(journey, before, (name, *behind))


class Reported(NamedTuple):
    """A behaviour event, and who reported it."""

    event: str
    at_ms: int
    by: str = "customer"


def meetings(journey: Journey, history: Sequence[Reported]) -> dict[str, list[int]]:
    """Return when each step with a side was last entered, and when each side first did its part since, 0: not yet."""
    found = {}
    for each in journey.steps:
        if (each.does or each.owes) and _is_reached(journey, each.name, history):
            entered_ms = max(h.at_ms for h in history if h.event == each.event)
            since = [h for h in history if h.at_ms >= entered_ms]
            did = [h.at_ms for h in since if h.event in each.does and h.by == "customer"]
            kept = [h.at_ms for h in since if h.event in each.owes]
            found[f"{journey.name}.{each.name}"] = [entered_ms, min(did, default=0), min(kept, default=0)]
    return found


def harmony(journey: Journey, step: JourneyStep, history: Sequence[Reported]) -> bool:
    """Tell whether some deed of each side that has something to do fell between entering and the end of its time."""
    times = meetings(journey, history).get(f"{journey.name}.{step.name}")
    if times is None:
        return False

    def in_time(at_ms: int, within_ms: int) -> bool:
        return times[0] <= at_ms and (within_ms == 0 or at_ms - times[0] <= within_ms)

    did = any(h.event in step.does and h.by == "customer" and in_time(h.at_ms, step.does_within_ms) for h in history)
    kept = any(h.event in step.owes and in_time(h.at_ms, step.owes_within_ms) for h in history)
    return (did or not step.does) and (kept or not step.owes)


def _is_reached(journey: Journey, name: str, history: Sequence[Reported]) -> bool:
    last = {s.name: max((h.at_ms for h in history if h.event == s.event), default=None) for s in journey.steps}
    for path in _ways_to(journey, name, ()):
        times = [last[each] for each in path]
        if None not in times and all(early <= late for early, late in pairwise(t for t in times if t is not None)):
            return True
    return False


def concern_open(concern: Concern, history: Sequence[Happened], now_ms: int) -> bool:
    """Tell whether some opening is young enough, and no resolution came with it or after it."""
    return any(
        now_ms - opening.at_ms < concern.timeout_ms
        and not any(h.event in concern.resolves and h.at_ms >= opening.at_ms for h in history)
        for opening in history
        if opening.event in concern.opens
    )


Said = tuple[str, bool, int]
"""Purpose, yes or no, when."""


def last_word(said: Sequence[Said], purpose: str) -> bool | None:
    """Return the last word on a purpose, a no when there are several; None: nothing was said."""
    words = [(at_ms, not granted) for name, granted, at_ms in said if name == purpose]
    return not max(words)[1] if words else None


def contact_allowed(said: Sequence[Said], policy: ConsentPolicy, channel: str) -> bool:
    """Go from the most to the least specific there is; a no to all contact ends what was said of channels before."""
    ends = [at_ms for purpose, granted, at_ms in said if purpose == "contact" and not granted]
    last = max((at_ms for purpose, _, at_ms in said if purpose == "contact"), default=0)
    if ends and max(ends) == last:
        said = [each for each in said if each[0] != f"contact:{channel}" or each[2] >= last]
    defaults: Mapping[str, bool] = {name: default == "opt_out" for name, default in policy.channels.items()}
    ladder = [
        last_word(said, f"contact:{channel}"),
        last_word(said, "contact"),
        defaults.get(channel),
        policy.contact == "opt_out",
    ]
    return next(word for word in ladder if word is not None)
