"""The world changes: decide and learn in one loop, with a known truth.

Every decision is drawn as it is served (bound snapshot, scores, exact Thompson, floor), so nothing is seen of an action
that is not chosen. Rewards are expected ones under the distribution that was drawn from: what is left to chance is
what the learner was told.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import numpy as np
import pytest
from scipy.special import expit, logit

from nbx.bandits import kernels
from nbx.bandits.kernels import F64
from nbx.bandits.learner import Learner, Observation
from nbx.bandits.snapshot import BoundModel, bind
from nbx.bandits.thompson import choose_slate

COLUMNS = ["one", "age", "rain"]
ACTIONS = ["left", "right"]
SLOPES = np.array([[0.0, 0.04, 0.28], [0.0, -0.33, 0.11]])
"""Of each action's log-odds, per standard deviation of a column."""
FLOOR = 0.01
PUBLISH = 25
"""Decisions between two snapshots."""
FLIP = 10_000
WINDOW = 200
"""Decisions over which reward is averaged to say whether the learner is back."""

Rates = Callable[[int], F64]


def still(_: int) -> F64:
    return np.array([0.3, 0.1])


def flipped(t: int) -> F64:
    return np.array([0.3, 0.1] if t < FLIP else [0.1, 0.3])


def wave(period: int) -> Rates:
    """Rates that change places twice per period, never abruptly."""
    return lambda t: 0.2 + np.array([0.1, -0.1]) * math.sin(2.0 * math.pi * t / period)


class Earned(NamedTuple):
    """Expected reward of each decision, as chosen and at best."""

    chosen: F64
    best: F64

    @property
    def ratio(self) -> float:
        return float(self.chosen.sum() / self.best.sum())

    def recovery(self) -> int:
        """Decisions until every further window earns at least 90 % of the best; all of them when none does."""
        ones = np.ones(WINDOW)
        poor = np.flatnonzero(np.convolve(self.chosen, ones, "valid") < 0.9 * np.convolve(self.best, ones, "valid"))
        return int(poor[-1]) + 1 if len(poor) else 0


class Loop:
    """A learner that decides by what it published."""

    def __init__(self, rates: Rates, seed: int, *, adaptive: bool = True) -> None:
        self.rates = rates
        self.rng = np.random.default_rng(seed)
        self.learner = Learner(adaptive=adaptive)
        self.learner.register_layout(1, COLUMNS)
        self.t = 0
        self.model = self.publish()

    def publish(self) -> BoundModel:
        return bind(self.learner.snapshot(1, self.t), COLUMNS, ACTIONS, ["g", "g"])

    def branch(self, *, adaptive: bool) -> Loop:
        """Copy the world and a learner restored from its checkpoint, with or without drift handling."""
        other = copy.copy(self)
        other.rng = copy.deepcopy(self.rng)
        other.learner = Learner.restore(self.learner.checkpoint())
        other.learner.adaptive = adaptive
        return other

    def run(self, count: int) -> Earned:
        earned = Earned(np.empty(count), np.empty(count))
        rows, out = np.arange(2, dtype=np.int32), [np.empty(2, np.float32) for _ in range(3)]
        one, zero = np.ones(2), np.zeros(2)
        for k in range(count):
            if self.t % PUBLISH == 0:
                self.model = self.publish()
            x = np.r_[1.0, self.rng.normal(size=2)].astype(np.float32)
            kernels.score(x, self.model.mean, self.model.cov_packed, self.model.experience, rows, *out)
            slate = choose_slate(
                out[0],
                out[1],
                one,
                zero,
                scale=self.model.exploration,
                floor=FLOOR,
                slots=1,
                uniforms=[self.rng.random()],
                with_none=False,
            )
            truth = expit(logit(self.rates(self.t)) + SLOPES @ x)
            earned.chosen[k], earned.best[k] = slate.probabilities[:2] @ truth, truth.max()
            at = int(slate.chosen[0])
            self.learner.learn(
                Observation(
                    key=f"{self.t}/0",
                    action=ACTIONS[at],
                    group="g",
                    layout=1,
                    x=x,
                    response=int(self.rng.random() < truth[at]),
                    experience=0.0,
                    experience_weight=0.0,
                ),
                None,
            )
            self.t += 1
        return earned


def test_a_flip_is_followed_in_a_third_of_the_time() -> None:
    """Both share everything up to the flip, where nothing was noticed.

    Measured 608, 744 and 701 decisions; without, none is back within the 3,000 that are looked at.
    """
    with_it, without = [], []
    for seed in (0, 1, 3):
        loop = Loop(flipped, seed)
        loop.run(FLIP)
        assert loop.learner.snapshot(1, 1).changes == [0, 0]
        assert loop.learner.half_life == math.inf
        with_it.append(loop.branch(adaptive=True).run(3_000).recovery())
        without.append(loop.branch(adaptive=False).run(3_000).recovery())
    assert median(with_it) <= median(without) / 3


def test_a_gradual_change_is_followed() -> None:
    """Half-lives shorten; measured 0.965 of the best, without 0.916."""
    rates = wave(6_000)
    handled, ignored = Loop(rates, 1), Loop(rates, 1, adaptive=False)
    with_it, without = handled.run(12_000), ignored.run(12_000)
    assert with_it.ratio > without.ratio + 0.02
    assert handled.learner.half_life < math.inf
    assert ignored.learner.half_life == math.inf


@pytest.mark.nightly
def test_many_flips_are_followed_in_a_third_of_the_time() -> None:
    """Measured a median of 730 decisions (329 to 1,302), without 7,950 (3,582 and up): a tenth."""
    took: dict[bool, list[int]] = {True: [], False: []}
    for seed in range(100, 116):
        for adaptive, times in took.items():
            loop = Loop(flipped, seed, adaptive=adaptive)
            loop.run(FLIP)
            times.append(loop.run(12_000).recovery())
    assert median(took[True]) <= median(took[False]) / 3
    assert np.mean(np.array(took[True]) <= np.array(took[False]) / 3) >= 0.8


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(4))
def test_a_slow_wave_is_followed(seed: int) -> None:
    earned = [Loop(wave(20_000), seed, adaptive=adaptive).run(40_000).ratio for adaptive in (True, False)]
    assert earned[0] > earned[1] + 0.02


@pytest.mark.nightly
def test_a_still_world_is_hardly_ever_forgotten() -> None:
    """Six times 50,000 decisions: never a half-life, at most two false alarms, and they cost less than 1 % of reward.

    Measured one alarm in 300,000 decisions, which cost 0.01 % of reward where it happened.
    """
    alarms = 0
    for seed in range(6):
        handled, ignored = Loop(still, seed), Loop(still, seed, adaptive=False)
        total = np.zeros(2)
        for _ in range(50):
            total += [loop.run(1_000).chosen.sum() for loop in (handled, ignored)]
            assert handled.learner.half_life == math.inf
        assert total[0] >= 0.99 * total[1]
        alarms += sum(handled.learner.snapshot(1, 1).changes)
    assert alarms <= 2
