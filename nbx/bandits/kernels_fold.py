# ruff: noqa: PLR0917 - kernels are functions over arrays
"""The fold of many observations in one call: both models of each action, offsets of drift, what is told of progress.

A run of observations is learned in order over the arrays of a `nbx.bandits.shelf.Shelf`. The kernel comes back where
only Python can go on, says why, and is called again from there: River's ADWIN has to be asked, or γ changes. Everything
else that happens at counts of observations (`nbx.bandits.learner`) is known beforehand, and the run ends there.

A site is four numbers (`TAU` … `AT`); one with a NaN for `TAU` is none.
"""

import math

import numba
import numpy as np
from numpy.typing import NDArray

from nbx.bandits.kernels import F32, F64
from nbx.bandits.kernels_learning import _add_site, logistic_site, project, refresh, subtract_site, track

I64 = NDArray[np.int64]
Flags = NDArray[np.bool_]
Posteriors = tuple[F64, F64, F64, F64, F64, F64, F64]
"""One, or many side by side: the fields of `nbx.bandits.posterior.Arrays`."""

PRIOR_PRECISION, FORGETTING, LOG_FORGETTING, EVIDENCE, LOG_KEPT, OBSERVATIONS, UPDATES, EVERY = range(8)
"""Numbers of a posterior; updates since its last refresh, and how many there may be."""
TAU, NU, WEIGHT, AT = 0, 1, 2, 3
"""Columns of a site."""
RESPONSE, RESPONSE_WEIGHT, EXPERIENCE, EXPERIENCE_WEIGHT = 0, 1, 2, 3
"""Columns of what was observed; a NaN response tells nothing."""
FIRST, COMPETES = 0, 1
"""Columns of flags: it is revision 0, and its action is chosen among others."""
DONE, DETECT, MOVED = 0, 1, 2
"""Why the kernel comes back: it is through, an action's detector is due, or γ changes."""
BEGIN, WATCH, LEARN = 0, 1, 2
"""Where it goes on with the first observation: at its beginning, after the detector, after all that watches."""
STEP, COUNT = 0, 1
"""Counters: observations learned, customers that the sum of x is of."""
CURRENT, SINCE, TRACKED = 0, 1, 2
"""Counters of `nbx.bandits.drift.HalfLife`."""
PRIOR, MEMORY, ENOUGH, NEEDED = 0, 1, 2, 3
"""Rules of drift: precision of an offset's prior, what scores keep, nats that convince, evidence that is needed."""

_compile = numba.njit(nogil=True, cache=True, error_model="numpy")


@_compile
def _refreshed(posterior: Posteriors) -> None:
    row, lam, eta, mean, cov, prior, prior_eta = posterior
    refresh(row[PRIOR_PRECISION], prior, prior_eta, lam, eta, mean, cov)
    row[UPDATES] = 0.0


@_compile
def _updated(posterior: Posteriors) -> None:
    row = posterior[0]
    row[UPDATES] += 1.0
    if row[UPDATES] >= row[EVERY]:
        _refreshed(posterior)


@_compile
def take_back(x: F64, site: F64, posterior: Posteriors) -> bool:
    """Subtract what is left of a site from a posterior; False when x is too large to square, then nothing changed."""
    row, lam, eta, mean, cov, _, _ = posterior
    if math.isnan(site[TAU]) or (site[TAU] == 0.0 and site[NU] == 0.0):
        return True
    decay = math.exp(min(row[LOG_KEPT] - site[AT], 0.0))
    status = subtract_site(x, site[TAU] * decay, site[NU] * decay, lam, eta, mean, cov)
    if status < 0:
        return False
    row[EVIDENCE] = max(row[EVIDENCE] - decay * site[WEIGHT], 0.0)
    if status > 0:
        _updated(posterior)
    else:
        _refreshed(posterior)
    return True


@_compile
def learn(
    x: F64,
    g: F64,
    m: float,
    q: float,
    y: float,
    weight: float,
    noise: float,
    old: F64,
    site: F64,
    posterior: Posteriors,
) -> bool:
    """Learn one target of one observation in place of what it replaces.

    Parameters
    ----------
    x, g, m, q
        float64[d], and what `project` says of it; not read when weight is 0.
    y, weight
        The target, and its weight ≥ 0; 0: nothing is learned, only taken back.
    noise
        Precision of a number, > 0; 0: the target is an answer, 0..1.
    old
        float64[4], the site that it replaces: it is subtracted, and the new one takes its age.
    site
        float64[4], overwritten when something is learned.
    posterior
        Updated in place.

    Returns
    -------
    bool
        False when x is too large to square.
    """
    row, lam, eta, mean, cov, _, _ = posterior
    keep, decay, at = row[FORGETTING], 1.0, row[LOG_KEPT] + row[LOG_FORGETTING]
    new = math.isnan(old[TAU])
    if not new:
        if not take_back(x, old, posterior):
            return False
        keep, decay, at = 1.0, math.exp(min(row[LOG_KEPT] - old[AT], 0.0)), old[AT]
        m, q = project(x, mean, cov, g)
    if weight == 0.0:
        return True
    if not (math.isfinite(m) and math.isfinite(q)):
        return False
    if noise > 0.0:
        tau = weight * noise
        nu = tau * y
    else:
        tau, nu = logistic_site(m, q, y, weight)
    if not math.isfinite(nu):
        return False
    _add_site(x, g, m, q, tau * decay, nu * decay, keep, lam, eta, mean, cov)
    row[EVIDENCE] = keep * row[EVIDENCE] + decay * weight
    if new:
        row[OBSERVATIONS] += 1.0
        row[LOG_KEPT] = at
    _updated(posterior)
    site[TAU], site[NU], site[WEIGHT], site[AT] = tau, nu, weight, at
    return True


@_compile
def turned(offsets: F64, keep: F64, patience: F64, rules: F64, logit: float, y: float, half: I64, scores: F64) -> bool:
    """Score an action's offsets on one answer, let them learn it, and choose among their half-lives.

    Parameters
    ----------
    offsets, keep, logit, y
        As in `track`.
    patience
        float64[n], observations of an action without a gain before the next longer half-life is tried.
    rules
        float64[4] by `PRIOR` …
    half
        int64[3] by `CURRENT`, `SINCE` and `TRACKED`, updated in place.
    scores
        float64[n], nats that each gained over all actions, updated in place.

    Returns
    -------
    bool
        Whether another half-life holds from now on; counters and scores begin anew then.
    """
    n = len(scores)
    half[TRACKED] += offsets[1, 0] == 0.0
    before = offsets[2].copy()
    track(offsets, keep, rules[PRIOR], logit, y, rules[MEMORY])
    for k in range(n):
        scores[k] += offsets[2, k] - before[k]
    half[SINCE] += 1
    current = half[CURRENT]
    best = 0
    for k in range(1, current):
        if scores[k] > scores[best]:
            best = k
    if current > 0 and scores[best] > rules[ENOUGH]:
        to = best
    elif current < n - 1 and half[SINCE] > patience[current] * max(half[TRACKED], 1):
        to = current + 1
    else:
        return False
    half[CURRENT], half[SINCE], half[TRACKED] = to, 0, 0
    scores[:] = 0.0
    return True


@_compile
def _foreseen(
    x: F64,
    m: float,
    q: float,
    y: float,
    phase: int,
    competes: bool,
    a: int,
    evidence: float,
    drift: tuple[F64, F32, I64, I64],
    half_life: tuple[I64, F64, F64, F64, F64],
    ring: tuple[F64, F32, F64, I64],
) -> int:
    """Note what was predicted of an answer before it is learned, and look for change; say why only Python can go on."""
    offsets, residuals, waiting, fed = drift
    half, scores, keep, patience, rules = half_life
    window, contexts, _, counters = ring
    logit = m / math.sqrt(1.0 + math.pi * q / 8.0)
    if phase == BEGIN:
        p = 1.0 / (1.0 + math.exp(-max(logit, -700.0)))
        if competes:
            step = counters[STEP]
            window[step % len(window), 0], window[step % len(window), 1] = p, y
            for j in range(len(x)):
                contexts[step % len(contexts), j] = x[j]
        if len(fed) > 0:
            residuals[a, waiting[a]] = y - p
            waiting[a] += 1
            if fed[a] + waiting[a] == residuals.shape[1]:
                return DETECT
    if len(fed) > 0 and evidence >= rules[NEEDED] and turned(offsets[a], keep, patience, rules, logit, y, half, scores):
        return MOVED
    return DONE


@_compile
def fold(
    at: int,
    until: int,
    phase: int,
    noise: float,
    batch: tuple[I64, F64, F64, Flags, I64, F64, F64],
    models: Posteriors,
    drift: tuple[F64, F32, I64, I64],
    half_life: tuple[I64, F64, F64, F64, F64],
    ring: tuple[F64, F32, F64, I64],
) -> tuple[int, int]:
    """Learn the observations at ≤ i < until.

    Parameters
    ----------
    at, until, phase
        Where to begin and to end, and where within the first (`BEGIN`, `WATCH`, `LEARN`).
    noise
        1/variance of experience points.
    batch
        Of each observation the action int64[n] (−1: it is passed over; set when x is too large to square), x
        float64[n, d], what was observed float64[n, 4] by `RESPONSE` …, flags bool[n, 2], the earlier observation of the
        batch that it replaces int64[n] (−1: none), the sites it replaces float64[n, 2, 4], and its own, overwritten.
    models
        Of action a, rows 2a (response) and 2a + 1 (experience).
    drift
        Of each action the offsets float64[A, 3, m], residuals that its detector has not seen yet float32[A, c], how
        many int64[A], and how many the detector took since its last test int64[A]; no rows: nothing is watched.
    half_life
        Counters int64[3] and scores float64[m] as in `turned`, then its keep, patience and rules.
    ring
        Latest predictions float64[w, 4], latest customers float32[c, d], sum of x float64[d], counters int64[2].

    Returns
    -------
    int, int
        Where it stopped, and why: `DONE`, `DETECT` or `MOVED`.
    """
    action, x, targets, flags, before, old, out = batch
    rows, lam, eta, mean, cov, prior, prior_eta = models
    window, _, x_sum, counters = ring
    g = np.empty(x.shape[1])
    for i in range(at, until):
        if action[i] < 0:
            continue
        if before[i] >= 0:
            old[i] = out[before[i]]
        first, y, weight = flags[i, FIRST], targets[i, RESPONSE], targets[i, RESPONSE_WEIGHT]
        if math.isnan(y):
            weight = 0.0
        r = 2 * action[i]
        response = (rows[r], lam[r], eta[r], mean[r], cov[r], prior[r], prior_eta[r])
        m = q = 0.0
        if weight != 0.0:
            m, q = project(x[i], mean[r], cov[r], g)
            if first and phase != LEARN:
                evidence = rows[r][EVIDENCE]
                why = _foreseen(x[i], m, q, y, phase, flags[i, COMPETES], action[i], evidence, drift, half_life, ring)
                if why != DONE:
                    return i, why
        phase = BEGIN
        learned = learn(x[i], g, m, q, y, weight, 0.0, old[i, 0], out[i, 0], response)
        if learned:
            r += 1
            experience = (rows[r], lam[r], eta[r], mean[r], cov[r], prior[r], prior_eta[r])
            y, weight = targets[i, EXPERIENCE], targets[i, EXPERIENCE_WEIGHT]
            if weight != 0.0:
                m, q = project(x[i], mean[r], cov[r], g)
                if first:
                    place = counters[STEP] % len(window)
                    window[place, 2], window[place, 3] = m, y
            learned = learn(x[i], g, m, q, y, weight, noise, old[i, 1], out[i, 1], experience)
        if not learned:
            action[i] = -1
            out[i, :, TAU] = math.nan
            continue
        taught = not (math.isnan(out[i, 0, TAU]) and math.isnan(out[i, 1, TAU]))
        change = int(taught) - int(not (math.isnan(old[i, 0, TAU]) and math.isnan(old[i, 1, TAU])))
        for j in range(len(x_sum)):
            x_sum[j] += change * x[i, j]
        counters[STEP] += 1
        counters[COUNT] += change
    return until, DONE
