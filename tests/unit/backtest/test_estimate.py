"""Estimates against closed forms, published examples and simulated truth."""

import math

import numpy as np
import pytest

from nbx.audit.intervals import Z95
from nbx.backtest.estimate import ReplayTally, difference, equal_mix, proportion, unlikely_randomised


@pytest.mark.parametrize(("positives", "count"), [(0, 7), (7, 7), (1, 3), (15, 148), (81, 263), (5000, 20_000)])
def test_wilson_bounds_are_where_the_score_test_turns(positives: int, count: int) -> None:
    found = proportion(positives, count)
    for bound in (found.low, found.high):
        if 0.0 < bound < 1.0:
            z = (positives / count - bound) / math.sqrt(bound * (1 - bound) / count)
            assert abs(z) == pytest.approx(Z95, rel=1e-9)
    assert 0.0 <= found.low <= found.mean <= found.high <= 1.0


def test_wilson_of_a_published_example() -> None:
    found = proportion(81, 263)  # Newcombe 1998, Statistics in Medicine 17:857, table I
    assert (round(found.low, 4), round(found.high, 4)) == (0.2553, 0.3662)


@pytest.mark.parametrize("wrong", [(-1, 5), (6, 5)])
def test_impossible_counts_are_refused(wrong: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="positives of"):
        proportion(*wrong)


def test_difference_of_published_examples() -> None:
    found = difference(proportion(56, 70), proportion(48, 80))  # Newcombe 1998, SiM 17:873, table II (a), method 10
    assert (round(found.low, 4), round(found.high, 4)) == (0.0524, 0.3339)
    found = difference(proportion(10, 10), proportion(0, 10))
    assert (round(found.low, 4), found.high) == (0.6075, 1.0)


def test_equal_mix_is_the_stratified_mean() -> None:
    found = equal_mix([(10, 100), (90, 300)])
    half = Z95 * math.sqrt(0.1 * 0.9 / 100 + 0.3 * 0.7 / 300) / 2
    assert found.mean == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((0.2 - half, 0.2 + half))
    assert found.count == 400


def test_an_arm_without_rows_has_no_mix() -> None:
    assert math.isnan(equal_mix([(1, 2), (0, 0)]).mean)


def test_randomisation_check_sees_a_wrong_share_and_not_chance() -> None:
    random = np.random.default_rng(5)
    shares = {"a": 0.5, "b": 0.3, "c": 0.2}
    alarms = 0
    for _ in range(400):
        counts = dict(zip(shares, random.multinomial(2000, list(shares.values())).tolist(), strict=True))
        alarms += unlikely_randomised(counts, shares)
        assert unlikely_randomised(counts, dict.fromkeys(shares, 1 / 3))
    assert alarms <= 2  # 400 × 0.001, and at most
    assert not unlikely_randomised({"a": 5_020_000, "b": 4_980_000}, {"a": 0.5, "b": 0.5})  # significant, tiny


@pytest.mark.parametrize("shares", [(1 / 3, 1 / 3, 1 / 3), (0.6, 0.3, 0.1)])
def test_replay_of_a_fixed_policy_is_unbiased(shares: tuple[float, ...]) -> None:
    """The mean of 200 replays is within 3.5 standard errors of the policy's true reward, uniform log or not.

    The policy follows the context, so a replay that forgot to thin a skewed log would be off by 0.14 here.
    """
    random, actions = np.random.default_rng(11), ("a", "b", "c")
    reward = np.array([[0.1, 0.5, 0.2], [0.6, 0.2, 0.3], [0.1, 0.2, 0.9]])  # context × action
    choice = np.array([0, 0, 2])  # the policy, by context
    truth = reward[np.arange(3), choice].mean()
    means = []
    for run in range(200):
        tally = ReplayTally(dict(zip(actions, shares, strict=True)), seed=run)
        contexts = random.integers(3, size=600)
        logged = random.choice(3, size=600, p=shares)
        outcomes = random.random(600) < reward[contexts, logged]
        for context, action, positive in zip(contexts, logged, outcomes, strict=True):
            tally.take(actions[action], actions[choice[context]], positive=bool(positive))
        means.append(tally.policy().mean)
    error = np.std(means) / math.sqrt(len(means))
    assert abs(np.mean(means) - truth) < 3.5 * error
    assert error < 0.005


def test_tally_counts_halves_arms_and_choices() -> None:
    tally = ReplayTally({"a": 0.5, "b": 0.5}, seed=0)
    for logged, chosen, positive in [
        ("a", "a", False), ("a", "b", True), ("b", "b", True), ("b", "", True), ("b", "none", False), ("a", "a", True),
    ]:  # fmt: skip
        tally.take(logged, chosen, positive=positive)
    assert (tally.rows, tally.accepted, tally.positives) == (6, 3, 2)
    first, second = tally.halves()
    assert (first.mean, first.count, second.mean, second.count) == (0.0, 1, 1.0, 2)
    assert tally.chosen() == {"a": 2, "b": 2}
    assert [round(arm.mean, 3) for arm in tally.arms().values()] == [0.667, 0.667]
