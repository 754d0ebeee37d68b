"""Posterior: against a posterior that keeps every site and inverts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec
import numba
import numpy as np
import pytest

from nbx.bandits import kernels_learning
from nbx.bandits.kernels import F64
from nbx.bandits.pooling import RIDGE
from nbx.bandits.posterior import DECAY_SLACK, REFRESH_EVERY, Posterior, PosteriorState
from tests.reference.bandits import Dense


def vectors(count: int, d: int, seed: int) -> F64:
    return np.random.default_rng(seed).normal(size=(count, d))


@pytest.mark.parametrize("ridge", [0.05, 1.0, 20.0])
def test_cold_prior_is_the_inverse_of_its_precision(ridge: float) -> None:
    x = np.array([2.0, 0.0, -1.0])
    assert Posterior(3, prior_precision=ridge).predict(x) == pytest.approx((0.0, 5.0 / ridge))


@pytest.mark.parametrize("forgetting", [1.0, 0.99, 0.7])
@pytest.mark.parametrize("kind", ["linear", "logistic"])
def test_long_runs_match_the_definition(kind: str, forgetting: float) -> None:
    rng = np.random.default_rng(3)
    posterior, dense = Posterior(5, prior_precision=2.0, forgetting=forgetting), Dense(5, 2.0, forgetting)
    for x in vectors(600, 5, 1):
        y = float(rng.random() < 0.3)
        learn = posterior.learn_linear if kind == "linear" else posterior.learn_logistic
        site = learn(x, y, 0.7)
        dense.sites.append((x, site.tau, site.nu))
    posterior.refresh()
    mean, cov = dense.moments()
    np.testing.assert_allclose(posterior.mean, mean, rtol=0, atol=1e-9)
    np.testing.assert_allclose(posterior.cov, cov, rtol=0, atol=1e-9)
    assert posterior.evidence == pytest.approx(0.7 * sum(forgetting**k for k in range(600)))


def test_forgetting_may_change_and_strike_at_once() -> None:
    """What is left of every site is what its own history leaves of it."""
    rng = np.random.default_rng(3)
    posterior = Posterior(3, prior_precision=2.0)
    sites: list[tuple[F64, float, float]] = []
    left: list[float] = []
    for k, x in enumerate(vectors(400, 3, 1)):
        if k % 50 == 0:
            posterior.forgetting = [1.0, 0.99, 0.9, 0.999][k // 50 % 4]
        if k % 90 == 89:
            posterior.forget(0.3)
            left = [0.3 * each for each in left]
        site = posterior.learn_logistic(x, float(rng.random() < 0.3), 0.5)
        left = [posterior.forgetting * each for each in left] + [1.0]
        sites.append((x, site.tau, site.nu))
        assert math.exp(posterior.log_kept - site.at) == 1.0
    posterior.refresh()
    precision = 2.0 * np.eye(3) + sum(
        share * tau * np.outer(x, x) for share, (x, tau, _) in zip(left, sites, strict=True)
    )
    eta = sum(share * nu * x for share, (x, _, nu) in zip(left, sites, strict=True))
    np.testing.assert_allclose(posterior.cov, np.linalg.inv(precision), rtol=0, atol=1e-9)
    np.testing.assert_allclose(posterior.mean, np.linalg.solve(precision, eta), rtol=0, atol=1e-9)
    assert posterior.evidence == pytest.approx(0.5 * sum(left))


@pytest.mark.parametrize("forgetting", [1.0, 0.9999, 0.999, 0.97])
def test_no_more_than_the_slack_is_forgotten_between_two_refreshes(forgetting: float) -> None:
    posterior = Posterior(1, forgetting=forgetting)
    assert 1.0 - forgetting**posterior.refresh_every <= max(DECAY_SLACK, 1.0 - forgetting)
    assert 1.0 - forgetting ** (posterior.refresh_every + 1) > DECAY_SLACK or posterior.refresh_every == REFRESH_EVERY
    posterior.forgetting = 1.0
    assert posterior.refresh_every == REFRESH_EVERY


def test_grown_columns_may_be_known_better_than_the_others() -> None:
    posterior = Posterior(1, prior_precision=0.5)
    posterior.learn_linear(np.ones(1), 2.0)
    posterior.grow(2, 8.0)
    x = np.array([0.0, 1.0])
    assert posterior.predict(x) == pytest.approx((0.0, 1 / 8))
    posterior.grow(3)
    posterior.refresh()
    assert np.diag(posterior.cov) == pytest.approx([1 / 1.5, 1 / 8, 1 / 0.5])


def test_rank_one_updates_stay_close_to_cholesky() -> None:
    posterior = Posterior(8)
    for x in vectors(255, 8, 2):
        posterior.learn_logistic(x, 1.0)
    assert posterior.updates_since_refresh == 255
    mean, cov = posterior.mean.copy(), posterior.cov.copy()
    posterior.refresh()
    np.testing.assert_allclose(mean, posterior.mean, rtol=0, atol=1e-10)
    np.testing.assert_allclose(cov, posterior.cov, rtol=0, atol=1e-10)


def test_covariance_stays_positive_over_a_long_run_of_one_direction() -> None:
    posterior = Posterior(4)
    x = np.array([1e3, 1e-3, 0.0, 1.0])
    for _ in range(20_000):
        posterior.learn_linear(x, 1.0, noise_precision=100.0)
    assert np.linalg.eigvalsh(posterior.cov).min() > 0.0


@pytest.mark.nightly
@pytest.mark.parametrize("forgetting", [1.0, 0.999])
@pytest.mark.parametrize("kind", ["plain", "up to a thousand", "nearly collinear"])
def test_ten_million_updates_stay_positive_definite(kind: str, forgetting: float) -> None:
    """And derived moments stay those of the sums: what rank-one updates add up to is put right by each refresh."""
    rng = np.random.default_rng(2)
    x = np.c_[np.ones(20_000), rng.normal(size=(20_000, 5))]
    if kind == "up to a thousand":
        x[:, 1:] = rng.uniform(-1e3, 1e3, size=(20_000, 5))
    if kind == "nearly collinear":
        x[:, 2] = x[:, 1] + 1e-7 * x[:, 2]
    y = (rng.random(20_000) < 1 / (1 + np.exp(1.0 - np.clip(x[:, 1], -5, 5)))).astype(float)
    posterior = Posterior(6, prior_precision=RIDGE, forgetting=forgetting)
    for _ in range(500):
        learn_all(x, y, posterior)
        variances = np.einsum("ni,ij,nj->n", x[:200], posterior.cov, x[:200])
        assert np.linalg.eigvalsh(posterior.cov).min() > 0.0
        assert (variances > 0.0).all()
    precision = posterior.sites_precision + RIDGE * np.eye(6)
    assert np.linalg.eigvalsh(precision).min() > 0.0
    assert np.isfinite(posterior.mean).all()
    np.testing.assert_allclose(posterior.cov @ precision, np.eye(6), atol=1e-3)
    if kind != "up to a thousand":
        assert posterior.predict(np.array([1.0, 1, 1, 0, 0, 0]))[0] == pytest.approx(0.0, abs=0.3)


def learn_all(x: F64, y: F64, posterior: Posterior) -> None:
    """Learn every row in one compiled loop, refreshing as `Posterior` does."""
    compiled_learn(
        x,
        y,
        posterior.prior_precision,
        posterior.forgetting,
        posterior.refresh_every,
        posterior.sites_precision,
        posterior.sites_mean,
        posterior.mean,
        posterior.cov,
    )


@numba.njit  # type: ignore[untyped-decorator]
def compiled_learn(  # noqa: PLR0917 - a kernel
    x: F64, y: F64, ridge: float, keep: float, every: int, lam: F64, eta: F64, mean: F64, cov: F64
) -> None:
    zero, zeros = np.zeros_like(lam), np.zeros_like(eta)
    for k in range(len(y)):
        kernels_learning.learn_logistic(x[k], y[k], 1.0, keep, 1.0, lam, eta, mean, cov)
        if (k + 1) % every == 0:
            kernels_learning.refresh(ridge, zero, zeros, lam, eta, mean, cov)
    kernels_learning.refresh(ridge, zero, zeros, lam, eta, mean, cov)


def test_the_logistic_posterior_finds_the_weights() -> None:
    rng = np.random.default_rng(7)
    truth = np.array([-1.0, 0.8, 0.0])
    posterior = Posterior(3)
    for x in np.c_[np.ones(20_000), rng.normal(size=(20_000, 2))]:
        posterior.learn_logistic(x, float(rng.random() < 1 / (1 + math.exp(-x @ truth))))
    assert (np.abs(posterior.mean - truth) < 4 * np.sqrt(np.diag(posterior.cov))).all()


def test_weight_zero_changes_nothing() -> None:
    posterior = Posterior(2, forgetting=0.9)
    posterior.learn_linear(np.ones(2), 1.0)
    before = posterior.encode()
    site = posterior.learn_logistic(np.ones(2), 1.0, 0.0)
    assert (site.tau, site.nu) == (0.0, 0.0)
    posterior.unlearn(np.ones(2), site)
    assert posterior.encode() == before


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_bad_numbers_are_refused_by_name_and_nothing_is_learned(bad: float) -> None:
    posterior = Posterior(2)
    site = posterior.learn_linear(np.ones(2), 1.0)
    before = posterior.encode()
    x = np.array([1.0, bad])
    refused: list[tuple[Callable[[], object], str]] = [
        (lambda: posterior.learn_logistic(x, 1.0), "x"),
        (lambda: posterior.learn_linear(x, 1.0), "x"),
        (lambda: posterior.learn_linear(x, 1.0, replaces=site), "x"),
        (lambda: posterior.unlearn(x, site), "x"),
        (lambda: posterior.learn_linear(np.array([1e200, 0.0]), 1.0), "x"),
        (lambda: posterior.learn_linear(np.ones(3), 1.0), "x"),
        (lambda: posterior.learn_linear(np.ones(2), bad), "y"),
        (lambda: posterior.learn_logistic(np.ones(2), bad), "y"),
        (lambda: posterior.learn_logistic(np.ones(2), 1.0, bad), "weight"),
        (lambda: posterior.learn_linear(np.ones(2), 1.0, -0.1), "weight"),
        (lambda: posterior.learn_linear(np.ones(2), 1.7e308, replaces=site), "y"),
        (lambda: posterior.learn_logistic(np.ones(2), 1.0, 1e300, replaces=site), "weight"),
        (lambda: posterior.forget(bad), "keep"),
        (lambda: posterior.forget(0.0), "keep"),
    ]
    for call, name in refused:
        with pytest.raises(ValueError, match=f"^{name}: "):
            call()
    assert posterior.encode() == before


@pytest.mark.parametrize(
    "change", [{"prior_precision": 0.0}, {"prior_precision": math.nan}, {"forgetting": 0.0}, {"forgetting": 1.1}]
)
def test_bad_parameters_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        Posterior(2, **change)


def test_a_swapped_prior_is_never_forgotten() -> None:
    posterior = Posterior(2, forgetting=0.5)
    posterior.swap_prior(3.0 * np.eye(2), np.array([4.0, 0.0]))
    assert posterior.mean.tolist() == [1.0, 0.0]
    for _ in range(60):
        posterior.learn_linear(np.array([0.0, 1e-9]), 0.0)
    np.testing.assert_allclose(posterior.mean, [1.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(posterior.cov, np.eye(2) / 4.0, atol=1e-12)


def test_grown_columns_start_at_the_prior() -> None:
    small, large = Posterior(2, prior_precision=4.0), Posterior(3, prior_precision=4.0)
    for x in vectors(10, 2, 5):
        small.learn_logistic(x, 1.0)
        large.learn_logistic(np.append(x, 0.0), 1.0)
    small.grow(3)
    small.grow(1)
    assert small.encode() == large.encode()


def test_encoding_round_trips_to_the_bit() -> None:
    posterior = Posterior(4, forgetting=0.99)
    posterior.swap_prior(np.eye(4), np.ones(4))
    for x in vectors(30, 4, 8):
        posterior.learn_logistic(x, 0.0)
    data = msgspec.msgpack.encode(posterior.encode())
    copy = Posterior.decode(msgspec.msgpack.decode(data, type=PosteriorState))
    for x in vectors(30, 4, 9):
        assert copy.learn_logistic(x, 1.0) == posterior.learn_logistic(x, 1.0)
    assert copy.encode() == posterior.encode()


def test_merging_different_priors_is_refused() -> None:
    with pytest.raises(ValueError, match="prior_precision"):
        Posterior(2).merge(Posterior(2, prior_precision=2.0))


def test_subtracting_nearly_everything_refreshes() -> None:
    posterior = Posterior(1)
    site = posterior.learn_linear(np.ones(1), 5.0, noise_precision=1e9)
    posterior.learn_linear(np.ones(1), 1.0)
    posterior.unlearn(np.ones(1), site)
    assert posterior.predict(np.ones(1)) == pytest.approx((0.5, 0.5), abs=1e-6)
