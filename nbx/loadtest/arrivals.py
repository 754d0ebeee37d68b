"""When requests are due: arrival processes, drawn ahead as absolute times, so that no answer can delay a request.

A phase is cut into pieces of constant rate; the times of a phase are then those of a process of rate 1 read through the
inverse of the summed rate (time rescaling, Cox and Lewis 1966), evenly spaced or Poisson. Nothing here knows a clock.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Annotated, Literal, NamedTuple

import numpy as np
from msgspec import Meta, Struct, field
from numpy.typing import NDArray

from nbx.loadtest.durations import Seconds

Rate = Annotated[float, Meta(gt=0, le=1_000_000)]
Spacing = Literal["poisson", "even"]
DAY = (1, 1, 1, 1, 1, 2, 5, 12, 25, 42, 55, 64, 70, 66, 62, 60, 64, 72, 86, 97, 100, 80, 40, 12)
"""Percent of a website's busiest hour, by the hour: lunch and the evening stand out, nights are quiet."""
PIECES_PER_HOUR = 20


class _Phase(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="shape"):
    rate: Rate
    """Requests per second; where the rate changes, the lower one, or the first."""
    lasts_s: Seconds = field(name="for")


class Constant(_Phase, frozen=True, kw_only=True, tag="constant"):
    """Evenly spaced requests."""


class Poisson(_Phase, frozen=True, kw_only=True, tag="poisson"):
    """Independent requests: what many customers who know nothing of each other are."""


class Step(_Phase, frozen=True, kw_only=True, tag="step"):
    """From `rate` to `peak` in steps of equal length."""

    peak: Rate
    steps: Annotated[int, Meta(ge=2, le=100)] = 5
    spacing: Spacing = "poisson"


class Spike(_Phase, frozen=True, kw_only=True, tag="spike"):
    """`rate`, and `peak` for a while in between."""

    peak: Rate
    at: Seconds
    """When it begins, since the phase did."""
    width: Seconds
    spacing: Spacing = "poisson"

    def __post_init__(self) -> None:
        if self.at + self.width > self.lasts_s:
            raise ValueError("the spike ends after its phase: at + width must be at most `for`")


class Daily(_Phase, frozen=True, kw_only=True, tag="daily"):
    """The curve of a day, played in the length of the phase: `rate` in the night, `peak` in the evening."""

    peak: Rate
    days: Annotated[int, Meta(ge=1, le=31)] = 1
    spacing: Spacing = "poisson"


Phase = Constant | Poisson | Step | Spike | Daily


class Piece(NamedTuple):
    """A stretch of constant rate."""

    name: str
    length_s: float
    rate: float


class Stretch(NamedTuple):
    """A part of the schedule that is reported by itself."""

    name: str
    start_s: float
    end_s: float
    due: int
    """Requests due in it."""


class Schedule(NamedTuple):
    """When requests are due."""

    due_s: NDArray[np.float64]
    """Seconds since the beginning, ascending."""
    stretches: tuple[Stretch, ...]
    length_s: float


def pieces_of(phase: Phase, rate_factor: float = 1.0) -> Iterator[Piece]:
    """Cut a phase into pieces of constant rate, every rate multiplied by a factor.

    Examples
    --------
    >>> [f"{p.name} {p.rate:g}" for p in pieces_of(Step(rate=10, peak=30, steps=3, lasts_s=Seconds(3)))]
    ['step 10/s 10', 'step 20/s 20', 'step 30/s 30']
    """
    length, low = float(phase.lasts_s), phase.rate * rate_factor
    high = getattr(phase, "peak", phase.rate) * rate_factor
    match phase:
        case Step():
            for rate in np.linspace(low, high, phase.steps).tolist():
                yield Piece(f"step {rate:.4g}/s", length / phase.steps, rate)
        case Spike():
            yield Piece("before the spike", phase.at, low)
            yield Piece("spike", phase.width, high)
            yield Piece("after the spike", length - phase.at - phase.width, low)
        case Daily():
            count = 24 * PIECES_PER_HOUR
            hours = (np.arange(count) + 0.5) / PIECES_PER_HOUR
            share = np.interp(hours, np.arange(25), (*DAY, DAY[0])) / 100
            least = min(DAY) / 100
            rates = low + (high - low) * (share - least) / (1 - least)
            for day in range(phase.days):
                for rate in rates.tolist():
                    yield Piece(f"day {day + 1}", length / phase.days / count, rate)
        case _:
            yield Piece(f"{low:.4g}/s", length, low)


def mean_rate(phases: Sequence[Phase]) -> float:
    """Requests per second over all phases."""
    pieces = [piece for phase in phases for piece in pieces_of(phase)]
    return sum(p.length_s * p.rate for p in pieces) / max(sum(p.length_s for p in pieces), 1e-9)


def schedule(
    phases: Sequence[Phase], seed: int, *, rate_factor: float = 1.0, time_factor: float = 1.0, numbered: bool = True
) -> Schedule:
    """Draw when requests are due.

    Parameters
    ----------
    phases
        One after the other.
    seed
        The same seed, the same times.
    rate_factor, time_factor
        Every rate and every length is multiplied by it.
    numbered
        Whether stretches of several phases begin with their phase's number.

    Examples
    --------
    >>> schedule([Constant(rate=4, lasts_s=Seconds(1))], 0).due_s.tolist()
    [0.0, 0.25, 0.5, 0.75]
    """
    rng = np.random.default_rng([seed, 0xA221])
    due: list[NDArray[np.float64]] = []
    stretches: list[Stretch] = []
    start_s = 0.0
    for number, phase in enumerate(phases, 1):
        pieces = [Piece(p.name, p.length_s * time_factor, p.rate) for p in pieces_of(phase, rate_factor)]
        ends_s = np.array([0.0, *accumulate(p.length_s for p in pieces)])
        sums = np.array([0.0, *accumulate(p.length_s * p.rate for p in pieces)])
        even = isinstance(phase, Constant) or getattr(phase, "spacing", "") == "even"
        times = start_s + np.interp(_unit_process(rng, float(sums[-1]), even=even), sums, ends_s)
        due.append(times)
        prefix = f"{number}: " if numbered and len(phases) > 1 else ""
        stretches += _stretches(pieces, start_s, times, prefix)
        start_s += float(ends_s[-1])
    return Schedule(np.concatenate(due) if due else np.zeros(0), tuple(stretches), start_s)


def _unit_process(rng: np.random.Generator, until: float, *, even: bool) -> NDArray[np.float64]:
    """Times of a process of rate 1 below `until`."""
    if even:
        return np.arange(float(np.ceil(until - 1e-9)))
    count = int(until + 6 * until**0.5 + 20)
    times = rng.exponential(size=count).cumsum()
    while times[-1] < until:
        times = np.concatenate([times, times[-1] + rng.exponential(size=count).cumsum()])
    return times[times < until]


def _stretches(pieces: Sequence[Piece], start_s: float, times: NDArray[np.float64], prefix: str) -> Iterator[Stretch]:
    at = begin = start_s
    for index, piece in enumerate(pieces):
        at += piece.length_s
        last = index + 1 == len(pieces)
        if last or pieces[index + 1].name != piece.name:
            lower, upper = np.searchsorted(times, [begin, at])
            due = (len(times) if last else int(upper)) - int(lower)
            if at > begin:
                yield Stretch(prefix + piece.name, begin, at, due)
            begin = at
