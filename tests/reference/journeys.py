"""What journeys, concerns and consent promise, computed the slow way: from the whole history, over and over.

Written from the words of `nbx.experience.journeys` and `nbx.experience.consent`, not from their code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from nbx.catalog.model import Concern, ConsentPolicy, Journey


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
