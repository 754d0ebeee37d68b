"""Off-policy estimates against the truth of a synthetic log: unbiased, covered, narrower with a model. Fixed seeds."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from nbx.bandits import ope

F64 = NDArray[np.float64]

ACTIONS = 5
ROWS = 1_000
LOGS = 2_000
WITHIN_SE = 4.0
"""Standard errors of the mean over the logs that an unbiased estimator may be off: false alarm once in 16,000."""


class World(NamedTuple):
    """A log with known truth: customers of three kinds, five actions, yes or no."""

    reward: F64
    weight: F64
    predicted: F64
    expected: F64


def softmax(scores: F64) -> F64:
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    chances: F64 = raised / raised.sum(axis=1, keepdims=True)
    return chances


def with_floor(chances: F64) -> F64:
    mixed: F64 = 0.95 * chances + 0.05 / chances.shape[1]
    return mixed


KINDS = np.random.default_rng(11).normal(size=(3, ACTIONS))
RATE = 1.0 / (1.0 + np.exp(-3.0 * KINDS))
LOGGING = with_floor(softmax(1.5 * KINDS))
TARGET = with_floor(softmax(-0.5 * KINDS))
"""Wants what the log avoids."""
TRUTH = float((RATE * TARGET).sum(axis=1).mean())
LOGGED_TRUTH = float((RATE * LOGGING).sum(axis=1).mean())


def world(seed: int, rows: int = ROWS, model: F64 = RATE) -> World:
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 3, rows)
    action = (rng.random((rows, 1)) > LOGGING[kind].cumsum(axis=1)).sum(axis=1).clip(max=ACTIONS - 1)
    reward = (rng.random(rows) < RATE[kind, action]).astype(np.float64)
    weight = ope.importance_weights(LOGGING[kind, action], TARGET[kind, action])
    return World(reward, weight, model[kind, action], (model * TARGET).sum(axis=1)[kind])


def interval(low: float | None, high: float | None) -> tuple[float, float]:
    assert low is not None
    assert high is not None
    return low, high


@pytest.fixture(scope="module")
def runs() -> dict[str, list[ope.Estimate]]:
    found: dict[str, list[ope.Estimate]] = {}
    for seed in range(LOGS):
        for each in ope.all_estimates(*world(seed)):
            found.setdefault(each.estimator, []).append(each)
    return found


def values(estimates: list[ope.Estimate]) -> F64:
    return np.array([each.value for each in estimates], dtype=np.float64)


@pytest.mark.parametrize("name", ["ips", "dr"])
def test_ips_and_dr_are_unbiased(runs: dict[str, list[ope.Estimate]], name: str) -> None:
    found = values(runs[name])
    assert abs(found.mean() - TRUTH) < WITHIN_SE * found.std(ddof=1) / math.sqrt(LOGS)


@pytest.mark.parametrize("name", ["snips", "sndr"])
def test_the_bias_of_the_self_normalised_is_of_order_one_in_n(runs: dict[str, list[ope.Estimate]], name: str) -> None:
    found = values(runs[name])
    noise = WITHIN_SE * found.std(ddof=1) / math.sqrt(LOGS)
    assert abs(found.mean() - TRUTH) < noise + 5.0 / ROWS


def test_dr_is_unbiased_with_a_model_that_is_wrong() -> None:
    wrong = 1.0 - RATE
    found = values([ope.dr(*world(seed, model=wrong)) for seed in range(500)])
    assert abs(found.mean() - TRUTH) < WITHIN_SE * found.std(ddof=1) / math.sqrt(500)
    direct = np.mean([world(seed, model=wrong).expected.mean() for seed in range(20)])
    assert abs(direct - TRUTH) > 0.1, "the model alone is far off: the log corrects it"


def test_a_good_model_narrows(runs: dict[str, list[ope.Estimate]]) -> None:
    spread = {name: float(values(each).std(ddof=1)) for name, each in runs.items()}
    assert spread["dr"] < 0.9 * spread["ips"], spread
    assert spread["sndr"] < 0.8 * spread["snips"], spread


@pytest.mark.parametrize("name", ["ips", "snips", "dr", "sndr"])
def test_intervals_cover_the_truth_as_often_as_they_say(runs: dict[str, list[ope.Estimate]], name: str) -> None:
    hits = differences = 0
    for each in runs[name]:
        low, high = interval(each.low, each.high)
        hits += low <= TRUTH <= high
        low, high = interval(each.difference_low, each.difference_high)
        differences += low <= TRUTH - LOGGED_TRUTH <= high
    # 95 % nominal; 2,000 logs tell a coverage within 1.5 points
    assert 0.93 <= hits / LOGS <= 0.97, hits / LOGS
    assert 0.93 <= differences / LOGS <= 0.97, differences / LOGS


def test_a_difference_is_narrower_than_two_intervals_apart() -> None:
    log = world(1)
    each = ope.dr(*log)
    logged = ope.logged_value(log.reward)
    low, high = interval(each.low, each.high)
    logged_low, logged_high = interval(logged.low, logged.high)
    apart_low, apart_high = interval(each.difference_low, each.difference_high)
    assert apart_high - apart_low < (high - low) + (logged_high - logged_low)


def test_what_is_called_reliable_is_covered_also_in_small_logs() -> None:
    hits, kept = 0, 0
    for seed in range(2_000):
        log = world(seed, rows=600)
        if ope.support(log.weight, log.reward).reliable:
            each = ope.ips(log.reward, log.weight)
            low, high = interval(each.low, each.high)
            kept += 1
            hits += low <= TRUTH <= high
    assert 500 < kept < 2_000, "the threshold on effective rows lets some of these logs through"
    assert hits / kept >= 0.93, (hits / kept, kept)
