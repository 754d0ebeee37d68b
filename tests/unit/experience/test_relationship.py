"""The balance equals its defining sum, whatever the order of events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbx.catalog.model import ExperiencePolicy
from nbx.experience.relationship import NEVER_MINUTES, balance_at, charge, relationship_features, strain, weighed
from nbx.features.state import CustomerState

POLICY = ExperiencePolicy(half_life_ms=1000, loss_aversion=2.0)
CHARGES = st.lists(st.tuples(st.floats(-5, 5), st.integers(0, 5000)), min_size=1, max_size=20)


@given(CHARGES, st.integers(0, 5000))
def test_balance_is_the_decayed_sum(charges: list[tuple[float, int]], later_ms: int) -> None:
    state = CustomerState()
    for points, at_ms in charges:
        charge(state, weighed(points, POLICY), at_ms, POLICY)
    now_ms = max(at for _, at in charges) + later_ms
    expected = sum((p if p >= 0 else 2.0 * p) * 2.0 ** ((at - now_ms) / 1000) for p, at in charges)
    assert balance_at(state, now_ms, POLICY) == pytest.approx(expected, abs=1e-9)


@given(CHARGES, st.floats(-5, 5), st.integers(0, 5000))
def test_taking_a_charge_back_leaves_nothing(charges: list[tuple[float, int]], points: float, at_ms: int) -> None:
    with_it, without = CustomerState(), CustomerState()
    charge(with_it, points, at_ms, POLICY)
    for each, when in charges:
        charge(with_it, each, when, POLICY)
        charge(without, each, when, POLICY)
    charge(with_it, -points, at_ms, POLICY)
    assert balance_at(with_it, 9000, POLICY) == pytest.approx(balance_at(without, 9000, POLICY), abs=1e-9)


@given(st.floats(allow_nan=False))
def test_strain_is_a_share_and_falls_with_the_balance(balance: float) -> None:
    assert 0.0 <= strain(balance) <= 1.0
    assert strain(balance) >= strain(balance + 1.0)


def test_a_stranger_was_never_prompted() -> None:
    assert relationship_features(CustomerState(), 10**12, POLICY) == {
        "balance": 0.0,
        "strain": 0.5,
        "ignored_30d": 0.0,
        "minutes_since_prompt": NEVER_MINUTES,
        "asked": 0.0,
        "given": 0.0,
        "obligations": 0.0,
        "promises_broken": 0.0,
        "promises_open": 0.0,
    }


def test_old_ignored_prompts_leave_the_window() -> None:
    day_s = 86_400
    state = CustomerState(ignored_s=[0, 20 * day_s])
    assert relationship_features(state, 25 * day_s * 1000, POLICY)["ignored_30d"] == 2.0
    assert relationship_features(state, 31 * day_s * 1000, POLICY)["ignored_30d"] == 1.0
