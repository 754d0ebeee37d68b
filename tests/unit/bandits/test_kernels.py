"""Kernels against their twins, and at their edges."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import ArrayLike
from scipy.integrate import quad
from scipy.special import expit
from scipy.stats import norm

from nbx.bandits import kernels, kernels_learning
from nbx.bandits.kernels import F32
from tests.reference import bandits as reference


def f32(numbers: ArrayLike) -> F32:
    return np.array(numbers, np.float32)


def field(mean: ArrayLike, sd: ArrayLike, gain: ArrayLike, shift: ArrayLike) -> reference.Field:
    return reference.Field(f32(mean), f32(sd), np.array(gain, np.float64), np.array(shift, np.float64))


@pytest.mark.parametrize("d", [1, 2, 7, 16, 33, 64])
def test_score_matches_full_matrices(d: int) -> None:
    rng = np.random.default_rng(d)
    x = rng.normal(size=d).astype(np.float32)
    root = rng.normal(size=(5, d, d))
    cov = root @ root.transpose(0, 2, 1) / d
    mean, experience = (rng.normal(size=(5, d)).astype(np.float32) for _ in range(2))
    rows = np.array([4, 0, 0, 2], np.int32)
    out = [np.empty(4, np.float32) for _ in range(3)]
    packed = np.ascontiguousarray(cov[:, *np.triu_indices(d)], np.float32)
    kernels.score(x, mean, packed, experience, rows, *out)
    for got, expected in zip(out, reference.score(x, mean, cov, experience), strict=True):
        np.testing.assert_allclose(got, expected[rows], rtol=2e-5, atol=2e-5)


def test_utility_factors_are_computed_in_float64() -> None:
    third = np.full(1, 1 / 3, np.float32)
    gain, shift = kernels.utility_factors(third, third, third, third, 0.1, 0.5)
    assert gain[0] == float(third[0]) ** 2 * float(third[0])
    assert shift[0] == pytest.approx(0.1 * 1.5 * float(third[0]), rel=1e-15)


def test_response_probability_is_near_the_integral() -> None:
    for mean in (-4.0, -1.0, 0.0, 2.0):
        for sd in (0.0, 0.3, 1.0, 3.0):
            truth = expit(mean)
            if sd > 0.0:
                truth = quad(lambda z, m=mean, s=sd: expit(z) * norm.pdf(z, m, s), mean - 9 * sd, mean + 9 * sd)[0]
            got = kernels.response_probability(f32([mean]), f32([sd]))[0]
            assert got == pytest.approx(truth, abs=0.02)


@pytest.mark.parametrize("with_none", [True, False])
@pytest.mark.parametrize("n", [1, 2, 3, 12, 50])
def test_selection_matches_its_twin_on_the_same_grid(n: int, with_none: bool) -> None:
    rng = np.random.default_rng(n)
    for _ in range(4):
        for kind, candidates in reference.fields(n, rng):
            grid = np.empty(kernels.GRID)
            prob, points = kernels.selection_on_grid(*candidates, 1.0, with_none, grid)
            twin = reference.selection_on_grid(grid[:points], candidates, 1.0, with_none)
            np.testing.assert_allclose(prob, twin, rtol=0, atol=1e-6, err_msg=kind)
            assert prob.sum() == pytest.approx(1.0, abs=1e-12)
            assert prob.min() >= 0.0
            assert points <= kernels.COLUMNS + 8


def test_selection_scales_the_spread() -> None:
    candidates = next(iter(reference.fields(6, np.random.default_rng(3))))[1]
    scaled = candidates._replace(sd=candidates.sd * np.float32(0.5))
    assert kernels.selection(*candidates, 0.5, True) == pytest.approx(kernels.selection(*scaled, 1.0, True), abs=1e-9)


def test_nothing_to_choose() -> None:
    none = field([], [], [], [])
    assert kernels.selection(*none, 1.0, True).tolist() == [1.0]
    assert kernels.selection(*none, 1.0, False).tolist() == [0.0]


def test_a_single_candidate_competes_with_none_only() -> None:
    half = field([0.0], [1.0], [2.0], [-1.0])
    assert kernels.selection(*half, 1.0, False).tolist() == [1.0, 0.0]
    assert kernels.selection(*half, 1.0, True) == pytest.approx([0.5, 0.5], abs=1e-7)


def test_two_candidates_have_a_closed_form() -> None:
    two = field([0.3, -0.2], [0.5, 1.2], [1.0, 1.0], [0.0, 0.0])
    expected = norm.cdf(np.float32(0.5) / np.hypot(np.float32(0.5), np.float32(1.2)))
    assert kernels.selection(*two, 1.0, False)[0] == pytest.approx(expected, abs=2e-3)


def test_none_gets_everything_when_all_are_below_it() -> None:
    below = field([0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [-5.0, -0.1])
    assert kernels.selection(*below, 1.0, True).tolist() == [0.0, 0.0, 1.0]


@pytest.mark.parametrize(("sd", "gain"), [(0.0, 1.0), (1.0, 0.0)])
def test_equal_points_share_equally(sd: float, gain: float) -> None:
    three = field([0.5] * 3, [sd] * 3, [gain] * 3, [0.2, 0.2, 0.1])
    assert kernels.selection(*three, 1.0, True).tolist() == [0.5, 0.5, 0.0, 0.0]


def test_a_point_at_zero_ties_with_none() -> None:
    assert kernels.selection(*field([0.0], [1.0], [0.0], [0.0]), 1.0, True).tolist() == [0.5, 0.5]


def test_scale_zero_chooses_the_best_mean() -> None:
    assert kernels.selection(*field([0.1, 0.2], [1, 9], [1, 1], [0, 0]), 0.0, True).tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize("sd", [30.0, 100.0])
def test_logits_decide_where_utilities_round_to_one(sd: float) -> None:
    huge = field([0.0, 20.0, -20.0], [sd] * 3, [1.0] * 3, [0.0] * 3)
    rng = np.random.default_rng(1)
    z = huge.mean + sd * rng.standard_normal((400_000, 3))
    expected = np.bincount(z.argmax(axis=1), minlength=4) / len(z)
    assert np.abs(kernels.selection(*huge, 1.0, False) - expected).sum() / 2 < 0.005


@pytest.mark.parametrize(
    "nasty",
    [
        field([3.5, 0.96], [14.8, 0.0022], [7.0363, 7.0394], [0.0, 0.0]),
        field([4.5917, 2.81361], [0.71592, 3.49828], [3.88456, 8.91908], [0.81548, -1.19245]),
        field([4.21966, 4.32353], [3.16873, 0.56401], [6.47502, 4.86603], [0.51719, -1.06426]),
        field(
            [-2.5807106, -2.1775646, 5.1252127, -2.2366753],
            [1.9055891, 1.8315156, 1.6243144, 1.3486165],
            [60, 40, 20, 1],
            [1.55676413, 3.18747783, -0.32150263, 0.23792723],
        ),
        field(
            [1.1149244, -1.7954059, 2.7743158, 3.5947564],
            [1.2421618, 1.0681791, 9.528738, 1.8724608],
            [28.726513, 4.198402, 37.727557, 20.0],
            [0.42144464, 1.11452387, -1.61619005, 1.94706413],
        ),
    ],
    ids=[
        "a ceiling within rounding",
        "a step in one half",
        "a step in one half, ceilings apart",
        "the midpoint says nothing",
        "the midpoint says nothing, twice",
    ],
)
def test_steps_at_ceilings_are_found(nasty: reference.Field) -> None:
    """Each once cost 0.004 to 0.015 of total variation: mass left behind, or halving that moved nothing."""
    dense = reference.selection_dense(nasty, 1.0, False, points=2401)
    assert np.abs(kernels.selection(*nasty, 1.0, False) - dense).sum() / 2 < 1e-3


@pytest.mark.parametrize("same", [1, 2])
@pytest.mark.parametrize("with_none", [True, False])
def test_candidates_at_their_ceiling_keep_their_mass(same: int, with_none: bool) -> None:
    """All of σ(40 ± 0.05) rounds to 1: below a higher ceiling there is no grid point inside."""
    n = same + 1
    sure = field([40.0] * same + [-1.0], [0.01] * same + [1.0], [1.0] * same + [3.0], [0.0] * n)
    above = norm.sf(np.log(1 / 2) + 1)  # of 3σ(z) > 1
    expected = [(1 - above) / same] * same + [above, 0.0]
    assert kernels.selection(*sure, 1.0, with_none).tolist() == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize("shift", [-1e6, 0.0, 1e6])
def test_a_common_shift_changes_nothing_without_none(shift: float) -> None:
    candidates = next(iter(reference.fields(5, np.random.default_rng(4))))[1]
    moved = candidates._replace(shift=candidates.shift + shift)
    assert kernels.selection(*moved, 1.0, False) == pytest.approx(kernels.selection(*candidates, 1.0, False), abs=1e-6)


def test_floor_reaches_what_may_be_chosen() -> None:
    prob = np.array([0.9, 0.1, 0.0])
    assert kernels.with_floor(prob, 0.2, False) == pytest.approx([0.82, 0.18, 0.0])
    assert kernels.with_floor(prob, 0.3, True) == pytest.approx([0.73, 0.17, 0.1])
    assert kernels.with_floor(np.ones(1), 0.5, True).tolist() == [1.0]


@pytest.mark.parametrize("u", [0.0, 5e-324, 0.3, np.nextafter(1.0, 0.0), 1.0])
def test_a_draw_has_positive_probability(u: float) -> None:
    for prob in ([0.0, 1.0, 0.0], [0.0, 0.3, 0.0, 0.7 - 1e-12, 0.0], [1.0, 0.0], [0.1] * 10):
        assert prob[kernels.draw(np.array(prob), u)] > 0.0


def test_a_draw_from_nothing_is_refused() -> None:
    assert kernels.draw(np.zeros(1), 0.5) == -1


def test_draws_follow_the_distribution() -> None:
    prob = np.array([0.2, 0.0, 0.5, 0.3])
    u = (np.arange(1000) + 0.5) / 1000
    assert np.bincount([kernels.draw(prob, v) for v in u], minlength=4).tolist() == [200, 0, 500, 300]


@pytest.mark.parametrize("m", [-30.0, -2.0, 0.0, 3.0])
@pytest.mark.parametrize("q", [0.0, 1e-6, 1.0, 50.0, 1e4])
@pytest.mark.parametrize("y", [0.0, 1.0])
@pytest.mark.parametrize("weight", [0.1, 1.0, 7.0])
def test_logistic_site_is_the_laplace_approximation_at_the_mode(m: float, q: float, y: float, weight: float) -> None:
    expected = reference.logistic_site(m, q, y, weight)
    assert kernels_learning.logistic_site(m, q, y, weight) == pytest.approx(expected, rel=1e-6, abs=1e-11)


@pytest.mark.parametrize("ridge", [0.1, 1.0, 40.0])
def test_refresh_inverts(ridge: float) -> None:
    rng = np.random.default_rng(2)
    root, prior = rng.normal(size=(2, 9, 9))
    lam, prior = root @ root.T, prior @ prior.T
    eta, prior_eta = rng.normal(size=(2, 9))
    mean, cov = np.full(9, np.nan), np.full((9, 9), np.nan)
    kernels_learning.refresh(ridge, prior, prior_eta, lam, eta, mean, cov)
    truth = np.linalg.inv(lam + prior + ridge * np.eye(9))
    np.testing.assert_allclose(cov, truth, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(mean, truth @ (eta + prior_eta), rtol=1e-9, atol=1e-12)
    assert (cov == cov.T).all()


def test_refresh_survives_sums_that_rounding_made_indefinite() -> None:
    mean, cov = np.zeros(3), np.zeros((3, 3))
    kernels_learning.refresh(1.0, np.zeros((3, 3)), np.zeros(3), -2.0 * np.eye(3), np.ones(3), mean, cov)
    assert np.linalg.eigvalsh(cov).min() > 0.0


UNCOMPILED = """
import numpy as np
from nbx.bandits import kernels, kernels_learning
from nbx.bandits.kernels import F32
from tests.reference import bandits as reference
kernels.warm_up()
kernels_learning.warm_up()
for kind, field in reference.fields(6, np.random.default_rng(9)):
    prob = kernels.selection(*field, 1.0, True)
    print(*[value.hex() for value in prob.tolist()])
lam, eta, mean, cov = np.zeros((3, 3)), np.zeros(3), np.zeros(3), np.eye(3)
x = np.array([1.0, -0.5, 2.0])
site = kernels_learning.learn_logistic(x, 1.0, 1.0, 0.9, 1.0, lam, eta, mean, cov)
print(*site, *mean.tolist(), *cov.ravel().tolist())
"""


def test_kernels_run_uncompiled() -> None:
    def run(disable: str) -> list[float]:
        environment = {**os.environ, "NUMBA_DISABLE_JIT": disable, "PYTHONPATH": ".", "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, "-W", "error", "-c", UNCOMPILED]
        text = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        return [float.fromhex(word) if "0x" in word else float(word) for word in text.split()]

    np.testing.assert_allclose(run("1"), run("0"), rtol=0, atol=1e-12)
