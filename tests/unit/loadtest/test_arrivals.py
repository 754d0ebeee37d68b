"""Arrival processes: exact where they are even, and of the right statistics where they are not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nbx.loadtest.arrivals import Constant, Daily, Phase, Poisson, Schedule, Spike, Step, mean_rate, schedule
from nbx.loadtest.durations import Seconds

PHASES = st.lists(
    st.one_of(
        st.builds(Constant, rate=st.floats(1, 300), lasts_s=st.floats(0.1, 3).map(Seconds)),
        st.builds(Poisson, rate=st.floats(1, 300), lasts_s=st.floats(0.1, 3).map(Seconds)),
        st.builds(Step, rate=st.floats(1, 50), peak=st.floats(1, 300), lasts_s=st.floats(0.1, 3).map(Seconds)),
    ),
    min_size=1,
    max_size=4,
)


def count_within(drawn: Schedule, start_s: float, end_s: float) -> int:
    return int(((drawn.due_s >= start_s) & (drawn.due_s < end_s)).sum())


def test_even_arrivals_are_exact() -> None:
    drawn = schedule([Constant(rate=250, lasts_s=Seconds(4))], 1)
    np.testing.assert_allclose(drawn.due_s, np.arange(1000) / 250, atol=1e-9)


@given(PHASES, st.integers(0, 1000), st.floats(0.1, 3), st.floats(0.1, 3))
def test_a_schedule_is_ordered_bounded_and_repeats(
    phases: list[Phase], seed: int, rate_factor: float, time_factor: float
) -> None:
    drawn = schedule(phases, seed, rate_factor=rate_factor, time_factor=time_factor)
    again = schedule(phases, seed, rate_factor=rate_factor, time_factor=time_factor)
    np.testing.assert_array_equal(drawn.due_s, again.due_s)
    assert np.all(np.diff(drawn.due_s) >= 0)
    assert np.all((drawn.due_s >= 0) & (drawn.due_s < drawn.length_s + 1e-9))
    assert drawn.length_s == pytest.approx(time_factor * sum(phase.lasts_s for phase in phases))
    assert sum(stretch.due for stretch in drawn.stretches) == len(drawn.due_s)
    assert drawn.stretches[-1].end_s == pytest.approx(drawn.length_s)


def test_poisson_arrivals_have_exponential_gaps() -> None:
    drawn = schedule([Poisson(rate=200, lasts_s=Seconds(100))], 3)
    assert len(drawn.due_s) == pytest.approx(20_000, abs=5 * 20_000**0.5)
    gaps = np.diff(drawn.due_s)
    assert stats.kstest(gaps, "expon", args=(0, 1 / 200)).pvalue > 0.001
    assert np.corrcoef(gaps[:-1], gaps[1:])[0, 1] == pytest.approx(0, abs=0.03)
    even = schedule([Constant(rate=200, lasts_s=Seconds(100))], 3)
    assert stats.kstest(np.diff(even.due_s), "expon", args=(0, 1 / 200)).pvalue < 1e-9


def test_steps_are_as_high_as_they_are_called() -> None:
    drawn = schedule([Step(rate=100, peak=500, steps=5, lasts_s=Seconds(50), spacing="even")], 1)
    assert [stretch.name for stretch in drawn.stretches] == [f"step {rate}/s" for rate in (100, 200, 300, 400, 500)]
    assert [stretch.due for stretch in drawn.stretches] == [1000, 2000, 3000, 4000, 5000]


def test_a_spike_is_where_it_was_said() -> None:
    spike = Spike(rate=50, peak=500, at=Seconds(10), width=Seconds(2), lasts_s=Seconds(30), spacing="even")
    drawn = schedule([spike], 1)
    assert [count_within(drawn, *span) for span in ((0, 10), (10, 12), (12, 30))] == [500, 1000, 900]
    faster = schedule([spike], 1, rate_factor=2, time_factor=0.5)
    assert [count_within(faster, *span) for span in ((0, 5), (5, 6), (6, 15))] == [500, 1000, 900]


def test_a_day_has_its_night_and_its_evening() -> None:
    day = Daily(rate=10, peak=1000, lasts_s=Seconds(240), days=1, spacing="even")
    drawn = schedule([day], 1)
    by_hour = [count_within(drawn, 10 * hour, 10 * hour + 10) for hour in range(24)]
    assert by_hour.index(max(by_hour)) in (19, 20)
    assert max(by_hour) == pytest.approx(10_000, rel=0.06)
    assert by_hour[2] == pytest.approx(100, rel=0.1)
    assert len(drawn.due_s) == pytest.approx(240 * mean_rate([day]), abs=1)


@given(PHASES, st.floats(0.5, 2))
def test_the_mean_rate_is_what_scaling_means(phases: list[Phase], factor: float) -> None:
    length_s = sum(float(phase.lasts_s) for phase in phases)
    due = len(schedule(phases, 1, rate_factor=factor).due_s)
    expected = factor * mean_rate(phases) * length_s
    assert due == pytest.approx(expected, abs=6 * expected**0.5 + len(phases))
