"""Aggregates: the order of events does not matter, and each kind equals its obvious twin."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbx.features.aggregates import aggregate_value, fold_event
from nbx.features.schema import Aggregate, Value
from nbx.limits import BUCKETS

WINDOW_MS = 24_000
EVENTS = st.lists(st.tuples(st.integers(0, 200_000), st.floats(-100, 100)), min_size=1, max_size=30)


def folded(aggregate: Aggregate, events: list[tuple[int, float]]) -> list[Value]:
    cells: list[Value] = []
    for at_ms, value in events:
        cells = fold_event(aggregate, cells, {"v": value}, at_ms)
    return cells


@given(EVENTS, st.randoms(use_true_random=False))
def test_order_does_not_matter(events: list[tuple[int, float]], shuffler: object) -> None:
    other = list(events)
    shuffler.shuffle(other)  # type: ignore[attr-defined]
    now_ms = max(at for at, _ in events)
    for aggregate in (
        Aggregate(event="e", kind="count", window_ms=WINDOW_MS),
        Aggregate(event="e", kind="sum", property="v", window_ms=WINDOW_MS),
        Aggregate(event="e", kind="last", property="v"),
        Aggregate(event="e", kind="time_since"),
        Aggregate(event="e", kind="decayed_mean", property="v", half_life_ms=10_000),
    ):
        one = aggregate_value(aggregate, folded(aggregate, events), now_ms)
        two = aggregate_value(aggregate, folded(aggregate, other), now_ms)
        assert isinstance(one, int | float)
        assert isinstance(two, int | float)
        assert math.isclose(one, two, rel_tol=1e-9, abs_tol=1e-9), aggregate.kind


@given(EVENTS, st.integers(0, 100_000))
def test_windows_hold_what_their_buckets_hold(events: list[tuple[int, float]], later_ms: int) -> None:
    now_ms = max(at for at, _ in events) + later_ms
    bucket_ms = WINDOW_MS // BUCKETS
    inside = [value for at, value in events if at // bucket_ms > now_ms // bucket_ms - BUCKETS]
    count = Aggregate(event="e", kind="count", window_ms=WINDOW_MS)
    total = Aggregate(event="e", kind="sum", property="v", window_ms=WINDOW_MS)
    assert aggregate_value(count, folded(count, events), now_ms) == len(inside)
    assert aggregate_value(total, folded(total, events), now_ms) == pytest.approx(sum(inside), abs=1e-9)


@given(EVENTS)
def test_decayed_mean_equals_the_weighted_mean(events: list[tuple[int, float]]) -> None:
    aggregate = Aggregate(event="e", kind="decayed_mean", property="v", half_life_ms=10_000)
    newest = max(at for at, _ in events)
    weights = [2.0 ** ((at - newest) / 10_000) for at, _ in events]
    expected = sum(w * v for w, (_, v) in zip(weights, events, strict=True)) / sum(weights)
    assert aggregate_value(aggregate, folded(aggregate, events), newest) == pytest.approx(expected, abs=1e-9)


def test_nothing_happened_is_known_for_windows_only() -> None:
    assert aggregate_value(Aggregate(event="e", kind="count", window_ms=1000), None, 5) == 0.0
    assert aggregate_value(Aggregate(event="e", kind="last", property="v"), None, 5) is None


def test_time_since_is_in_hours_and_never_negative() -> None:
    aggregate = Aggregate(event="e", kind="time_since")
    cells = fold_event(aggregate, [], {}, 3_600_000)
    assert aggregate_value(aggregate, cells, 3 * 3_600_000) == 2.0
    assert aggregate_value(aggregate, cells, 0) == 0.0


@pytest.mark.parametrize("properties", [{}, {"v": "text"}, {"w": 3.0}])
def test_an_event_without_the_number_changes_nothing(properties: dict[str, Value]) -> None:
    aggregate = Aggregate(event="e", kind="sum", property="v", window_ms=WINDOW_MS)
    cells = fold_event(aggregate, [], {"v": 2.0}, 1000)
    assert fold_event(aggregate, cells, properties, 2000) == cells


def test_a_window_keeps_at_most_its_buckets() -> None:
    aggregate = Aggregate(event="e", kind="count", window_ms=WINDOW_MS)
    cells = folded(aggregate, [(at, 1.0) for at in range(0, 500_000, 100)])
    assert len(cells) == 2 * BUCKETS
