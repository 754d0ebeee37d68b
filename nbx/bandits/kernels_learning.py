# ruff: noqa: PLR0917 - kernels are functions over arrays
"""Numba kernels of learning: sites in, natural parameters and their mean and covariance out.

One site adds τ x xᵀ and ν x to the natural parameters; mean and covariance follow by Sherman–Morrison. Products are
ordered so that matrices stay symmetric to the bit, sums run in a fixed order without `fastmath`: the same observations
give the same bits. Kernels check finiteness and nothing else. The logistic site is the one-dimensional Laplace
approximation at the mode along x, which needs no matrix inverse and no second pass.
"""

import math

import numba
import numpy as np

from nbx.bandits.kernels import F64

_compile = numba.njit(nogil=True, cache=True, error_model="numpy")


@_compile
def project(x: F64, mean: F64, cov: F64, out: F64) -> tuple[float, float]:
    """Fill out = Σx; return mean·x and x'Σx, both NaN when x is not finite."""
    d = len(x)
    m = 0.0
    finite = 0.0
    for i in range(d):
        out[i] = 0.0
        finite += 0.0 * x[i]
    for k in range(d):
        if x[k] != 0.0:
            m += mean[k] * x[k]
            for i in range(d):
                out[i] += cov[k, i] * x[k]
    q = 0.0
    for i in range(d):
        q += out[i] * x[i]
    return m + finite, max(q, 0.0) + finite


@_compile
def logistic_site(m: float, q: float, y: float, weight: float) -> tuple[float, float]:
    """Linearise a weighted Bernoulli likelihood at the posterior mode along x (online Laplace).

    Parameters
    ----------
    m, q
        Mean and variance of z = x·w under the prior of this observation.
    y
        0..1, the answer.
    weight
        > 0, exponent of the likelihood.

    Returns
    -------
    tau, nu
        The site N(z; nu/tau, 1/tau): tau = weight·p(1 − p), nu = tau·z* + weight·(y − p) at the mode z*.
    """
    a = m + min(weight * (y - 1.0), 0.0) * q
    b = m + weight * y * q
    z = m
    before = math.inf
    p = 1.0 / (1.0 + math.exp(-max(min(z, 700.0), -700.0)))
    for _ in range(200):
        slope = (m - z) + q * weight * (y - p)
        if slope > 0.0:
            a = z
        else:
            b = z
        step = slope / (1.0 + q * weight * p * (1.0 - p))
        after = z + step
        if not a <= after <= b or abs(step) > 0.5 * before:
            after = 0.5 * (a + b)
        before = abs(after - z)
        done = abs(after - z) <= 1e-13 * (1.0 + abs(z))
        z = after
        p = 1.0 / (1.0 + math.exp(-max(min(z, 700.0), -700.0)))
        if done:
            break
    tau = weight * p * (1.0 - p)
    return tau, tau * z + weight * (y - p)


@_compile
def _add_site(
    x: F64, g: F64, m: float, q: float, tau: float, nu: float, keep: float, lam: F64, eta: F64, mean: F64, cov: F64
) -> None:
    d = len(x)
    scale = 1.0 / (1.0 + tau * q)
    shrink = tau * scale
    step = (nu - tau * m) * scale
    for i in range(d):
        xi = x[i]
        gi = g[i]
        for j in range(d):
            lam[i, j] = keep * lam[i, j] + tau * (xi * x[j])
            cov[i, j] -= shrink * (gi * g[j])
        eta[i] = keep * eta[i] + nu * xi
        mean[i] += step * gi


@_compile
def learn_logistic(
    x: F64, y: float, weight: float, keep: float, decay: float, lam: F64, eta: F64, mean: F64, cov: F64
) -> tuple[float, float]:
    """Learn one yes/no answer: decay the sites by `keep`, then add this one times `decay`.

    Parameters
    ----------
    x
        float64[d].
    y, weight
        As in `logistic_site`.
    keep
        0..1, the forgetting factor applied to all sites before this one.
    decay
        0..1, age of this observation: 1 when it is new.
    lam, eta, mean, cov
        float64[d, d], [d], [d], [d, d], updated in place; cov is not told about `keep` (a refresh is).

    Returns
    -------
    tau, nu
        The site before `decay`; NaN when x·Σ·x is not finite, then nothing was changed.
    """
    g = np.empty(len(x))
    m, q = project(x, mean, cov, g)
    if not (math.isfinite(m) and math.isfinite(q)):
        return math.nan, math.nan
    tau, nu = logistic_site(m, q, y, weight)
    if not math.isfinite(nu):
        return math.nan, math.nan
    _add_site(x, g, m, q, tau * decay, nu * decay, keep, lam, eta, mean, cov)
    return tau, nu


@_compile
def learn_linear(
    x: F64, y: float, precision: float, keep: float, decay: float, lam: F64, eta: F64, mean: F64, cov: F64
) -> tuple[float, float]:
    """Learn one number with Gaussian noise of this precision; otherwise as `learn_logistic`."""
    g = np.empty(len(x))
    m, q = project(x, mean, cov, g)
    if not (math.isfinite(m) and math.isfinite(q) and math.isfinite(precision * y)):
        return math.nan, math.nan
    _add_site(x, g, m, q, precision * decay, precision * y * decay, keep, lam, eta, mean, cov)
    return precision, precision * y


@_compile
def subtract_site(x: F64, tau: float, nu: float, lam: F64, eta: F64, mean: F64, cov: F64) -> int:
    """Take a site back; return 1, 0 when mean and cov need a refresh (ill-conditioned), −1 when x is not finite."""
    g = np.empty(len(x))
    m, q = project(x, mean, cov, g)
    if not (math.isfinite(m) and math.isfinite(q)):
        return -1
    sound = 1.0 - tau * q > 1e-4
    _add_site(x, g, m, q if sound else 0.0, -tau, -nu, 1.0, lam, eta, mean, cov)
    return 1 if sound else 0


@_compile
def _factor(u: F64, ridge: float) -> None:
    """Overwrite the upper triangle of a matrix ≥ ridge·I by its Cholesky factor U, A = UᵀU."""
    d = len(u)
    for k in range(d):
        u[k, k] = math.sqrt(max(u[k, k], ridge))
        for j in range(k + 1, d):
            u[k, j] /= u[k, k]
        for i in range(k + 1, d):
            f = u[k, i]
            if f != 0.0:
                for j in range(i, d):
                    u[i, j] -= f * u[k, j]


@_compile
def _invert(u: F64) -> F64:
    """Return U⁻ᵀ, lower triangular."""
    d = len(u)
    inverse = np.zeros((d, d))
    for i in range(d):
        inverse[i, i] = 1.0
        for k in range(i):
            f = u[k, i]
            if f != 0.0:
                for j in range(k + 1):
                    inverse[i, j] -= f * inverse[k, j]
        for j in range(i + 1):
            inverse[i, j] /= u[i, i]
    return inverse


@_compile
def refresh(ridge: float, prior: F64, prior_eta: F64, lam: F64, eta: F64, mean: F64, cov: F64) -> None:
    """Derive mean and covariance from natural parameters by Cholesky.

    Parameters
    ----------
    ridge
        > 0, added to the diagonal. The precision is at least ridge·I, so no squared pivot may fall below it: what
        rounding takes away is put back, and the factorisation cannot fail.
    prior, prior_eta
        float64[d, d] and [d], the rest of the prior.
    lam, eta
        float64[d, d] and [d], sums of sites.
    mean, cov
        float64[d] and [d, d], overwritten; cov is symmetric to the bit.

    Notes
    -----
    Cost: d³ multiply-adds along rows.
    """
    d = len(mean)
    u = prior + lam
    for i in range(d):
        u[i, i] += ridge
    _factor(u, ridge)
    inverse = _invert(u)
    cov[:] = 0.0
    for k in range(d):
        for i in range(k + 1):
            f = inverse[k, i]
            for j in range(k + 1):
                cov[i, j] += f * inverse[k, j]
    mean[:] = 0.0
    for k in range(d):
        f = prior_eta[k] + eta[k]
        for i in range(d):
            mean[i] += cov[k, i] * f


@_compile
def _covariance(lam: F64, diagonal: F64, out: F64) -> float:
    """Fill out = (lam + diag(diagonal))⁻¹, symmetric to the bit; return the logarithm of the determinant of the sum."""
    d = len(diagonal)
    u = lam.copy()
    least = diagonal[0]
    for i in range(d):
        u[i, i] += diagonal[i]
        least = min(least, diagonal[i])
    _factor(u, least)
    inverse = _invert(u)
    out[:] = 0.0
    for k in range(d):
        for i in range(k + 1):
            f = inverse[k, i]
            for j in range(i + 1):
                out[i, j] += f * inverse[k, j]
    log_determinant = 0.0
    for i in range(d):
        log_determinant += 2.0 * math.log(u[i, i])
        for j in range(i):
            out[j, i] = out[i, j]
    return log_determinant


@_compile
def message(lam: F64, eta: F64, deviation: F64, out: F64, out_eta: F64) -> float:
    """Integrate an action's deviations out: what its sites say about the group's weights.

    Parameters
    ----------
    lam, eta
        float64[d, d] and [d], the action's sums of sites.
    deviation
        float64[d] > 0, variances of its deviations.
    out, out_eta
        float64[d, d] and [d], overwritten: precision and natural mean of the message.

    Returns
    -------
    float
        Its part of the log evidence, nats.
    """
    d = len(eta)
    inverse = 1.0 / deviation
    cov = np.empty((d, d))
    log_determinant = _covariance(lam, inverse, cov)
    quadratic = 0.0
    for i in range(d):
        mean = 0.0
        for j in range(d):
            mean += cov[i, j] * eta[j]
            out[i, j] = -inverse[i] * cov[i, j] * inverse[j]
        out[i, i] += inverse[i]
        out_eta[i] = inverse[i] * mean
        quadratic += mean * eta[i]
        log_determinant += math.log(deviation[i])
    part: float = 0.5 * (quadratic - log_determinant)
    return part


@_compile
def widen(precision: F64, eta: F64, deviation: F64, out: F64, out_eta: F64) -> None:
    """Add deviations to the group's weights: natural parameters of N(P⁻¹h, P⁻¹ + D).

    Parameters
    ----------
    precision, eta
        P float64[d, d] and h [d] of the group's weights.
    deviation
        float64[d] > 0.
    out, out_eta
        float64[d, d] and [d], overwritten.
    """
    d = len(eta)
    inverse = 1.0 / deviation
    cov = np.empty((d, d))
    _covariance(precision, inverse, cov)
    for i in range(d):
        mean = 0.0
        for j in range(d):
            mean += cov[i, j] * eta[j]
            out[i, j] = -inverse[i] * cov[i, j] * inverse[j]
        out[i, i] += inverse[i]
        out_eta[i] = inverse[i] * mean


@_compile
def recentre(precision: F64, eta: F64, centre: F64, out: F64, out_eta: F64) -> None:
    """Fill out with the natural parameters of weights of (1, x − centre), given those of (1, x).

    Parameters
    ----------
    precision, eta
        float64[d, d] and [d]; column 0 is the constant.
    centre
        float64[d]; the first is not read.
    out, out_eta
        float64[d, d] and [d], overwritten.
    """
    d = len(eta)
    for i in range(d):
        c = centre[i] if i > 0 else 0.0
        out_eta[i] = eta[i] - eta[0] * c
        for j in range(i + 1):
            e = centre[j] if j > 0 else 0.0
            moved = precision[i, j] - precision[0, i] * e - precision[0, j] * c + precision[0, 0] * c * e
            out[i, j] = moved
            out[j, i] = moved


@_compile
def half_quadratic(precision: F64, eta: F64) -> float:
    """Return ½ h'P⁻¹h − ½ ln|P| for P float64[d, d] and h [d]."""
    d = len(eta)
    cov = np.empty((d, d))
    log_determinant = _covariance(precision, np.zeros(d), cov)
    total = 0.0
    for i in range(d):
        for j in range(d):
            total += eta[i] * cov[i, j] * eta[j]
    part: float = 0.5 * (total - log_determinant)
    return part


@_compile
def track(offsets: F64, keep: F64, prior: float, logit: float, y: float, memory: float) -> None:
    """Score offsets of the log-odds on one answer, then let them learn it.

    Parameters
    ----------
    offsets
        float64[3, n], updated in place: each offset, the precision it has beyond its prior, and the nats by which it
        predicted better than the last one, faded.
    keep
        float64[n] in (0, 1], what each keeps of its evidence per answer.
    prior
        Precision of every offset's prior N(0, 1/prior), > 0.
    logit
        What was predicted without an offset.
    y
        0..1, the answer.
    memory
        What the nats keep per answer.
    """
    z = max(min(logit, 30.0), -30.0)
    n = len(keep)
    still = max(min(z + offsets[0, n - 1], 30.0), -30.0)
    plain = y * still - math.log1p(math.exp(still))
    for k in range(n):
        b = offsets[0, k]
        moved = max(min(z + b, 30.0), -30.0)
        offsets[2, k] = memory * offsets[2, k] + (y * moved - math.log1p(math.exp(moved)) - plain)
        p = 1.0 / (1.0 + math.exp(-moved))
        evidence = keep[k] * offsets[1, k]
        faded = keep[k] * (offsets[1, k] + prior) * b / (evidence + prior)
        precision = evidence + p * (1.0 - p)
        offsets[0, k] = faded + (y - p) / (precision + prior)
        offsets[1, k] = precision


def warm_up() -> None:
    """Compile (or load from the cache) every kernel with the types the learner uses."""
    lam, cov = np.zeros((2, 2)), np.eye(2)
    x, eta, mean = np.ones(2), np.zeros(2), np.zeros(2)
    project(x, mean, cov, np.empty(2))
    learn_logistic(x, 1.0, 1.0, 1.0, 1.0, lam, eta, mean, cov)
    learn_linear(x, 1.0, 1.0, 1.0, 1.0, lam, eta, mean, cov)
    subtract_site(x, 1.0, 1.0, lam, eta, mean, cov)
    refresh(1.0, lam, eta, lam, eta, mean, cov)
    message(lam, eta, x, cov, mean)
    widen(np.eye(2), eta, x, cov, mean)
    half_quadratic(np.eye(2), eta)
    recentre(np.eye(2), eta, x, cov, mean)
    track(np.zeros((3, 2)), x, 1.0, 0.0, 1.0, 1.0)
