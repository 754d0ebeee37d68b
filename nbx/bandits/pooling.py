"""Actions of a group learn from each other: a hierarchical prior whose width is learned too.

Weights of action a are w_a = μ + δ_a with μ ~ N(0, A) shared by the group and deviations δ_a ~ N(0, D); A and D are
diagonal. With the sums of sites (Λ_a, η_a) of every action everything is closed form: integrating δ_a out, a says

    M_a = D⁻¹ − D⁻¹ V_a D⁻¹  and  h_a = D⁻¹ V_a η_a   with V_a = (Λ_a + D⁻¹)⁻¹

about μ, whose posterior is N(P⁻¹h, P⁻¹) with P = A⁻¹ + Σ M_a, h = Σ h_a. The prior of action a is what the *others* say
about μ, widened by D: its own evidence is never counted twice. An action never seen takes what all say.

All this is meant for columns with mean 0: otherwise the columns together act as a second constant, whose variance is
that of all columns. So sums are moved to the centre of the customers seen, pooled, and the priors moved back
(`recentred`); sites stay as they are.

How far actions differ is not a knob: the variances (deviation of the constant, deviations of the other columns, shared
weights of the other columns) are those of a small grid under which the evidence of the whole group is most likely.
They move by few grid steps at a time. A fixed shrinkage of siblings' evidence to κ = 50 observations was tried before:
it let 22 slopes per action wander freely and cost 1-3 % of reward on randomised logs.

Source: Lindley and Smith (1972), Bayes estimates for the linear model; type-II maximum likelihood as in MacKay (1992).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from nbx.bandits import kernels_learning

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nbx.bandits.kernels import F64

GRID = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Variances that are tried, in squared log-odds (or squared points): from "all alike" to "know nothing"."""
SHARED_CONSTANT = 4.0
"""Variance of the group's constant: rates from 2 % to 98 % are within two standard deviations."""
RIDGE = 1e-3
"""Least precision of an action's prior that is told apart from none: what keeps Cholesky factors from rounding away."""
MEMBERS = 16
"""Actions, those with most evidence, that the variances are judged by: it bounds the cost, not the pooling."""

STEPS = 3
"""Grid steps per look: there will be another look when there is more to see."""

Sums = tuple["F64", "F64", float]
"""Sums of sites: precision float64[d, d], natural mean float64[d], evidence in observations."""


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """How far actions of a group differ, as positions in `GRID`."""

    constant: int = 6
    """Deviation of an action's constant (column 0)."""
    columns: int = 5
    """Deviations of its other columns."""
    shared: int = 5
    """Weights of the other columns that the group shares."""

    def deviation(self, d: int) -> F64:
        """Diagonal of D, float64[d]."""
        return _diagonal(GRID[self.constant], GRID[self.columns], d)

    def width(self, d: int) -> F64:
        """Diagonal of A, float64[d]."""
        return _diagonal(SHARED_CONSTANT, GRID[self.shared], d)


class Prior(msgspec.Struct, frozen=True):
    """What the group says about an action: natural parameters beyond RIDGE·I, float64[d, d] and [d]."""

    precision: F64
    eta: F64


def recentred(precision: F64, eta: F64, centre: F64) -> tuple[F64, F64]:
    """Rewrite natural parameters of weights of (1, x) as those of (1, x − centre).

    Parameters
    ----------
    precision, eta
        float64[d, d] and [d]; column 0 is the constant.
    centre
        float64[d]; the first is not read. Its negative takes the step back.

    Examples
    --------
    >>> x, centred = np.array([1.0, 5.0]), np.array([1.0, 2.0])
    >>> precision, _ = recentred(np.outer(x, x), x, np.array([0.0, 3.0]))
    >>> bool((precision == np.outer(centred, centred)).all())
    True
    """
    out, out_eta = np.empty_like(precision), np.empty_like(eta)
    kernels_learning.recentre(precision, eta, centre, out, out_eta)
    return out, out_eta


def priors(
    members: Sequence[Sums], spread: Spread, d: int, *, alone: bool = False, centre: F64 | None = None
) -> list[Prior]:
    """Compute the prior of each member, then that of an action never seen.

    Parameters
    ----------
    members
        Sums of each action, in the group's order.
    spread
        The group's variances.
    d
        Columns.
    alone
        Nobody says anything to anybody: every prior is N(0, A + D).
    centre
        float64[d], mean of the customers seen; None: 0. Members are centred there already, the priors returned are not.

    Examples
    --------
    >>> certain = np.eye(1) * 1e9, np.ones(1) * 2e9, 1e9
    >>> of_member, of_new = priors([certain], Spread(), 1)
    >>> of_member.eta.tolist(), (of_new.eta / (of_new.precision[0] + RIDGE)).round(2).tolist()
    ([0.0], [1.86])
    """
    deviation = spread.deviation(d)
    said = np.zeros((len(members), d, d))
    eta = np.zeros((len(members), d))
    precision, mean = np.diag(1.0 / spread.width(d)), np.zeros(d)
    for k, (sites, sites_mean, evidence) in enumerate(members):
        if evidence > 0.0 and not alone:
            kernels_learning.message(sites, sites_mean, deviation, said[k], eta[k])
            precision += said[k]
            mean += eta[k]
    out = []
    for k in range(len(members) + 1):
        others, others_mean = (precision, mean) if k == len(members) else (precision - said[k], mean - eta[k])
        prior = Prior(np.empty((d, d)), np.empty(d))
        kernels_learning.widen(others, others_mean, deviation, prior.precision, prior.eta)
        if centre is not None:
            prior = Prior(*recentred(prior.precision, prior.eta, -centre))
        prior.precision.ravel()[:: d + 1] -= RIDGE
        out.append(prior)
    return out


def log_evidence(members: Sequence[Sums], spread: Spread, d: int) -> float:
    """Compute how likely the members' sites are under a spread, up to a constant, in nats."""
    deviation, width = spread.deviation(d), spread.width(d)
    precision, mean = np.diag(1.0 / width), np.zeros(d)
    said, eta = np.empty((d, d)), np.empty(d)
    total = 0.0
    for sites, sites_mean, _ in members:
        total += kernels_learning.message(sites, sites_mean, deviation, said, eta)
        precision += said
        mean += eta
    return total + float(kernels_learning.half_quadratic(precision, mean) - 0.5 * np.log(width).sum())


def calibrated(members: Sequence[Sums], spread: Spread, d: int) -> Spread:
    """Climb from a spread to one under which the members' evidence is more likely, at most `STEPS` steps.

    Cost: at most 1 + 6 · `STEPS` Cholesky factorisations of each of `MEMBERS` actions.
    """
    judged = sorted((m for m in members if m[2] > 0.0), key=lambda m: -m[2])[:MEMBERS]
    if not judged:
        return spread
    best, best_evidence = spread, log_evidence(judged, spread, d)
    for _ in range(STEPS):
        centre = best
        for neighbour in _neighbours(centre):
            evidence = log_evidence(judged, neighbour, d)
            if evidence > best_evidence:
                best, best_evidence = neighbour, evidence
        if best is centre:
            break
    return best


def _neighbours(spread: Spread) -> Iterator[Spread]:
    for name in Spread.__struct_fields__:
        for at in (getattr(spread, name) - 1, getattr(spread, name) + 1):
            if 0 <= at < len(GRID):
                yield msgspec.structs.replace(spread, **{name: at})


def _diagonal(constant: float, others: float, d: int) -> F64:
    diagonal = np.full(d, others)
    diagonal[:1] = constant
    return diagonal
