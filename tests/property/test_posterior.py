"""What holds for every stream of observations, because sites add."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nbx.bandits import kernels
from nbx.bandits.kernels import F64
from nbx.bandits.posterior import Posterior
from tests.reference import bandits as reference

Row = tuple[F64, float, float]
Stream = list[Row]

D = 3
NUMBER = st.floats(-5.0, 5.0, allow_subnormal=False)
ROW = st.tuples(st.lists(NUMBER, min_size=D, max_size=D).map(np.array), NUMBER, st.floats(0.1, 3.0))
STREAM = st.lists(ROW, max_size=40)
FORGETTING = st.sampled_from([1.0, 0.99, 0.8])
RIDGE = st.sampled_from([0.5, 1.0, 8.0])


def assert_same(a: Posterior, b: Posterior) -> None:
    a.refresh()
    b.refresh()
    for name in ("sites_precision", "sites_mean", "mean", "cov"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-8, atol=1e-8, err_msg=name)


@settings(deadline=None)
@given(STREAM, ROW, STREAM, FORGETTING, RIDGE)
def test_learned_and_unlearned_is_never_learned(
    before: Stream, row: Row, after: Stream, forgetting: float, ridge: float
) -> None:
    """Up to the clock: the observation that was taken back has still aged the others."""
    with_it = Posterior(D, prior_precision=ridge, forgetting=forgetting)
    without = Posterior(D, prior_precision=ridge, forgetting=forgetting)
    for x, y, w in before:
        with_it.learn_linear(x, y, w)
        without.learn_linear(x, y, w)
    site = with_it.learn_linear(*row)
    without.learn_linear(np.zeros(D), 0.0)
    for x, y, w in after:
        with_it.learn_linear(x, y, w)
        without.learn_linear(x, y, w)
    with_it.unlearn(row[0], site)
    assert_same(with_it, without)


@settings(deadline=None)
@given(STREAM, ROW, NUMBER, STREAM, FORGETTING)
def test_a_late_truth_equals_the_truth(
    before: Stream, row: Row, ignored: float, after: Stream, forgetting: float
) -> None:
    late, prompt = Posterior(D, forgetting=forgetting), Posterior(D, forgetting=forgetting)
    for x, y, w in before:
        late.learn_linear(x, y, w)
        prompt.learn_linear(x, y, w)
    x, truth, weight = row
    old = late.learn_linear(x, ignored, 1.0)
    kept = prompt.learn_linear(x, truth, weight)
    for x_after, y, w in after:
        late.learn_linear(x_after, y, w)
        prompt.learn_linear(x_after, y, w)
    assert late.learn_linear(x, truth, weight, replaces=old) == kept
    assert_same(late, prompt)
    np.testing.assert_allclose(late.evidence, prompt.evidence)


@settings(deadline=None)
@given(ROW, RIDGE)
def test_ignored_then_accepted_at_once_equals_accepted(row: Row, ridge: float) -> None:
    x = row[0]
    late, prompt = Posterior(D, prior_precision=ridge), Posterior(D, prior_precision=ridge)
    late.learn_logistic(x, 1.0, replaces=late.learn_logistic(x, 0.0))
    prompt.learn_logistic(x, 1.0)
    assert_same(late, prompt)


@settings(deadline=None)
@given(STREAM, STREAM, RIDGE)
def test_merging_equals_learning_it_all(left: Stream, right: Stream, ridge: float) -> None:
    shards = [Posterior(D, prior_precision=ridge) for _ in range(2)]
    whole = Posterior(D, prior_precision=ridge)
    for shard, stream in zip(shards, (left, right), strict=True):
        for x, y, w in stream:
            shard.learn_linear(x, y, w)
            whole.learn_linear(x, y, w)
    shards[0].merge(shards[1])
    assert_same(shards[0], whole)
    assert shards[0].observations == whole.observations


@settings(deadline=None)
@given(STREAM, st.randoms(use_true_random=False))
def test_order_does_not_matter_without_forgetting(stream: Stream, random: Any) -> None:
    shuffled = list(stream)
    random.shuffle(shuffled)
    a, b = Posterior(D), Posterior(D)
    for (x, y, w), (x_shuffled, y_shuffled, w_shuffled) in zip(stream, shuffled, strict=True):
        a.learn_linear(x, y, w)
        b.learn_linear(x_shuffled, y_shuffled, w_shuffled)
    assert_same(a, b)


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(0, 2**32), st.booleans())
def test_permuting_candidates_permutes_their_probabilities(n: int, seed: int, with_none: bool) -> None:
    rng = np.random.default_rng(seed)
    for kind, field in reference.fields(n, rng):
        order = rng.permutation(n)
        prob = kernels.selection(*field, 1.0, with_none)
        permuted = kernels.selection(*field.take(order), 1.0, with_none)
        np.testing.assert_allclose(permuted, np.append(prob[order], prob[n]), rtol=0, atol=1e-12, err_msg=kind)
        assert abs(prob.sum() - 1.0) < 1e-12
