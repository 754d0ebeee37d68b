"""A Gaussian posterior in natural parameters, the prior kept apart from the evidence.

Λ = Λ0 + Λs and η = η0 + ηs, where Λs and ηs are sums of sites (τ x xᵀ, ν x). Because the prior is separate,

- forgetting is Λs ← γΛs, ηs ← γηs: exactly Λ ← γΛ + (1 − γ)Λ0, whatever γ is from one observation to the next;
- late truth subtracts what is left of the old site and adds the true one at the same age;
- merging adds; the prior can be swapped at any time.

`log_kept` sums ln γ over all that was forgotten. A site remembers where it stood when it was learned, so what is left
of it is exp(log_kept − site.at), also after forgetting at several rates and all at once.

The sums are exact (up to rounding) for any order and any γ. Mean and covariance are derived: rank-one updates in
between, Cholesky every `refresh_every` updates. A rank-one update cannot express forgetting, so `refresh_every` shrinks
until at most `DECAY_SLACK` of the evidence has been forgotten between two refreshes. A logistic site keeps the point at
which it was linearised; what is exact for it is the sum of the sites on record.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, Self

import msgspec
import numpy as np

from nbx.bandits import kernels_fold, kernels_learning
from nbx.bandits.kernels_fold import EVERY, EVIDENCE, FORGETTING, LOG_FORGETTING, LOG_KEPT, OBSERVATIONS, UPDATES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nbx.bandits.kernels import F64

REFRESH_EVERY = 256
"""Rank-one updates between two Cholesky refreshes: rounding stays below 1e-10, the cost below a tenth of an update."""
DECAY_SLACK = 0.02
"""Share of the evidence that may be forgotten before mean and covariance notice."""
LARGEST = 1e50
"""Weights and numbers that are learned, in size: sums of their products with x stay finite."""


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """What one observation added: τ x xᵀ to the precision, ν x to the natural mean."""

    tau: float
    """≥ 0; 0 is no evidence."""
    nu: float
    weight: float
    """Evidence it counted for, in observations."""
    at: float
    """`log_kept` of the posterior when it was learned, ≤ 0."""


class PosteriorState(msgspec.Struct, frozen=True, kw_only=True):
    """A posterior as plain data; matrices are float64 upper triangles by rows."""

    d: int
    prior_precision: float
    forgetting: float
    observations: int
    evidence: float
    log_kept: float
    updates_since_refresh: int
    sites_precision: bytes
    sites_mean: bytes
    mean: bytes
    cov: bytes
    prior: bytes
    """Empty while nothing was pooled."""
    prior_eta: bytes


class _Real:
    """An attribute of `Posterior` that lies among its numbers."""

    def __init__(self, at: int) -> None:
        self._at = at

    def __get__(self, posterior: Posterior, owner: type) -> float:
        return float(posterior.numbers[self._at])

    def __set__(self, posterior: Posterior, value: float) -> None:
        posterior.numbers[self._at] = value


class _Whole(_Real):
    """The same of a whole number."""

    def __get__(self, posterior: Posterior, owner: type) -> int:
        return int(posterior.numbers[self._at])


class Arrays(NamedTuple):
    """Posteriors side by side, as kernels take them."""

    numbers: F64
    """float64[n, 8] by `kernels_fold.PRIOR_PRECISION` …"""
    sites_precision: F64
    """float64[n, d, d]"""
    sites_mean: F64
    """float64[n, d]; the others likewise."""
    mean: F64
    cov: F64
    prior: F64
    """What the prior holds beyond λI."""
    prior_eta: F64

    @classmethod
    def of(cls, count: int, d: int) -> Self:
        """Make room for so many posteriors of d columns."""
        square, flat = (count, d, d), (count, d)
        shapes = (square, flat, flat, square, square, flat)
        return cls(np.zeros((count, 8)), *(np.zeros(shape) for shape in shapes))


@lru_cache(maxsize=32)
def upper(d: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the upper triangle of a [d, d] matrix, by rows."""
    return np.triu_indices(d)


def pack_upper(matrix: F64) -> F64:
    """Return upper triangles by rows of float64[..., d, d] as float64[..., d(d+1)/2].

    Examples
    --------
    >>> pack_upper(np.array([[1.0, 2.0], [2.0, 3.0]])).tolist()
    [1.0, 2.0, 3.0]
    """
    return matrix[(..., *upper(matrix.shape[-1]))]


def unpack_upper(data: bytes, d: int) -> F64:
    """Return the symmetric float64[d, d] whose `pack_upper` these bytes are."""
    matrix = np.empty((d, d))
    matrix[upper(d)] = matrix.T[upper(d)] = np.frombuffer(data)
    return matrix


class Posterior:
    """Gaussian weights w with prior N(0, I/λ), learned one site at a time.

    Parameters
    ----------
    d
        Number of columns, ≥ 0.
    prior_precision
        λ > 0.
    forgetting
        γ in (0, 1]: how much of the evidence each observation leaves.

    Examples
    --------
    >>> posterior = Posterior(2, prior_precision=4.0)
    >>> posterior.predict(np.array([1.0, 0.0]))
    (0.0, 0.25)
    >>> site = posterior.learn_linear(np.array([1.0, 0.0]), 5.0)
    >>> posterior.predict(np.array([1.0, 0.0]))
    (1.0, 0.2)
    >>> posterior.unlearn(np.array([1.0, 0.0]), site)
    >>> posterior.predict(np.array([1.0, 0.0]))
    (0.0, 0.25)
    """

    def __init__(self, d: int, *, prior_precision: float = 1.0, forgetting: float = 1.0) -> None:
        if not (prior_precision > 0.0 and math.isfinite(prior_precision)):
            raise ValueError(f"prior_precision: {prior_precision} is not a positive number")
        if not 0.0 < forgetting <= 1.0:
            raise ValueError(f"forgetting: {forgetting} is not in (0, 1]")
        self.d = d
        self._pooled = False
        self._bind(Arrays.of(1, d), 0)
        self.prior_precision = prior_precision
        self.forgetting = forgetting
        self.cov[:] = np.eye(d) / prior_precision

    prior_precision = _Real(kernels_fold.PRIOR_PRECISION)
    evidence = _Real(EVIDENCE)
    log_kept = _Real(LOG_KEPT)
    observations = _Whole(OBSERVATIONS)
    updates_since_refresh = _Whole(UPDATES)
    refresh_every = _Whole(EVERY)

    @property
    def forgetting(self) -> float:
        """Return γ; it may be set at any time and holds from the next observation on."""
        return float(self.numbers[FORGETTING])

    @forgetting.setter
    def forgetting(self, forgetting: float) -> None:
        self.numbers[FORGETTING] = forgetting
        self.numbers[LOG_FORGETTING] = log_forgetting = math.log(forgetting)
        self.refresh_every = REFRESH_EVERY
        if forgetting < 1.0:
            self.refresh_every = max(1, min(REFRESH_EVERY, int(math.log1p(-DECAY_SLACK) / log_forgetting)))

    def move(self, arrays: Arrays, row: int) -> None:
        """Lie in a row of some arrays from now on, which have as many columns."""
        mine = (self.numbers, self.sites_precision, self.sites_mean, self.mean, self.cov, self._prior, self._prior_eta)
        for there, here in zip(arrays, mine, strict=True):
            there[row] = here
        self._bind(arrays, row)

    def _bind(self, arrays: Arrays, row: int) -> None:
        self.numbers = arrays.numbers[row]
        self.sites_precision, self.sites_mean = arrays.sites_precision[row], arrays.sites_mean[row]
        self.mean, self.cov = arrays.mean[row], arrays.cov[row]
        self._prior, self._prior_eta = arrays.prior[row], arrays.prior_eta[row]

    def predict(self, x: F64) -> tuple[float, float]:
        """Compute mean and variance of x·w for x float64[d]."""
        m, q = kernels_learning.project(x, self.mean, self.cov, np.empty(self.d))
        return float(m), float(q)

    def learn_logistic(self, x: F64, y: float, weight: float = 1.0, *, replaces: Site | None = None) -> Site:
        """Learn one yes/no answer.

        Parameters
        ----------
        x
            float64[d], finite.
        y
            0..1.
        weight
            ≥ 0; 0 changes nothing.
        replaces
            The site this observation left when it was first learned; it is subtracted and this one takes its age.

        Raises
        ------
        ValueError
            When x, y or weight is not finite or out of range; nothing was learned then.
        """
        if not 0.0 <= y <= 1.0:
            raise ValueError(f"y: {y} is not in 0..1")
        return self._learn(x, y, weight, None, replaces)

    def learn_linear(
        self, x: F64, y: float, weight: float = 1.0, *, noise_precision: float = 1.0, replaces: Site | None = None
    ) -> Site:
        """Learn one number y = x·w + noise; parameters as in `learn_logistic`, noise_precision > 0 is 1/variance."""
        if not abs(y) <= LARGEST:
            raise ValueError(f"y: {y} is not a number up to {LARGEST:g} in size")
        return self._learn(x, y, weight, noise_precision, replaces)

    def _learn(self, x: F64, y: float, weight: float, noise_precision: float | None, replaces: Site | None) -> Site:
        self._check(x)
        if not 0.0 <= weight <= LARGEST:
            raise ValueError(f"weight: {weight} is not in 0..{LARGEST:g}")
        if replaces is not None:
            self.unlearn(x, replaces)
        if weight == 0.0:
            return Site(tau=0.0, nu=0.0, weight=0.0, at=self.log_kept)
        numbers = self.numbers
        _, keep, log_forgetting, evidence, log_kept, *_ = numbers.tolist()
        decay, at = 1.0, log_kept + log_forgetting
        if replaces is not None:
            keep, decay, at = 1.0, self._decay(replaces), replaces.at
        state = (keep, decay, self.sites_precision, self.sites_mean, self.mean, self.cov)
        if noise_precision is None:
            tau, nu = kernels_learning.learn_logistic(x, y, weight, *state)
        else:
            tau, nu = kernels_learning.learn_linear(x, y, weight * noise_precision, *state)
        if math.isnan(tau):
            raise ValueError("x: not finite, or too large to square")
        numbers[EVIDENCE] = keep * evidence + decay * weight
        if replaces is None:
            numbers[OBSERVATIONS] += 1.0
            numbers[LOG_KEPT] = at
        self._count_update()
        return Site(tau=tau, nu=nu, weight=weight, at=at)

    def unlearn(self, x: F64, site: Site) -> None:
        """Subtract what is left of a site."""
        self._check(x)
        if site.tau == 0.0 and site.nu == 0.0:
            return
        decay = self._decay(site)
        tau, nu = site.tau * decay, site.nu * decay
        status = kernels_learning.subtract_site(x, tau, nu, self.sites_precision, self.sites_mean, self.mean, self.cov)
        if status < 0:
            raise ValueError("x: not finite, or too large to square")
        self.evidence = max(self.evidence - decay * site.weight, 0.0)
        if status > 0:
            self._count_update()
        else:
            self.refresh()

    def forget(self, keep: float) -> None:
        """Forget at once: leave the share `keep`, in (0, 1], of all evidence."""
        if not 0.0 < keep <= 1.0:
            raise ValueError(f"keep: {keep} is not in (0, 1]")
        self.sites_precision *= keep
        self.sites_mean *= keep
        self.evidence *= keep
        self.log_kept += math.log(keep)
        self.refresh()

    def merge(self, other: Posterior) -> None:
        """Add the evidence of another posterior with the same prior; exact without forgetting."""
        if (other.d, other.prior_precision, other.forgetting) != (self.d, self.prior_precision, self.forgetting):
            raise ValueError("other: differs in columns, prior_precision or forgetting")
        self.sites_precision += other.sites_precision
        self.sites_mean += other.sites_mean
        self.evidence += other.evidence
        self.observations += other.observations
        self.refresh()

    def swap_prior(self, precision: F64, eta: F64) -> None:
        """Replace what the prior holds beyond λI: precision float64[d, d] ≥ 0 and eta float64[d]."""
        self._pooled = True
        self._prior[:], self._prior_eta[:] = precision, eta
        self.refresh()

    def grow(self, d: int, precision: float | None = None) -> None:
        """Add columns with prior N(0, 1/precision), None: λ, independent of the others; a smaller d changes nothing."""
        before = self.d
        if d <= before:
            return
        wide = Arrays.of(1, d)
        wide.numbers[0] = self.numbers
        squares = ((wide.sites_precision, self.sites_precision), (wide.cov, self.cov), (wide.prior, self._prior))
        for there, here in squares:
            there[0, :before, :before] = here
        flats = ((wide.sites_mean, self.sites_mean), (wide.mean, self.mean), (wide.prior_eta, self._prior_eta))
        for there, here in flats:
            there[0, :before] = here
        precision = self.prior_precision if precision is None else precision
        np.fill_diagonal(wide.cov[0, before:, before:], 1.0 / precision)
        self._pooled |= precision != self.prior_precision
        if self._pooled:
            np.fill_diagonal(wide.prior[0, before:, before:], precision - self.prior_precision)
        self.d = d
        self._bind(wide, 0)

    def refresh(self) -> None:
        """Derive mean and covariance from the natural parameters by Cholesky."""
        sites = (self.sites_precision, self.sites_mean)
        kernels_learning.refresh(self.prior_precision, self._prior, self._prior_eta, *sites, self.mean, self.cov)
        self.updates_since_refresh = 0

    def encode(self) -> PosteriorState:
        """Return everything a bit-identical continuation needs."""
        return PosteriorState(
            d=self.d,
            prior_precision=self.prior_precision,
            forgetting=self.forgetting,
            observations=self.observations,
            evidence=self.evidence,
            log_kept=self.log_kept,
            updates_since_refresh=self.updates_since_refresh,
            sites_precision=pack_upper(self.sites_precision).tobytes(),
            sites_mean=self.sites_mean.tobytes(),
            mean=self.mean.tobytes(),
            cov=pack_upper(self.cov).tobytes(),
            prior=pack_upper(self._prior).tobytes() if self._pooled else b"",
            prior_eta=self._prior_eta.tobytes() if self._pooled else b"",
        )

    @classmethod
    def decode(cls, state: PosteriorState) -> Self:
        """Rebuild a posterior from `encode`."""
        posterior = cls(state.d, prior_precision=state.prior_precision, forgetting=state.forgetting)
        posterior.observations = state.observations
        posterior.evidence = state.evidence
        posterior.log_kept = state.log_kept
        posterior.updates_since_refresh = state.updates_since_refresh
        posterior.sites_precision[:] = unpack_upper(state.sites_precision, state.d)
        posterior.sites_mean[:] = np.frombuffer(state.sites_mean)
        posterior.mean[:] = np.frombuffer(state.mean)
        posterior.cov[:] = unpack_upper(state.cov, state.d)
        if state.prior:
            posterior._pooled = True
            posterior._prior[:] = unpack_upper(state.prior, state.d)
            posterior._prior_eta[:] = np.frombuffer(state.prior_eta)
        return posterior

    def _check(self, x: F64) -> None:
        if x.shape != (self.d,):
            raise ValueError(f"x: shape {x.shape} where ({self.d},) is expected")

    def _decay(self, site: Site) -> float:
        return math.exp(min(self.log_kept - site.at, 0.0))

    def _count_update(self) -> None:
        self.numbers[UPDATES] += 1.0
        if self.numbers[UPDATES] >= self.numbers[EVERY]:
            self.refresh()
