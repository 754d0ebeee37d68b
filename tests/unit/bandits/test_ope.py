"""Off-policy estimators against slow twins; refusals; what is said when there is too little to say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from nbx.bandits import ope
from nbx.errors import Invalid

F64 = NDArray[np.float64]


def rows(n: int = 300, seed: int = 3) -> tuple[F64, F64, F64, F64]:
    """Make up reward, weight, predicted and expected."""
    rng = np.random.default_rng(seed)
    return rng.normal(2.0, 1.0, n), rng.exponential(1.0, n), rng.normal(2.0, 0.5, n), rng.normal(1.5, 0.5, n)


def slow(reward: F64, weight: F64, predicted: F64, expected: F64, *, normalised: bool) -> float:
    """Row by row, as the formulas stand in the papers."""
    total = corrected = weights = 0.0
    for r, w, q, mean in zip(reward, weight, predicted, expected, strict=True):
        total += mean
        corrected += w * (r - q)
        weights += w
    return total / len(reward) + corrected / (weights if normalised else len(reward))


def slow_spread(reward: F64, weight: F64, predicted: F64, expected: F64, *, normalised: bool, minus: bool) -> float:
    """Standard error by the jackknife: each row left out once."""
    n = len(reward)
    kept = [np.arange(n) != i for i in range(n)]
    left = np.array(
        [
            slow(reward[k], weight[k], predicted[k], expected[k], normalised=normalised)
            - (reward[k].mean() if minus else 0.0)
            for k in kept
        ]
    )
    return math.sqrt((n - 1) / n * float(np.square(left - left.mean()).sum()))


def half(low: float | None, high: float | None) -> float:
    assert low is not None
    assert high is not None
    return (high - low) / 2


@pytest.mark.parametrize("name", ["ips", "snips", "dr", "sndr"])
def test_value_and_interval_are_those_of_the_slow_twin(name: str) -> None:
    reward, weight, predicted, expected = rows()
    with_model = name in ("dr", "sndr")
    if not with_model:
        predicted, expected = np.zeros_like(reward), np.zeros_like(reward)
    estimator = {"ips": ope.ips, "snips": ope.snips}.get(name)
    each = estimator(reward, weight) if estimator else getattr(ope, name)(reward, weight, predicted, expected)
    normalised = name in ("snips", "sndr")
    value = slow(reward, weight, predicted, expected, normalised=normalised)
    assert each.estimator == name
    assert each.value == pytest.approx(value, rel=1e-12)
    assert each.difference == pytest.approx(value - reward.mean(), rel=1e-12)
    for minus, found in ((False, half(each.low, each.high)), (True, half(each.difference_low, each.difference_high))):
        error = slow_spread(reward, weight, predicted, expected, normalised=normalised, minus=minus)
        assert 1.96 < found / error < 2.15, "1.96 of the normal, a little more for few rows"


def test_the_order_of_rows_does_not_matter() -> None:
    columns = rows()
    order = np.random.default_rng(1).permutation(len(columns[0]))
    for one, other in zip(
        [ope.ips(*columns[:2]), ope.sndr(*columns)],
        [ope.ips(*(c[order] for c in columns[:2])), ope.sndr(*(c[order] for c in columns))],
        strict=True,
    ):
        for name in ("value", "low", "high", "difference", "difference_low", "difference_high"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-12)


def test_the_logging_policy_itself_is_the_mean_of_the_log() -> None:
    reward, _, predicted, _ = rows()
    same = np.ones_like(reward)
    for each in (ope.ips(reward, same), ope.snips(reward, same), ope.dr(reward, same, predicted, predicted)):
        assert each.value == pytest.approx(float(reward.mean()))
        assert each.difference == pytest.approx(0.0, abs=1e-12)
        assert half(each.difference_low, each.difference_high) == pytest.approx(0.0, abs=1e-12)
    logged = ope.logged_value(reward)
    assert half(logged.low, logged.high) == pytest.approx(1.968 * reward.std(ddof=1) / math.sqrt(300), rel=0.01)


def test_few_rows_that_carry_the_variance_widen_the_interval() -> None:
    reward, weight = np.zeros(1_000), np.ones(1_000)
    reward[:2] = 1.0
    each = ope.ips(reward, weight)
    normal = 1.96 * reward.std(ddof=1) / math.sqrt(1_000)
    assert half(each.low, each.high) > 6 * normal, "two rows: Student with one degree of freedom"


def test_no_rows_and_no_weight_are_undefined_not_zero() -> None:
    none = np.zeros(0)
    assert ope.ips(none, none) == ope.Estimate(estimator="ips", value=None, low=None, high=None)
    never = ope.snips(np.ones(5), np.zeros(5))
    assert (never.value, never.low, never.difference) == (None, None, None)
    assert ope.ips(np.ones(5), np.zeros(5)).value == 0.0
    assert not ope.support(none, none).reliable
    assert (ope.ips(np.ones(1), np.ones(1)).value, ope.ips(np.ones(1), np.ones(1)).low) == (1.0, None)


@pytest.mark.parametrize("bad", [0.0, -0.1, 1.5, math.nan, math.inf])
def test_a_propensity_that_is_none_is_refused_by_name(bad: float) -> None:
    propensity = np.array([0.5, bad, 0.5])
    with pytest.raises(Invalid, match=r"1 of 3 rows \(second\) have no propensity") as refused:
        ope.importance_weights(propensity, np.full(3, 0.5), ["first", "second", "third"])
    assert refused.value.code == "propensity_unknown"


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan])
def test_a_target_that_is_no_probability_is_refused(bad: float) -> None:
    with pytest.raises(Invalid, match=r"1 of 2 rows \(1\) have a target"):
        ope.importance_weights(np.ones(2), np.array([0.5, bad]))


def test_what_the_log_could_not_draw_is_refused() -> None:
    logged = np.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
    target = np.array([[0.1, 0.7, 0.2], [0.2, 0.3, 0.5]])
    missed = ope.unsupported(target, logged)
    assert missed.tolist() == [0.2, 0.0]
    with pytest.raises(Invalid, match=r"1 of 2 rows \(a\) give the policy actions that the log could not draw") as no:
        ope.check_overlap(missed, ["a", "b"])
    assert no.value.code == "no_overlap"
    ope.check_overlap(np.array([0.0, ope.RESOLUTION]))
    with pytest.raises(Invalid, match=r"9 of 9 rows \(0, 1, 2, 3, 4 and 4 more\)"):
        ope.check_overlap(np.ones(9))


def test_clipping_says_what_it_took() -> None:
    weight, reward = np.array([4.0, 1.0, 1.0, 0.0]), np.arange(4.0)
    assert ope.clipped(weight, None) is weight
    assert ope.clipped(weight, 2.0).tolist() == [2.0, 1.0, 1.0, 0.0]
    told = ope.support(weight, reward, clip=2.0)
    assert told.clipped_share == pytest.approx(1 / 3)
    assert (told.max_weight, told.mean_weight) == (4.0, 1.0)
    assert told.effective_rows == pytest.approx(16 / 6)
    with pytest.raises(Invalid, match="clip"):
        ope.clipped(weight, 0.0)


def test_support_says_why_a_log_tells_nothing() -> None:
    reward = np.tile([0.0, 1.0], 200)
    assert ope.support(np.ones(400), reward).reasons == ()
    assert ope.support(np.ones(50), reward[:50]).reasons == ("50.0 effective rows, 100 are needed",)
    (few,) = ope.support(np.ones(400), (np.arange(400) < 9).astype(np.float64)).reasons
    assert few == "9 rows have another reward than the commonest, 10 are needed"
    (wrong,) = ope.support(np.full(400, 0.8), reward).reasons
    assert "the mean weight is 0.800, not 1" in wrong
    weight = np.tile([0.0, 2.0, 1.0, 1.0], 100)
    assert ope.support(weight, reward).effective_rows == pytest.approx(400 / 1.5)
