"""The selection distribution against Monte Carlo and a dense integral; propensities against frequencies."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings, target
from hypothesis import strategies as st
from scipy.stats import chi2

from nbx.bandits import kernels
from nbx.bandits.kernels import F64
from nbx.bandits.thompson import choose_slate
from nbx.decision.arbitration import Factors, Utility
from nbx.decision.slate import Slate, draw_slate
from nbx.experience.entries import PolicyRecord, SharedLimit
from tests.reference import bandits as reference

DRAWS = 400_000
SAMPLED_BOUND = 0.005
"""Total variation to 400,000 draws, whose own error is 0.0044 for fifty equal candidates."""
DENSE_BOUND = 0.003


def total_variation(a: F64, b: F64) -> float:
    return float(np.abs(a - b).sum() / 2)


@pytest.mark.parametrize("n", [2, 7, 50])
def test_selection_agrees_with_sampling(n: int) -> None:
    rng = np.random.default_rng(100 + n)
    for kind, candidates in reference.fields(n, rng):
        sampled = reference.selection_sampled(candidates, 0.7, True, DRAWS, seed=1)
        assert total_variation(kernels.selection(*candidates, 0.7, True), sampled) < SAMPLED_BOUND, kind


@pytest.mark.parametrize("with_none", [True, False])
def test_selection_agrees_with_a_dense_integral(with_none: bool) -> None:
    rng = np.random.default_rng(20)
    worst: dict[str, float] = {}
    for _ in range(6):
        for n in (2, 3, 5, 12, 25):
            for kind, candidates in reference.fields(n, rng):
                dense = reference.selection_dense(candidates, 1.0, with_none, points=401)
                error = total_variation(kernels.selection(*candidates, 1.0, with_none), dense)
                worst[kind] = max(worst.get(kind, 0.0), error)
    assert max(worst.values()) < DENSE_BOUND, worst


def tight_fields() -> st.SearchStrategy[reference.Field]:
    """A few candidates whose ceilings, floors or medians meet, or none of them; sds over five decades."""

    def build(rows: list[tuple[float, float, float, float]], meet: str) -> reference.Field:
        mean, sd, gain, shift = np.array(rows, np.float64).T
        sd, gain = 10.0**sd, 10.0**gain
        if meet == "ceilings":
            shift = 8.0 - gain + shift / 100
        elif meet == "floors":
            shift = shift / 100
        elif meet == "medians":
            shift = shift / 100 - gain / (1 + np.exp(-mean))
        elif meet == "gains":
            gain = np.array([1.0, 20.0, 40.0, 60.0])[(gain * 7).astype(int) % 4]
        return reference.Field(mean.astype(np.float32), sd.astype(np.float32), gain, shift)

    row = st.tuples(st.floats(-6, 8), st.floats(-4, 1), st.floats(-1, 1.5), st.floats(-4, 4))
    meets = st.sampled_from(["", "ceilings", "floors", "medians", "gains"])
    return st.builds(build, st.lists(row, min_size=2, max_size=6), meets)


@settings(max_examples=200, deadline=None)
@given(tight_fields(), st.booleans())
def test_selection_agrees_with_a_dense_integral_where_the_search_looks_for_trouble(
    field: reference.Field, with_none: bool
) -> None:
    dense = reference.selection_dense(field, 1.0, with_none, points=601)
    error = total_variation(kernels.selection(*field, 1.0, with_none), dense)
    target(error)
    assert error < DENSE_BOUND


def test_slate_propensities_weigh_back_to_one() -> None:
    """E[1{slot 1 holds i}/propensity] is the probability that i could be placed there."""
    _, candidates = next(iter(reference.fields(4, np.random.default_rng(5))))
    rng = np.random.default_rng(6)
    rounds = 20_000
    first, second, available = np.zeros(4), np.zeros(4), np.zeros(4)
    for uniforms in rng.random((rounds, 2)):
        slate = choose_slate(*candidates, scale=1.0, floor=0.2, slots=2, uniforms=uniforms, with_none=False)
        first[slate.chosen[0]] += 1 / slate.propensity[0]
        second[slate.chosen[1]] += 1 / slate.propensity[1]
        available += 1
        available[slate.chosen[0]] -= 1
    spread = 4 * np.sqrt(20 / rounds)
    np.testing.assert_allclose(first / rounds, 1.0, atol=spread)
    np.testing.assert_allclose(second / rounds, available / rounds, atol=spread)


# --- whole slates, as a decision draws them ---------------------------------------------------------------------------

FREQUENCY_ROUNDS = 6_000


def policy(scale: float = 1.0, floor: float = 0.0) -> PolicyRecord:
    return PolicyRecord(exchange=1.0, strain=0.5, scale=scale, floor=floor, salt="s")


def drawn(
    field: reference.Field,
    policy: PolicyRecord,
    slots: int = 1,
    decision_id: str = "d",
    shared: tuple[SharedLimit, ...] = (),
) -> Slate:
    """Draw a slate of candidates, none of them mandatory."""
    n = len(field.mean)
    one = np.ones(n, np.float32)
    factors = Factors(field.mean, field.sd, one, one, one, one)
    utility = Utility(field.gain, field.shift, kernels.response_probability(field.mean, field.sd))
    return draw_slate(factors, utility, policy, np.zeros(n, np.bool_), shared, slots, decision_id)


def fields(most: int = 200) -> st.SearchStrategy[reference.Field]:
    """From 1 candidate to 200: any, all worse than silence, without gain, or the same one many times."""

    def build(n: int, seed: int, kind: str) -> reference.Field:
        rng = np.random.default_rng(seed)
        mean, sd = rng.normal(-1, 2, n).astype(np.float32), rng.uniform(0, 2, n).astype(np.float32)
        gain, shift = rng.exponential(20, n), rng.normal(0, 5, n)
        if kind == "negative":
            shift = -gain - rng.exponential(5, n) - 1e-9
        elif kind == "no gain":
            gain = np.where(rng.random(n) < 0.7, 0.0, gain)
        elif kind == "duplicates":
            same = rng.integers(0, min(n, 3), n)
            return reference.Field(mean, sd, gain, shift).take(same)
        return reference.Field(mean, sd, gain, shift)

    kinds = st.sampled_from(["any", "negative", "no gain", "duplicates"])
    return st.builds(build, st.integers(1, most), st.integers(0, 2**32), kinds)


@settings(max_examples=150, deadline=None)
@given(fields(), st.sampled_from([0.0, 0.3, 1.0]), st.sampled_from([0.0, 0.01, 1.0]), st.integers(1, 4))
def test_every_slot_is_a_distribution_over_who_is_left(
    field: reference.Field, scale: float, floor: float, slots: int
) -> None:
    """Sums to 1 within 1e-9 slot by slot; a candidate that is placed or closed by a limit gets exactly 0."""
    n = len(field.mean)
    closed = SharedLimit(tuple(range(0, n, 2)), 1)
    slate = drawn(field, policy(scale, floor), slots, shared=(closed,))
    open_ = np.ones(n, np.bool_)
    for index, propensity in zip(slate.chosen, slate.propensity, strict=True):
        free = np.flatnonzero(open_)
        prob = np.zeros(n + 1)
        prob[[*free, n]] = kernels.with_floor(kernels.selection(*field.take(free), scale, True), floor, True)
        assert abs(prob.sum() - 1.0) <= 1e-9
        assert prob.min() >= floor / (n + 1) * open_.all()
        assert prob[:-1][~open_].tolist() == [0.0] * int((~open_).sum())
        assert propensity == prob[index]
        assert propensity > 0.0
        if index < 0:
            break
        open_[index] = False
        if index in closed.members:
            open_[list(closed.members)] = False
    assert slate.probability[slate.chosen[0]] == slate.propensity[0]
    assert abs(slate.probability.sum() - 1.0) <= 1e-9


@settings(max_examples=150, deadline=None)
@given(fields(), st.sampled_from([0.3, 1.0]), st.integers(0, 2**32))
def test_the_order_of_candidates_does_not_matter(field: reference.Field, scale: float, seed: int) -> None:
    n = len(field.mean)
    order = np.random.default_rng(seed).permutation(n)
    first = drawn(field, policy(scale, 0.01)).probability
    again = drawn(field.take(order), policy(scale, 0.01)).probability
    assert np.abs(again[:-1] - first[:-1][order]).max() <= 1e-12
    assert abs(again[-1] - first[-1]) <= 1e-12


@settings(max_examples=100, deadline=None)
@given(fields(), st.integers(1, 5))
def test_nothing_is_tried_where_the_stakes_are_highest(field: reference.Field, slots: int) -> None:
    """Scale and floor 0: one after the other the best by the model's mean, while it beats silence."""
    slate = drawn(field, policy(scale=0.0), slots)
    worth = field.shift + field.gain / (1 + np.exp(-field.mean.astype(np.float64)))
    left = dict(enumerate(worth.tolist()))
    for index, propensity in zip(slate.chosen, slate.propensity, strict=True):
        best = max([*left.values(), 0.0])
        ties = sum(abs(each - best) <= 1e-9 * (1 + abs(best)) for each in (*left.values(), 0.0))
        assert (0.0 if index < 0 else left[index]) >= best - 1e-9 * (1 + abs(best))
        assert propensity >= 1 / ties - 1e-12
        if index < 0:
            break
        del left[index]


@pytest.mark.parametrize("kind", ["all negative", "no gain"])
def test_what_can_never_beat_silence_is_drawn_by_the_floor_alone(kind: str) -> None:
    n = 7
    gain = np.zeros(n) if kind == "no gain" else np.full(n, 3.0)
    field = reference.Field(np.zeros(n, np.float32), np.ones(n, np.float32), gain, np.full(n, -3.1))
    slate = drawn(field, policy(floor=0.08))
    assert slate.probability[:-1].tolist() == pytest.approx([0.01] * n, abs=1e-15)
    assert drawn(field, policy()).probability.tolist() == [0.0] * n + [1.0]


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_drawn_slates_are_as_frequent_as_their_propensities_say(floor: float) -> None:
    """Slots 1 to 3 together: the product of the logged propensities is the chance of the whole slate.

    χ² over slates expected at least five times, the rest as one, stays below its 99.9 % point; the logged product is
    the same number whenever a slate comes up.
    """
    _, field = next(iter(reference.fields(4, np.random.default_rng(11))))
    counts: Counter[tuple[int, ...]] = Counter()
    chance: dict[tuple[int, ...], float] = {}
    for number in range(FREQUENCY_ROUNDS):
        slate = drawn(field, policy(floor=floor), 3, decision_id=f"draw{number}")
        key = tuple(slate.chosen)
        counts[key] += 1
        assert chance.setdefault(key, float(np.prod(slate.propensity))) == float(np.prod(slate.propensity))
    usual = [key for key in counts if chance[key] * FREQUENCY_ROUNDS >= 5]
    expected = np.array([chance[key] for key in usual])
    seen = np.array([counts[key] for key in usual], float)
    expected = np.append(expected, max(1.0 - expected.sum(), 1e-9)) * FREQUENCY_ROUNDS
    seen = np.append(seen, FREQUENCY_ROUNDS - seen.sum())
    if expected[-1] < 5:  # too few to tell: put to the smallest
        expected, seen = np.append(expected[:-2], expected[-2:].sum()), np.append(seen[:-2], seen[-2:].sum())
    assert len(usual) >= 5
    assert ((seen - expected) ** 2 / expected).sum() < chi2.ppf(0.999, len(seen) - 1), (seen, expected)
