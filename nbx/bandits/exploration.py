"""How much to explore: the scale of posterior standard deviations with the least regret for what it teaches.

Thompson sampling (scale 1) goes on trying what is hardly ever best; on every world and every randomised log tried, a
third of it earned more, and a tenth earned less because the first lucky action stayed. The right scale depends on how
many actions there are and how much is known, so it is not a knob: over the latest customers, each scale of a small grid
is judged by its information ratio

    Ψ = (expected regret)² / (variance of p_response that knowing the best action would explain),

both under the present posterior, both for the exact distribution the scale would choose from. The scale with the least
Ψ is taken, smoothed, since each judgement is one of many. Value is left out: what customers would do is uncertain.

Source: Russo and Van Roy (2014), Learning to optimize via information-directed sampling, section 4 and the
variance-based ratio of section 6; here over a grid of Thompson scales instead of all distributions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nbx.bandits import kernels

if TYPE_CHECKING:
    from nbx.bandits.kernels import F32, F64

SCALES = (0.1, 0.2, 0.3, 0.45, 0.7, 1.0)
"""Scales that are judged; below a tenth a lucky start is never questioned."""
START = 0.3
"""Scale before anything is known, and with a single action."""
SMOOTHING = 0.2
"""Weight of the latest judgement."""
CONTEXTS = 16
"""Latest customers that are looked at."""
WORLDS = 48
"""Worlds drawn from the posterior per customer."""

_NORMAL = np.random.default_rng(20).standard_normal((WORLDS, 1024))
"""The same normal numbers for every judgement: a fold has no luck."""


def judge(mean: F32, sd: F32) -> tuple[F64, F64]:
    """Expected regret of each scale for one customer, and the variance it would explain.

    Parameters
    ----------
    mean, sd
        float32[n], log-odds of the response of each action.

    Returns
    -------
    regret, gain
        float64[len(SCALES)] each: acceptances per decision, and its square.

    Examples
    --------
    >>> regret, gain = judge(np.zeros(2, np.float32), np.full(2, 0.5, np.float32))
    >>> bool(np.ptp(regret) < 1e-12), bool((gain > 0).all())
    (True, True)
    """
    n = len(mean)
    normal = np.resize(_NORMAL, (WORLDS, n)) if n > _NORMAL.shape[1] else _NORMAL[:, :n]
    worlds = 1.0 / (1.0 + np.exp(-np.clip(mean + sd * normal, -30.0, 30.0)))
    expected = worlds.mean(0)
    best = worlds.argmax(1)
    explained = np.zeros(n)
    for winner in np.unique(best):
        among = worlds[best == winner]
        explained += len(among) / WORLDS * (among.mean(0) - expected) ** 2
    ceiling = worlds[np.arange(WORLDS), best].mean()
    one, zero = np.ones(n), np.zeros(n)
    regret, gain = np.empty(len(SCALES)), np.empty(len(SCALES))
    for k, scale in enumerate(SCALES):
        chosen = kernels.selection(mean, sd, one, zero, scale, False)[:-1]
        regret[k] = ceiling - chosen @ expected
        gain[k] = chosen @ explained
    return regret, gain


def calibrated(present: float, means: F32, sds: F32) -> float:
    """Return the present scale, moved towards the one with the least information ratio.

    Parameters
    ----------
    present
        Scale in force.
    means, sds
        float32[customers, n].

    Examples
    --------
    >>> calibrated(0.3, np.zeros((4, 1), np.float32), np.ones((4, 1), np.float32))
    0.3
    """
    if means.shape[0] == 0 or means.shape[1] < 2:
        return present
    judged = [judge(mean, sd) for mean, sd in zip(means, sds, strict=True)]
    regret = np.sum([one for one, _ in judged], axis=0)
    gain = np.sum([one for _, one in judged], axis=0)
    if not gain.max() > 0.0:
        return present
    ratio = np.maximum(regret, 0.0) ** 2 / np.maximum(gain, 1e-12 * gain.max())
    return (1.0 - SMOOTHING) * present + SMOOTHING * SCALES[int(ratio.argmin())]
