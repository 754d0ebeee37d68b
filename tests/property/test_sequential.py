"""The lift against its slow twin, at the end and after every customer; and what must not matter to it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbx.audit.sequential import Lift, boundary, lift, needed, rho_squared, running
from tests.reference.lift import slow_lift

SEEDS = st.integers(0, 2**32 - 1)


def world(seed: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return values, denominators and arms (0, 1, 2: of neither) of some shape."""
    rng = np.random.default_rng(seed)
    d = np.ones(n) if seed % 2 else 1.0 + rng.poisson(2.0, n)
    acts = rng.random(n) < rng.choice([0.0, 0.1, 0.5, 1.0])
    y = np.where(acts, rng.lognormal(rng.choice([0.0, 5.0]), rng.choice([0.0, 1.0]), n), 0.0) - rng.choice([0.0, 3.0])
    return y, d, rng.choice(3, n, p=[0.5, 0.3, 0.2])


def numbers(told: Lift) -> tuple[float, float, float, float, float] | None:
    if told.low is None or told.high is None or told.once_high is None or told.lift is None:
        return None
    assert told.first is not None
    assert told.second is not None
    return told.first, told.second, told.lift, (told.high - told.low) / 2.0, told.once_high - told.lift


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(0, 400))
def test_the_lift_is_that_of_its_slow_twin(seed: int, n: int) -> None:
    y, d, arm = world(seed, n)
    found = numbers(lift(y, d, arm == 0, arm == 1))
    slow = slow_lift(list(zip(y.tolist(), d.tolist(), arm.tolist(), strict=True)), rho_squared())
    assert (found is None) == (slow is None)
    assert found is None or found == pytest.approx(slow, rel=1e-6, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(0, 1_000))
def test_whoever_looks_after_each_customer_sees_what_a_report_then_tells(seed: int, at: int) -> None:
    y, d, arm = world(seed, 1_001)
    path = running(y, d, arm == 0, arm == 1)
    now = lift(y[: at + 1], d[: at + 1], arm[: at + 1] == 0, arm[: at + 1] == 1)
    told = numbers(now)
    assert math.isnan(path.always[at]) == (told is None)
    if told is not None:
        then = (path.first[at], path.second[at], path.lift[at], path.always[at], path.once[at])
        assert told == pytest.approx(then, rel=1e-6, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.floats(0.01, 100.0), st.floats(-1e6, 1e6))
def test_currency_scales_and_a_constant_for_all_changes_nothing(seed: int, scale: float, shift: float) -> None:
    y, d, arm = world(seed, 600)
    plain = numbers(lift(y, d, arm == 0, arm == 1))
    moved = numbers(lift(y * scale + shift * d, d, arm == 0, arm == 1))
    assert (plain is None) == (moved is None)
    if plain is not None and moved is not None:
        tolerance = 1e-6 * (1.0 + abs(shift))
        assert moved[2:] == pytest.approx([each * scale for each in plain[2:]], rel=1e-5, abs=tolerance)


@given(st.floats(1e-3, 1e3), st.floats(0.0, 1e3), st.integers(60, 10**7))
def test_so_many_more_customers_do(apart: float, half: float, t: int) -> None:
    more = needed(apart, half, float(t))
    then = half / float(boundary(t))
    if more is None:
        assert then * float(boundary(100.0 * t)) >= apart
    else:
        assert more == 0 or half >= apart
        assert then * float(boundary(t + more)) <= apart * (1.0 + 1e-9)


def test_nothing_is_told_where_nothing_is_known() -> None:
    one, none = np.ones(0), np.zeros(0, dtype=np.bool_)
    empty = lift(one, one, none, none)
    assert (empty.first, empty.lift, empty.low, empty.more, empty.told) == (None, None, None, None, "open")
    for value in (0.1, 2681.815095132799):
        constant = lift(np.full(1_001, value), np.ones(1_001), np.arange(1_001) < 400, np.arange(1_001) >= 400)
        assert constant.lift == pytest.approx(0.0)
        assert constant.low is None, "who never varies shows nothing of how much others would"
