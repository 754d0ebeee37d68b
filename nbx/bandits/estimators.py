"""The two models of an action as River estimators: one class for the columns, one posterior, two likelihoods.

`learn_one` takes River's dicts and gives each new feature a column; features that are absent are 0. `learn_vector`
takes the service's float64 vector and is the same update without the dict; one model is fed by one of the two.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from nbx.bandits.posterior import Posterior, Site
from nbx.bandits.river_parts import base, proba

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nbx.bandits.kernels import F64


class _Columns:
    """A posterior whose columns are named by the features that were learned."""

    def __init__(self, prior_precision: float, forgetting: float) -> None:
        self.prior_precision = prior_precision
        self.forgetting = forgetting
        self._column: dict[Any, int] = {}
        self._posterior = Posterior(0, prior_precision=prior_precision, forgetting=forgetting)

    @property
    def posterior(self) -> Posterior:
        """What was learned."""
        return self._posterior

    @posterior.setter
    def posterior(self, posterior: Posterior) -> None:
        self._posterior = posterior

    def _vector_to_learn(self, x: Mapping[Any, float]) -> F64:
        for feature in x:
            self._column.setdefault(feature, len(self._column))
        self._posterior.grow(len(self._column))
        return self._vector(x)[0]

    def _vector(self, x: Mapping[Any, float]) -> tuple[F64, float]:
        """Return x as a vector, and the squared length of what has no column yet."""
        vector = np.zeros(self._posterior.d)
        unknown = 0.0
        for feature, number in x.items():
            column = self._column.get(feature)
            if column is None:
                unknown += float(number) ** 2
            else:
                vector[column] = number
        return vector, unknown

    def _predict(self, x: Mapping[Any, float]) -> tuple[float, float]:
        vector, unknown = self._vector(x)
        mean, variance = self._posterior.predict(vector)
        return mean, variance + unknown / self.prior_precision


class BayesianLogisticRegression(_Columns, base.Classifier):
    """Bayesian logistic regression by online Laplace sites.

    Parameters
    ----------
    prior_precision
        λ of the prior N(0, I/λ), > 0.
    forgetting
        γ in (0, 1]: how much of the evidence each observation leaves.

    Examples
    --------
    >>> model = BayesianLogisticRegression()
    >>> model.predict_proba_one({"age": 1.0})
    {False: 0.5, True: 0.5}
    >>> model.learn_one({"age": 1.0}, True)
    >>> model.predict_one({"age": 1.0})
    True
    """

    def __init__(self, prior_precision: float = 1.0, forgetting: float = 1.0) -> None:
        super().__init__(prior_precision, forgetting)

    @classmethod
    def _unit_test_params(cls) -> Any:
        yield {}
        yield {"prior_precision": 0.1, "forgetting": 0.99}

    def learn_one(self, x: Mapping[Any, float], y: bool, w: float = 1.0) -> None:
        """Learn one answer with weight w ≥ 0; a feature not seen before starts at the prior."""
        self._posterior.learn_logistic(self._vector_to_learn(x), float(y), w)

    def learn_vector(self, x: F64, y: float, w: float = 1.0, *, replaces: Site | None = None) -> Site:
        """Learn one answer from x float64[d]; see `Posterior.learn_logistic`."""
        self._posterior.grow(len(x))
        return self._posterior.learn_logistic(x, y, w, replaces=replaces)

    def predict_proba_one(self, x: Mapping[Any, float], **_: Any) -> dict[bool, float]:
        """Compute E[σ(x·w)], probit-moderated."""
        p = moderated(*self._predict(x))
        return {False: 1.0 - p, True: p}


class BayesianLinearRegression(_Columns, base.Regressor):
    """Bayesian linear regression with known noise.

    Parameters
    ----------
    prior_precision
        λ of the prior N(0, I/λ), > 0.
    forgetting
        γ in (0, 1]: how much of the evidence each observation leaves.
    noise_precision
        1/variance of y around x·w, > 0.

    Examples
    --------
    >>> model = BayesianLinearRegression()
    >>> model.learn_one({"age": 1.0}, 4.0)
    >>> model.predict_one({"age": 1.0})
    2.0
    >>> round(model.predict_one({"age": 1.0}, with_dist=True).sigma, 3)
    1.225
    """

    def __init__(self, prior_precision: float = 1.0, forgetting: float = 1.0, noise_precision: float = 1.0) -> None:
        if not (noise_precision > 0.0 and math.isfinite(noise_precision)):
            raise ValueError(f"noise_precision: {noise_precision} is not a positive number")
        super().__init__(prior_precision, forgetting)
        self.noise_precision = noise_precision

    @classmethod
    def _unit_test_params(cls) -> Any:
        yield {}
        yield {"prior_precision": 0.1, "forgetting": 0.99, "noise_precision": 2.0}

    def learn_one(self, x: Mapping[Any, float], y: float, w: float = 1.0) -> None:
        """Learn one number with weight w ≥ 0; a feature not seen before starts at the prior."""
        self._posterior.learn_linear(self._vector_to_learn(x), float(y), w, noise_precision=self.noise_precision)

    def learn_vector(self, x: F64, y: float, w: float = 1.0, *, replaces: Site | None = None) -> Site:
        """Learn one number from x float64[d]; see `Posterior.learn_linear`."""
        self._posterior.grow(len(x))
        return self._posterior.learn_linear(x, y, w, noise_precision=self.noise_precision, replaces=replaces)

    def predict_one(self, x: Mapping[Any, float], with_dist: bool = False) -> Any:
        """Predict y; with `with_dist` its predictive distribution, a `river.proba.Gaussian` with the noise included."""
        mean, variance = self._predict(x)
        if not with_dist:
            return mean
        variance += 1.0 / self.noise_precision
        return proba.Gaussian._from_state(n=1, m=mean, var=variance, ddof=0)  # noqa: SLF001 - River's own way


def moderated(mean: float, variance: float) -> float:
    """Approximate E[σ(z)] for z ~ N(mean, variance); see `kernels.response_probability`."""
    return sigmoid(mean / math.sqrt(1.0 + math.pi * variance / 8.0))


def sigmoid(z: float) -> float:
    """Return 1 / (1 + exp(−z))."""
    return 1.0 / (1.0 + math.exp(-max(z, -700.0)))
