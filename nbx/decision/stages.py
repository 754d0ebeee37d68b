"""Where the time of one decision went."""

from __future__ import annotations

from time import perf_counter_ns
from typing import Final, Literal

Stage = Literal["check", "load", "choose", "record", "commit"]
STAGES: Final[tuple[Stage, ...]] = ("check", "load", "choose", "record", "commit")
"""Checking the request; reading state, and budgets' leases where they run short; rules, scores and draw; building the
record and the reply; writing. A decision that is made anew after a conflict passes through them again."""


class Stages:
    """A stop watch that is always in one stage; it only notes times, and adds up when somebody looks.

    Parameters
    ----------
    since_ns
        When the first stage began, on the clock of `perf_counter_ns`; 0: now.

    Attributes
    ----------
    at_ns : list of int
        When it was started, when each further stage began, and when it was stopped, on the clock of `perf_counter_ns`.
    entered : list
        The stages, in their order; one may come again.
    attempts : int
        How often the state was read.

    Examples
    --------
    >>> stages = Stages()
    >>> stages.enter("load")
    >>> took_ns = stages.stop()
    >>> list(stages.ns), took_ns == sum(stages.ns.values())
    (['check', 'load', 'choose', 'record', 'commit'], True)
    """

    __slots__ = ("at_ns", "attempts", "entered")

    def __init__(self, since_ns: int = 0) -> None:
        self.attempts = 0
        self.entered: list[Stage] = ["check"]
        self.at_ns = [since_ns or perf_counter_ns()]

    def enter(self, stage: Stage) -> None:
        """Go on in a stage."""
        self.at_ns.append(perf_counter_ns())
        self.entered.append(stage)

    def stop(self) -> int:
        """End the stage that runs, once; returns the nanoseconds since the start."""
        if len(self.at_ns) == len(self.entered):
            self.at_ns.append(perf_counter_ns())
        return self.at_ns[-1] - self.at_ns[0]

    @property
    def ns(self) -> dict[Stage, int]:
        """Stage → nanoseconds spent there so far, without the stage that runs."""
        spent: dict[Stage, int] = dict.fromkeys(STAGES, 0)
        for stage, began, ended in zip(self.entered, self.at_ns, self.at_ns[1:], strict=False):
            spent[stage] += ended - began
        return spent

    def slowest(self) -> Stage:
        """Return the stage that took longest."""
        ns = self.ns
        return max(ns, key=ns.__getitem__)
