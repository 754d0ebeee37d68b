"""Pooling against the dense joint Gaussian of all actions' weights."""

from __future__ import annotations

import itertools

import msgspec
import numpy as np
import pytest

from nbx.bandits import pooling
from nbx.bandits.kernels import F64
from nbx.bandits.pooling import GRID, RIDGE, Prior, Spread, Sums, calibrated, log_evidence, priors, recentred
from tests.reference import bandits as reference

SPREADS = [Spread(), Spread(constant=0, columns=0, shared=0), Spread(constant=8, columns=2, shared=7)]


def sums(d: int, counts: list[int], seed: int = 1, apart: float = 0.5) -> list[Sums]:
    """Sites of unit precision from members whose weights differ by `apart`."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=d)
    out = []
    for n in counts:
        x = np.c_[np.ones(n), rng.normal(size=(n, d - 1))][:, :d]
        y = x @ (shared + apart * rng.normal(size=d)) + rng.normal(size=n)
        out.append((x.T @ x, x.T @ y, float(n)))
    return out


def bare(members: list[Sums]) -> list[tuple[F64, F64]]:
    return [(precision, eta) for precision, eta, _ in members]


def moments(prior: Prior, sites: tuple[F64, F64] | None = None) -> tuple[F64, F64]:
    d = len(prior.eta)
    precision, eta = prior.precision + RIDGE * np.eye(d), prior.eta
    if sites is not None:
        precision, eta = precision + sites[0], eta + sites[1]
    cov: F64 = np.linalg.inv(precision).astype(np.float64)
    return cov @ eta, cov


def assert_near(got: tuple[F64, F64], expected: tuple[F64, F64]) -> None:
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize(
    ("d", "counts"), [(1, [3, 40]), (3, [50, 0, 7, 1]), (4, [30]), (5, [0, 0]), (6, [900, 2, 40, 0, 11, 300])]
)
def test_priors_and_posteriors_are_those_of_the_joint_gaussian(d: int, counts: list[int], spread: Spread) -> None:
    """Each prior says what the others say, and with the action's own sites is the joint posterior."""
    members = sums(d, counts)
    *of, fresh = priors(members, spread, d)
    for k, prior in enumerate(of):
        for own, sites in ((False, None), (True, members[k][:2])):
            expected = reference.hierarchy_of(bare(members), k, spread.deviation(d), spread.width(d), own=own)
            assert_near(moments(prior, sites), expected)
    expected = reference.hierarchy_of(bare(members), len(members), spread.deviation(d), spread.width(d), own=False)
    assert_near(moments(fresh), expected)


def test_alone_nobody_says_anything() -> None:
    spread = Spread(constant=7, columns=3, shared=6)
    for prior in priors(sums(3, [40, 0, 9]), spread, 3, alone=True):
        assert_near(moments(prior), (np.zeros(3), np.diag([4.0 + 1.0, 0.3 + 0.01, 0.3 + 0.01])))


def test_the_order_of_members_does_not_matter() -> None:
    members = sums(4, [40, 0, 9, 300, 2])
    straight = priors(members, Spread(), 4)
    for order in itertools.islice(itertools.permutations(range(5)), 0, 120, 17):
        moved = priors([members[k] for k in order], Spread(), 4)
        for at, k in enumerate(order):
            assert_near((moved[at].eta, moved[at].precision), (straight[k].eta, straight[k].precision))
        assert_near((moved[-1].eta, moved[-1].precision), (straight[-1].eta, straight[-1].precision))


def test_members_without_evidence_say_nothing() -> None:
    members = sums(3, [40, 9])
    silent = np.zeros((3, 3)), np.zeros(3), 0.0
    some, more = priors(members, Spread(), 3), priors([members[0], silent, silent, members[1]], Spread(), 3)
    for a, b in ((some[0], more[0]), (some[1], more[3]), (some[2], more[1]), (some[2], more[4])):
        assert_near((a.eta, a.precision), (b.eta, b.precision))
    for spread in SPREADS:
        assert log_evidence([*members, silent], spread, 3) == pytest.approx(log_evidence(members, spread, 3), abs=1e-8)


def test_recentred_sums_are_the_sums_of_recentred_customers() -> None:
    rng = np.random.default_rng(3)
    x = np.c_[np.ones(50), rng.normal(size=(50, 3)) + 5.0]
    tau, nu, centre = rng.uniform(size=50), rng.normal(size=50), np.r_[7.0, rng.normal(size=3)]
    moved = x - np.r_[0.0, centre[1:]]
    expected = (moved.T * tau) @ moved, moved.T @ nu
    got = recentred((x.T * tau) @ x, x.T @ nu, centre)
    assert_near(got, expected)
    assert_near(got, reference.recentred((x.T * tau) @ x, x.T @ nu, centre))
    assert_near(recentred(*got, -centre), ((x.T * tau) @ x, x.T @ nu))


def test_recentring_leaves_its_arguments_alone() -> None:
    precision, eta, centre = np.eye(2), np.ones(2), np.full(2, 3.0)
    recentred(precision, eta, centre)
    assert (precision.tolist(), eta.tolist(), centre.tolist()) == (np.eye(2).tolist(), [1.0, 1.0], [3.0, 3.0])


def test_priors_come_back_from_the_centre() -> None:
    """A customer is predicted the same by a prior moved back as by the centred one."""
    members, centre = sums(3, [40, 9]), np.array([0.0, 2.0, -5.0])
    x = np.array([1.0, 0.3, 4.0])
    for there, back in zip(priors(members, Spread(), 3), priors(members, Spread(), 3, centre=centre), strict=True):
        mean, cov = moments(back)
        mean_there, cov_there = moments(there)
        away = x - centre
        assert mean @ x == pytest.approx(mean_there @ away, abs=1e-8)
        assert x @ cov @ x == pytest.approx(away @ cov_there @ away, rel=1e-6)


@pytest.mark.parametrize(("d", "counts"), [(1, [40]), (2, [40, 3]), (4, [100, 0, 7, 30])])
def test_evidence_differs_between_spreads_as_the_marginal_likelihood_does(d: int, counts: list[int]) -> None:
    members = sums(d, counts)
    spreads = [*SPREADS, Spread(constant=2, columns=7, shared=1)]
    ours = [log_evidence(members, spread, d) for spread in spreads]
    dense = [reference.log_evidence(bare(members), spread.deviation(d), spread.width(d)) for spread in spreads]
    np.testing.assert_allclose(np.diff(ours), np.diff(dense), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("apart", [0.03, 0.3, 1.2])
def test_the_spread_that_made_the_members_is_found(apart: float) -> None:
    """Twelve members of 2000 rows tell their variance apart² within a grid step or two, from either end of the grid."""
    members = sums(4, [2000] * 12, seed=5, apart=apart)
    for start in (Spread(constant=0, columns=0, shared=4), Spread(constant=8, columns=8, shared=4)):
        found = start
        for _ in range(10):
            found = calibrated(members, found, 4)
        for at in (found.constant, found.columns):
            assert abs(np.log(GRID[at] / apart**2)) < np.log(5.0)
        assert found == calibrated(members, found, 4), "at the top it stays"


def test_a_look_takes_few_steps_and_never_goes_down() -> None:
    members, d = sums(3, [500] * 6, apart=1.0), 3
    start = Spread(constant=0, columns=0, shared=0)
    after = calibrated(members, start, d)
    moved = [abs(getattr(after, name) - getattr(start, name)) for name in Spread.__struct_fields__]
    assert 0 < sum(moved) <= pooling.STEPS
    assert log_evidence(members, after, d) > log_evidence(members, start, d)


def test_without_evidence_nothing_is_judged() -> None:
    assert calibrated([], Spread(), 3) == Spread()
    assert calibrated([(np.zeros((3, 3)), np.zeros(3), 0.0)], Spread(), 3) == Spread()


def test_those_with_most_evidence_are_judged() -> None:
    few, many = sums(2, [5] * 30, apart=3.0), sums(2, [4000] * pooling.MEMBERS, seed=2, apart=0.01)
    start = Spread(constant=4, columns=4)
    assert calibrated([*few, *many], start, 2) == calibrated(many, start, 2)


def test_a_spread_is_plain_data() -> None:
    spread = Spread(constant=1, columns=2, shared=3)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(spread), type=Spread) == spread
