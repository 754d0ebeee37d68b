"""Our estimators pass River's own checks and work where River's do."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from river import checks, compose, datasets, evaluate, linear_model, metrics, preprocessing, proba

from nbx.bandits.estimators import BayesianLinearRegression, BayesianLogisticRegression

MODELS = [
    kind(**parameters)
    for kind in (BayesianLogisticRegression, BayesianLinearRegression)
    for parameters in kind._unit_test_params()
]
CHECKS = [
    pytest.param(model, check, id=f"{type(model).__name__}-{i}-{check.__name__}")
    for i, model in enumerate(MODELS)
    for check in checks.yield_checks(model)
    if check.__name__ not in model._unit_test_skips()
]


@pytest.mark.parametrize(("model", "check"), CHECKS)
def test_river_check(model: Any, check: Any) -> None:
    check(model.clone())


def test_a_pipeline_learns_a_classification() -> None:
    model = compose.Pipeline(preprocessing.StandardScaler(), BayesianLogisticRegression(forgetting=0.999))
    metric = evaluate.progressive_val_score(datasets.Phishing(), model, metrics.ROCAUC())
    assert metric.get() > 0.93


def test_the_linear_model_predicts_as_rivers() -> None:
    ours, theirs = BayesianLinearRegression(), linear_model.BayesianLinearRegression()
    scaler = preprocessing.StandardScaler()
    for raw, y in datasets.TrumpApproval().take(300):
        scaler.learn_one(raw)
        x = scaler.transform_one(raw)
        distribution, expected = ours.predict_one(x, with_dist=True), theirs.predict_one(x, with_dist=True)
        assert isinstance(distribution, proba.Gaussian)
        assert distribution.mu == pytest.approx(expected.mu, abs=1e-8)
        assert distribution.sigma == pytest.approx(expected.sigma, rel=1e-10)
        ours.learn_one(x, y)
        theirs.learn_one(x, y)


@pytest.mark.parametrize("d", [1, 16, 40])
def test_the_linear_model_fed_with_vectors_is_rivers(d: int) -> None:
    rng = np.random.default_rng(d)
    ours, theirs = BayesianLinearRegression(), linear_model.BayesianLinearRegression()
    for row, y in zip(rng.normal(size=(400, d)), rng.normal(size=400).tolist(), strict=True):
        ours.learn_vector(row, y)
        theirs.learn_one(dict(enumerate(row.tolist())), y)
    for row in rng.normal(size=(20, d)):
        expected = theirs.predict_one(dict(enumerate(row.tolist())), with_dist=True)
        mean, variance = ours.posterior.predict(row)
        assert (mean, math.sqrt(variance + 1.0)) == pytest.approx((expected.mu, expected.sigma), abs=1e-8)


@pytest.mark.parametrize("ridge", [0.1, 1.0, 10.0])
def test_a_feature_never_seen_is_at_its_prior(ridge: float) -> None:
    model = BayesianLinearRegression(prior_precision=ridge)
    model.learn_one({"a": 1.0}, 1.0)
    spread = model.predict_one({"b": 2.0}, with_dist=True)
    assert (spread.mu, spread.sigma) == (0.0, pytest.approx(math.sqrt(1.0 + 4.0 / ridge)))


def test_dicts_and_vectors_are_the_same_update() -> None:
    rng = np.random.default_rng(1)
    by_name, by_vector = BayesianLogisticRegression(), BayesianLogisticRegression()
    for row in rng.normal(size=(50, 4)):
        answer = bool(rng.random() < 0.5)
        by_name.learn_one(dict(zip("abcd", row.tolist(), strict=True)), answer, 0.5)
        by_vector.learn_vector(row, answer, 0.5)
    assert by_name.posterior.encode() == by_vector.posterior.encode()


def test_bad_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="noise_precision"):
        BayesianLinearRegression(noise_precision=0.0)
    with pytest.raises(ValueError, match="forgetting"):
        BayesianLogisticRegression(forgetting=2.0)
