"""The selection distribution against Monte Carlo and a dense integral; propensities against frequencies."""

from __future__ import annotations

import numpy as np
import pytest

from nbx.bandits import kernels
from nbx.bandits.kernels import F64
from nbx.bandits.thompson import choose_slate
from tests.reference import bandits as reference

DRAWS = 400_000
SAMPLED_BOUND = 0.005
"""Total variation to 400,000 draws, whose own error is 0.0044 for fifty equal candidates."""
DENSE_BOUND = 0.003


def total_variation(a: F64, b: F64) -> float:
    return float(np.abs(a - b).sum() / 2)


@pytest.mark.parametrize("n", [2, 7, 50])
def test_selection_agrees_with_sampling(n: int) -> None:
    rng = np.random.default_rng(100 + n)
    for kind, candidates in reference.fields(n, rng):
        sampled = reference.selection_sampled(candidates, 0.7, True, DRAWS, seed=1)
        assert total_variation(kernels.selection(*candidates, 0.7, True), sampled) < SAMPLED_BOUND, kind


@pytest.mark.parametrize("with_none", [True, False])
def test_selection_agrees_with_a_dense_integral(with_none: bool) -> None:
    rng = np.random.default_rng(20)
    worst: dict[str, float] = {}
    for _ in range(6):
        for n in (2, 3, 5, 12, 25):
            for kind, candidates in reference.fields(n, rng):
                dense = reference.selection_dense(candidates, 1.0, with_none, points=401)
                error = total_variation(kernels.selection(*candidates, 1.0, with_none), dense)
                worst[kind] = max(worst.get(kind, 0.0), error)
    assert max(worst.values()) < DENSE_BOUND, worst


def test_slate_propensities_weigh_back_to_one() -> None:
    """E[1{slot 1 holds i}/propensity] is the probability that i could be placed there."""
    _, candidates = next(iter(reference.fields(4, np.random.default_rng(5))))
    rng = np.random.default_rng(6)
    rounds = 20_000
    first, second, available = np.zeros(4), np.zeros(4), np.zeros(4)
    for uniforms in rng.random((rounds, 2)):
        slate = choose_slate(*candidates, scale=1.0, floor=0.2, slots=2, uniforms=uniforms, with_none=False)
        first[slate.chosen[0]] += 1 / slate.propensity[0]
        second[slate.chosen[1]] += 1 / slate.propensity[1]
        available += 1
        available[slate.chosen[0]] -= 1
    spread = 4 * np.sqrt(20 / rounds)
    np.testing.assert_allclose(first / rounds, 1.0, atol=spread)
    np.testing.assert_allclose(second / rounds, available / rounds, atol=spread)
