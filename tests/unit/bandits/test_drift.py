"""Watchers for change: against ADWIN itself and offsets that keep every site."""

from __future__ import annotations

import numpy as np
import pytest
from river import drift as river_drift

from nbx.bandits import drift, kernels_learning
from nbx.bandits.drift import (
    CONVINCED,
    HALF_LIVES,
    OFFSET_PRECISION,
    PATIENCE,
    RESIDUALS,
    SCORE_MEMORY,
    ChangeDetector,
    HalfLife,
    share_to_keep,
)
from nbx.bandits.kernels import F64
from tests.reference import bandits as reference


def residuals(*parts: tuple[float, int], seed: int = 1, predicted: float = 0.3) -> F64:
    rng = np.random.default_rng(seed)
    return np.concatenate([(rng.random(n) < rate).astype(float) for rate, n in parts]) - predicted


def found(numbers: F64) -> list[tuple[int, int]]:
    detector = ChangeDetector()
    told = [(k, detector.update(number)) for k, number in enumerate(numbers.tolist())]
    return [(k, holds) for k, holds in told if holds]


def test_the_first_alarm_is_adwins() -> None:
    numbers = residuals((0.3, 700), (0.1, 600))
    adwin = river_drift.ADWIN(delta=drift.FALSE_ALARM, clock=drift.CLOCK)
    alarms = []
    for k, number in enumerate(numbers.astype(np.float32).tolist()):
        adwin.update(number)
        if adwin.drift_detected:
            alarms.append(k)
    assert found(numbers)[0][0] == alarms[0]


@pytest.mark.parametrize("seed", range(6))
def test_what_still_holds_begins_near_the_change(seed: int) -> None:
    """0.3 to 0.05 after 800: noticed within 250, and dated to within 60 of the truth."""
    (at, holds), *_ = found(residuals((0.3, 800), (0.05, 400), seed=seed))
    assert 800 < at < 1050
    assert abs(at + 1 - holds - 800) < 60


def test_a_still_world_is_left_alone() -> None:
    """No alarm in 40,000 answers."""
    assert sum(len(found(residuals((0.3, 8_000), seed=seed))) for seed in range(5)) == 0


@pytest.mark.parametrize("count", [0, 1, 500, RESIDUALS, RESIDUALS + 1, 3 * RESIDUALS + 7])
def test_a_restored_detector_goes_on_to_the_bit(count: int) -> None:
    numbers = residuals((0.3, count), (0.3, 100), (0.6, 300))
    straight = ChangeDetector()
    for number in numbers[:count].tolist():
        straight.update(number)
    restored = ChangeDetector(straight.encode())
    assert restored.encode() == straight.encode()
    assert len(straight.encode()) <= 4 * RESIDUALS
    told = [(straight.update(number), restored.update(number)) for number in numbers[count:].tolist()]
    assert all(a == b for a, b in told)
    assert any(a for a, _ in told)
    assert restored.encode() == straight.encode()


@pytest.mark.parametrize("seed", range(5))
def test_a_detector_speaks_at_its_tests_and_at_no_other_time(seed: int) -> None:
    """The fold lets residuals wait until then."""
    rates = np.random.default_rng(seed).random(40)
    detector, spoke = ChangeDetector(), 0
    for number in residuals(*((float(rate), 100) for rate in rates)).tolist():
        due = detector.since_test == drift.CLOCK - 1
        holds = detector.update(number)
        assert due or not holds
        spoke += holds > 0
    assert spoke > 3


@pytest.mark.parametrize("numbers", [[0.0, 0.0, 1.0, 1.0, 1.0], [1.0, -1.0], [0.0] * 9 + [1.0]])
def test_the_split_has_the_largest_difference_of_means(numbers: list[float]) -> None:
    n = len(numbers)
    apart = [(np.mean(numbers[:k]) - np.mean(numbers[k:])) ** 2 * k * (n - k) for k in range(1, n)]
    assert drift._since_split(np.array(numbers)) == n - 1 - int(np.argmax(apart))


@pytest.mark.parametrize(
    ("holds", "evidence", "share"),
    [(50, 100.0, 0.5), (81, 100.0, 1.0), (80, 100.0, 0.8), (0, 100.0, 0.01), (500, 3.0, 1.0), (5, 0.0, 1.0)],
)
def test_only_a_cut_worth_the_trouble_is_made(holds: int, evidence: float, share: float) -> None:
    assert share_to_keep(holds, evidence) == share


def test_offsets_and_scores_are_those_by_definition() -> None:
    rng = np.random.default_rng(2)
    keep = np.array([0.7, 0.99, 1.0])
    memory = 0.98
    twins = [reference.Offset(each, 16.0, memory) for each in keep.tolist()]
    offsets = np.zeros((3, 3))
    for _ in range(300):
        z, y = float(rng.normal(-1.0, 1.5)), float(rng.random() < 0.4)
        kernels_learning.track(offsets, keep, 16.0, z, y, memory)
        still = twins[-1].predict(z)
        np.testing.assert_allclose(offsets[2], [twin.learn(z, y, still) for twin in twins], rtol=0, atol=1e-9)
        np.testing.assert_allclose(offsets[:2], np.array([twin.at(0) for twin in twins]).T, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("z", [-1e6, 1e6])
@pytest.mark.parametrize("y", [0.0, 1.0])
def test_certainty_that_was_wrong_is_survived(z: float, y: float) -> None:
    half_life, offsets = HalfLife(), drift.offsets()
    for _ in range(50):
        half_life.update(offsets, z, y)
    assert np.isfinite(offsets).all()
    assert np.isfinite(half_life.scores).all()


def feed(half_life: HalfLife, offsets: F64, rates: F64, seed: int = 1) -> list[int]:
    """Feed answers to a model that predicts 0.3 for ever; return where γ changed."""
    rng = np.random.default_rng(seed)
    z = float(np.log(0.3 / 0.7))
    draws = (rng.random(len(rates)) < rates).astype(float).tolist()
    return [k for k, y in enumerate(draws) if half_life.update(offsets, z, y)]


def test_a_still_world_keeps_everything() -> None:
    half_life = HalfLife()
    assert feed(half_life, drift.offsets(), np.full(20_000, 0.3)) == []
    assert half_life.forgetting == 1.0


def test_a_world_that_drifts_off_shortens_the_half_life_and_one_that_stops_lengthens_it() -> None:
    half_life, offsets = HalfLife(), drift.offsets()
    changes = feed(half_life, offsets, np.linspace(0.3, 0.6, 3_000))
    assert changes
    assert half_life.forgetting == 0.5 ** (1.0 / HALF_LIVES[half_life.current])
    shortest = half_life.current
    half_life.counters[:], half_life.scores[:] = (0, 0, 1), 0.0
    assert shortest < len(HALF_LIVES) - 1
    assert feed(half_life, offsets, np.full(int(PATIENCE * HALF_LIVES[0]), 0.3)) == []
    assert half_life.scores.any()
    assert half_life.update(offsets, 0.0, 1.0)
    assert half_life.current == 1
    assert half_life.encode().since == 0
    assert not half_life.scores.any()


def test_patience_is_per_action() -> None:
    half_life = HalfLife(drift.HalfLifeState(current=0, since=0, tracked=1, scores=[0.0] * 5))
    assert feed(half_life, drift.offsets(), np.full(4_100, 0.3)) == []
    assert half_life.encode().tracked == 2


def test_longer_half_lives_than_the_present_one_do_not_shorten_it() -> None:
    state = drift.HalfLifeState(
        current=1, since=0, tracked=0, scores=[0.0, 2 * CONVINCED, 2 * CONVINCED, 2 * CONVINCED, 0.0]
    )
    half_life = HalfLife(state)
    assert not half_life.update(drift.offsets(), 0.0, 1.0)
    assert half_life.current == 1


def test_a_half_life_is_plain_data() -> None:
    half_life, offsets = HalfLife(), drift.offsets()
    feed(half_life, offsets, np.full(50, 0.5))
    copy = HalfLife(half_life.encode())
    assert copy.encode() == half_life.encode()
    others = offsets.copy()
    feed(half_life, offsets, np.full(500, 0.6), seed=3)
    feed(copy, others, np.full(500, 0.6), seed=3)
    assert copy.encode() == half_life.encode()
    np.testing.assert_array_equal(offsets, others)


def test_the_defaults_are_sane() -> None:
    assert list(HALF_LIVES) == sorted(HALF_LIVES)
    assert 0.0 < SCORE_MEMORY < 1.0 < OFFSET_PRECISION


def test_what_a_cut_has_dealt_with_no_longer_counts() -> None:
    """Gains are kept by action: dropping one action leaves the other's."""
    half_life, moved, still = HalfLife(), drift.offsets(), drift.offsets()
    for _ in range(3):
        half_life.update(moved, -2.0, 1.0)
        half_life.update(still, 0.1, 1.0)
    both = half_life.scores.copy()
    np.testing.assert_allclose(both, moved[2] + still[2], rtol=0, atol=1e-12)
    half_life.drop(moved)
    np.testing.assert_allclose(half_life.scores, still[2], rtol=0, atol=1e-12)
    assert (both != half_life.scores)[:-1].all()
    assert not moved.any()


def test_a_model_that_is_off_by_a_constant_is_no_drift() -> None:
    """As first answers are, when later ones correct them: silences first, then yeses."""
    half_life = HalfLife()
    assert feed(half_life, drift.offsets(), np.full(30_000, 0.2)) == []
    assert half_life.forgetting == 1.0
