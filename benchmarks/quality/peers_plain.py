"""Yardsticks: a uniform choice, and the action that was best over all rows, known only in hindsight."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.quality.policy import Peer, Setting

if TYPE_CHECKING:
    from benchmarks.quality.task import Stream


class _Plain:
    """Takes rows as they are and learns nothing."""

    def prepare(self, row: int) -> None:
        """Nothing."""

    def learn(self, row: int, action: int, success: float, reward: float, propensity: float) -> None:
        """Nothing."""


class Uniform(_Plain):
    """Any action with the same chance."""

    def __init__(self, setting: Setting, stream: Stream) -> None:  # noqa: ARG002 - as every policy is made
        count = len(stream.actions)
        self.choices = (stream.uniforms * count).astype(int).tolist()
        self.propensity = 1.0 / count

    def decide(self, row: int) -> tuple[int, float]:
        """Draw."""
        return self.choices[row], self.propensity


class BestFixed(_Plain):
    """The best single action of this stream."""

    def __init__(self, setting: Setting, stream: Stream) -> None:  # noqa: ARG002 - as every policy is made
        count = len(stream.actions)
        if stream.logged is None:
            rate = stream.expected.mean(0)
        else:
            shown = np.bincount(stream.logged, minlength=count)
            rate = np.bincount(stream.logged, stream.success, minlength=count) / np.maximum(shown, 1)
        self.best = int(np.argmax(stream.gain * rate + stream.shift))

    def decide(self, row: int) -> tuple[int, float]:  # noqa: ARG002
        """Always the same."""
        return self.best, math.nan


def _make(setting: Setting, stream: Stream) -> Uniform | BestFixed:
    return (Uniform if setting.policy == "uniform" else BestFixed)(setting, stream)


PEER = Peer("plain", "1", ("uniform", "best fixed action"), _make)
