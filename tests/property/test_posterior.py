"""What holds for every stream of observations, because sites add."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nbx.bandits import kernels
from nbx.bandits.kernels import F64
from nbx.bandits.learner import Learner, Observation
from nbx.bandits.posterior import Posterior, Site
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


class Ledger:
    """A posterior's sums by definition: every site with what is left of it."""

    def __init__(self) -> None:
        self.forgetting = 1.0
        self.sites: dict[object, tuple[F64, float, float, float, float]] = {}

    def learn(self, key: object, x: F64, tau: float, nu: float, weight: float) -> None:
        """Age the others, then add; a key on record is replaced at its age."""
        left = self.sites[key][4] if key in self.sites else 1.0
        if key not in self.sites:
            self.forget(self.forgetting)
        self.sites[key] = (x, tau, nu, weight, left)

    def forget(self, keep: float) -> None:
        self.sites = {key: (x, tau, nu, w, keep * left) for key, (x, tau, nu, w, left) in self.sites.items()}

    def assert_same(self, posterior: Posterior) -> None:
        precision, eta, evidence = np.zeros((posterior.d, posterior.d)), np.zeros(posterior.d), 0.0
        for x, tau, nu, weight, left in self.sites.values():
            precision += left * tau * np.outer(x, x)
            eta += left * nu * x
            evidence += left * weight
        np.testing.assert_allclose(posterior.sites_precision, precision, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(posterior.sites_mean, eta, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(posterior.evidence, evidence, rtol=1e-8, atol=1e-8)


WEIGHT = st.sampled_from([0.25, 0.5, 1.0])
VECTOR = st.lists(NUMBER, min_size=D, max_size=D).map(np.array)
STEP = st.one_of(
    st.tuples(st.just("learn"), VECTOR, NUMBER, WEIGHT),
    st.tuples(st.just("correct"), st.integers(0, 30), NUMBER, WEIGHT),
    st.tuples(st.just("erase"), st.integers(0, 30)),
    st.tuples(st.just("forget"), st.sampled_from([0.9, 0.5, 0.05])),
    st.tuples(st.just("pace"), st.sampled_from([1.0, 0.999, 0.9])),
)


@settings(deadline=None)
@given(st.lists(STEP, max_size=60), st.booleans())
def test_sums_are_the_sites_on_record_in_any_interleaving(steps: list[Any], logistic: bool) -> None:
    """Learned, corrected, erased, forgotten at once and at changing rates; linear sites are known beforehand too."""
    posterior, ledger = Posterior(D), Ledger()
    learned: list[tuple[F64, Site]] = []
    for kind, *numbers in steps:
        if kind == "forget":
            posterior.forget(*numbers)
            ledger.forget(*numbers)
        elif kind == "pace":
            posterior.forgetting = ledger.forgetting = numbers[0]
        elif kind == "erase" and learned:
            at = numbers[0] % len(learned)
            x, site = learned.pop(at)
            posterior.unlearn(x, site)
            del ledger.sites[site.nu, id(x)]
        elif kind == "learn" or (kind == "correct" and learned):
            value, weight = numbers[1:]
            x, old = (numbers[0].copy(), None) if kind == "learn" else learned.pop(numbers[0] % len(learned))
            if logistic:
                site = posterior.learn_logistic(x, float(value > 0.0), weight, replaces=old)
            else:
                site = posterior.learn_linear(x, value, weight, noise_precision=2.0, replaces=old)
                assert (site.tau, site.nu) == (2.0 * weight, 2.0 * weight * value)
            if old is not None:
                ledger.sites[site.nu, id(x)] = ledger.sites.pop((old.nu, id(x)))
            ledger.learn((site.nu, id(x)), x, site.tau, site.nu, weight)
            learned.append((x, site))
    ledger.assert_same(posterior)


ACTIONS = ["a", "b", "c"]
SLOT = st.tuples(
    st.sampled_from(ACTIONS),
    st.lists(st.floats(-3.0, 3.0, width=32, allow_subnormal=False), min_size=D, max_size=D),
    st.sampled_from([None, 0, 1]),
    st.floats(-5.0, 5.0, allow_subnormal=False),
    st.sampled_from([0.5, 1.0]),
)
SLOTS = st.lists(SLOT, max_size=30)


def learner(**parameters: Any) -> Learner:
    made = Learner(**parameters)
    made.register_layout(1, [f"x{k}" for k in range(D)])
    return made


def observation(key: int, slot: Any, revision: int = 0) -> Observation:
    action, x, response, points, weight = slot
    return Observation(
        key=f"{key}/0",
        revision=revision,
        action=action,
        group="g",
        layout=1,
        x=np.array(x, np.float32),
        response=response,
        response_weight=weight,
        experience=points,
        experience_weight=weight,
    )


def sums(learned: Learner) -> dict[str, tuple[Posterior, Posterior]]:
    return {action: models.posteriors for action, models in learned._models.items()}


def assert_experience_same(a: Learner, b: Learner) -> None:
    """Linear sums agree whatever was done in between; an action that one never met has learned nothing."""
    for action in sums(a).keys() | sums(b).keys():
        empty = Posterior(D)
        left, right = (sums(each).get(action, (empty, empty))[1] for each in (a, b))
        np.testing.assert_allclose(left.sites_precision, right.sites_precision, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(left.sites_mean, right.sites_mean, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(left.evidence, right.evidence, rtol=1e-8, atol=1e-8)


PACES = st.lists(st.tuples(st.integers(0, 30), st.sampled_from([1.0, 0.999, 0.9])), max_size=3)
STRIKES = st.lists(st.tuples(st.integers(0, 30), st.sampled_from(ACTIONS), st.sampled_from([0.5, 0.05])), max_size=3)


def upset(learned: Learner, number: int, paces: list[Any], strikes: list[Any]) -> None:
    """Change how fast everything is forgotten, or cut one action's memory, where drift would."""
    for at, pace in paces:
        if at == number:
            for posteriors in sums(learned).values():
                for posterior in posteriors:
                    posterior.forgetting = pace
    for at, action, keep in strikes:
        if at == number and action in learned._models:
            for posterior in sums(learned)[action]:
                posterior.forget(keep)


@settings(deadline=None)
@given(SLOTS, SLOT, SLOTS, PACES, STRIKES)
def test_a_learner_takes_back_what_it_learned(
    before: list[Any], slot: Any, after: list[Any], paces: list[Any], strikes: list[Any]
) -> None:
    """Against a learner that saw an empty customer instead: the observation has still aged the others."""
    with_it, without = learner(adaptive=False), learner(adaptive=False)
    for number, each in enumerate(before):
        for learned in (with_it, without):
            learned.learn(observation(number, each), None)
            upset(learned, number, paces, strikes)
    kept = with_it.learn(observation(99, slot), None)
    nobody = (slot[0], [0.0] * D, slot[2], 0.0, slot[4])
    nothing = without.learn(observation(99, nobody), None)
    for number, each in enumerate(after, start=15):
        for learned in (with_it, without):
            learned.learn(observation(number, each), None)
            upset(learned, number, paces, strikes)
    with_it.unlearn(observation(99, slot), kept)
    without.unlearn(observation(99, nobody), nothing)
    assert_experience_same(with_it, without)


@settings(deadline=None)
@given(SLOTS, SLOT, SLOTS, PACES, STRIKES)
def test_a_learner_that_hears_late_is_one_that_heard_at_once(
    before: list[Any], slot: Any, after: list[Any], paces: list[Any], strikes: list[Any]
) -> None:
    late, prompt = learner(adaptive=False), learner(adaptive=False)
    ignored = (*slot[:2], 0, -0.3, 1.0)
    accepted = (*slot[:2], 1, slot[3], slot[4])
    for number, each in enumerate(before):
        for learned in (late, prompt):
            learned.learn(observation(number, each), None)
            upset(learned, number, paces, strikes)
    kept = late.learn(observation(99, ignored), None)
    at_once = prompt.learn(observation(99, accepted), None)
    for number, each in enumerate(after, start=15):
        for learned in (late, prompt):
            learned.learn(observation(number, each), None)
            upset(learned, number, paces, strikes)
    corrected = late.learn(observation(99, accepted, revision=1), kept)
    assert corrected.experience == at_once.experience
    assert_experience_same(late, prompt)
    np.testing.assert_allclose(late._x_sum, prompt._x_sum, atol=1e-8)


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
