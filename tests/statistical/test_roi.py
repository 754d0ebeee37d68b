"""Sequences hold at every look, and find what is there; fixed seeds, bounds written down.

To look after every customer is the most that anybody can do.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from nbx.audit.clustered import F64, Mask
from nbx.audit.sequential import against_shares, running

Draw = Callable[[np.random.Generator, int], tuple[F64, F64]]


def bound(worlds: int) -> float:
    """Return 5 % and three standard errors of its count in so many worlds."""
    return float(0.05 + 3.0 * np.sqrt(0.05 * 0.95 / worlds))


def rare(rng: np.random.Generator, n: int) -> tuple[F64, F64]:
    """One customer in 100 accepts."""
    return (rng.random(n) < 0.01).astype(np.float64), np.ones(n)


def heavy(rng: np.random.Generator, n: int) -> tuple[F64, F64]:
    """One customer in ten spends, a few of them very much: lognormal, the mean is twice the median."""
    return np.where(rng.random(n) < 0.1, rng.lognormal(3.0, 1.2, n), 0.0), np.ones(n)


def both_ways(rng: np.random.Generator, n: int) -> tuple[F64, F64]:
    """Rarely something good or bad, alike often: no skewness tells how little is known."""
    return np.where(rng.random(n) < 0.02, rng.choice([-1.0, 1.0], n), 0.0), np.ones(n)


def visits(rng: np.random.Generator, n: int) -> tuple[F64, F64]:
    """Acceptances per decision, alike within a customer."""
    d = 1 + rng.poisson(3.0, n)
    return rng.binomial(d, rng.beta(0.5, 4.5, n)).astype(np.float64), d.astype(np.float64)


def losses(rng: np.random.Generator, n: int) -> tuple[F64, F64]:
    """Mostly nothing, sometimes a failure or two, sometimes an acceptance."""
    return (rng.random(n) < 0.1) - 2.0 * rng.poisson(0.05, n), np.ones(n)


def drifting(rng: np.random.Generator, n: int) -> tuple[F64, F64]:
    """Customers of later on are others: means and spreads grow threefold."""
    return rng.normal(5.0, 2.0, n) * np.linspace(1.0, 3.0, n), np.ones(n)


def arms(rng: np.random.Generator, n: int, share: float) -> tuple[Mask, Mask]:
    """Assign as the hash does, with two holdouts of a share."""
    at = rng.random(n)
    return (at >= share) & (at < 1.0 - share), at < share


def ever_wrong(draw: Draw, share: float, n: int, worlds: int, *, planted: float = 0.0, seed: int = 1) -> F64:
    """Return the shares of worlds in which the sequence ever misses the truth, the ordinary interval ever does, the
    ordinary one does at the end, and the sequence excludes 0 at the end."""
    rng, found = np.random.default_rng(seed), np.zeros(4)
    for _ in range(worlds):
        y, d = draw(rng, n)
        first, second = arms(rng, n, share)
        path = running(y + planted * first * d, d, first, second)
        with np.errstate(invalid="ignore"):
            off = np.abs(path.lift - planted)
            found += [
                bool((off > path.always).any()),
                bool((off > path.once).any()),
                off[-1] > path.once[-1],
                abs(path.lift[-1]) > path.always[-1],
            ]
    return found / worlds


SMALL: tuple[tuple[Draw, float, int], ...] = (
    (rare, 0.25, 12_000),
    (heavy, 0.25, 12_000),
    (both_ways, 0.1, 8_000),
    (visits, 0.05, 6_000),
    (losses, 0.05, 6_000),
    (drifting, 0.05, 6_000),
)
LARGE: tuple[tuple[Draw, float, int], ...] = (
    (rare, 0.05, 60_000),
    (heavy, 0.05, 100_000),
    (both_ways, 0.05, 40_000),
    (visits, 0.02, 40_000),
    (losses, 0.02, 40_000),
    (drifting, 0.05, 40_000),
)


@pytest.mark.parametrize(("draw", "share", "n"), SMALL, ids=lambda each: getattr(each, "__name__", str(each)))
def test_looking_after_every_customer_raises_no_false_alarm(draw: Draw, share: float, n: int) -> None:
    always, once, _, _ = ever_wrong(draw, share, n, 200)
    assert always <= bound(200)
    assert once > 0.1 or draw is heavy, "the ordinary interval does, that is why there is another"


@pytest.mark.parametrize(("draw", "share", "n"), SMALL[3:5], ids=lambda each: getattr(each, "__name__", str(each)))
def test_what_is_planted_is_covered_at_every_look_and_found(draw: Draw, share: float, n: int) -> None:
    always, _, at_the_end, found = ever_wrong(draw, share, n, 100, planted=0.15, seed=2)
    assert always <= bound(100)
    assert found >= 0.95
    assert at_the_end <= bound(100)


def test_an_arm_that_never_does_anything_is_told_from_one_that_does() -> None:
    rng = np.random.default_rng(3)
    first, second = arms(rng, 20_000, 0.05)
    path = running(np.where(second, 0.0, rng.random(20_000) < 0.1), np.ones(20_000), first, second)
    assert path.lift[-1] - path.always[-1] > 0.08, "silence accepts nothing"
    assert not np.isfinite(path.always[:500]).any(), "but a few customers in silence are no proof"


@pytest.mark.nightly
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("draw", "share", "n"), LARGE, ids=lambda each: getattr(each, "__name__", str(each)))
def test_long_runs_with_small_holdouts_raise_no_false_alarm(draw: Draw, share: float, n: int) -> None:
    always, _, _, _ = ever_wrong(draw, share, n, 300, seed=4)
    assert always <= bound(300)


@pytest.mark.nightly
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("draw", "share", "n", "planted"),
    [
        (rare, 0.05, 60_000, 0.02),
        (heavy, 0.05, 200_000, 4.0),
        (visits, 0.02, 40_000, 0.08),
        (losses, 0.02, 40_000, 0.2),
    ],
    ids=lambda each: getattr(each, "__name__", str(each)),
)
def test_long_runs_cover_what_is_planted(draw: Draw, share: float, n: int, planted: float) -> None:
    always, _, _, found = ever_wrong(draw, share, n, 100, planted=planted, seed=5)
    assert always <= bound(100)
    assert found >= 0.9


def test_arms_that_are_not_by_their_shares_are_noticed_and_others_are_not() -> None:
    rng, shares = np.random.default_rng(6), np.array([0.9, 0.05, 0.05])
    alarms = 0
    for _ in range(300):
        counts = np.cumsum(rng.multinomial(200, shares, size=60), axis=0)  # looked at 60 times
        alarms += max(against_shares(each, shares) for each in counts) > 20.0
    assert alarms / 300 <= 0.05 + 0.038
    skewed = rng.multinomial(20_000, [0.915, 0.04, 0.045])
    assert against_shares(skewed, shares) > 1_000.0, "a fifth of one holdout does not come back"
