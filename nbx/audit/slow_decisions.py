"""A line in the process's log for decisions that took long, with the stage that did; no more than one a second."""

from __future__ import annotations

import logging

from nbx.audit.metrics import SLOW, observe_decision
from nbx.clock import Clock
from nbx.decision.stages import Stages
from nbx.experience.entries import DecisionEntry

EVERY_MS = 1_000
"""Milliseconds between two lines: a Redis that stalls makes a thousand decisions slow at once."""
_log = logging.getLogger("nbx.slow")


class SlowDecisions:
    """Counts decisions (`observe`), and tells of those that took long.

    Parameters
    ----------
    slow_ms
        From how many milliseconds on; 0: none is told of.
    clock
        Tells when.
    """

    def __init__(self, slow_ms: int, clock: Clock) -> None:
        self._slow_ns = slow_ms * 1_000_000
        self._clock = clock
        self._told_ms = -EVERY_MS
        self._untold = 0

    def observe(self, entry: DecisionEntry, stages: Stages) -> None:
        """Count a decision that was committed or answered degraded."""
        took_ns = observe_decision(entry, stages)
        if self._slow_ns and took_ns >= self._slow_ns:
            SLOW.labels(stages.slowest()).inc()
            self._tell(entry, stages, took_ns)

    def _tell(self, entry: DecisionEntry, stages: Stages, took_ns: int) -> None:
        now_ms = self._clock.now_ms()
        if 0 <= now_ms - self._told_ms < EVERY_MS:
            self._untold += 1
            return
        parts = ", ".join(f"{stage} {ns / 1e6:.1f}" for stage, ns in stages.ns.items())
        _log.warning(
            "slow decision %s: %.1f ms on placement %s, most of it in %s (%s ms; state read %d times%s)%s",
            entry.decision_id,
            took_ns / 1e6,
            entry.request.placement,
            stages.slowest(),
            parts,
            stages.attempts,
            f"; degraded: {', '.join(entry.degraded)}" if entry.degraded else "",
            f"; {self._untold} more since the last line" if self._untold else "",
        )
        self._told_ms, self._untold = now_ms, 0
