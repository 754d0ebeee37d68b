"""Histograms against exact quantiles, and against the encoding of the project whose format they write."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbx.errors import Invalid
from nbx.loadtest.histogram import HIGHEST_US, Histogram

VALUES = st.lists(st.integers(0, 3_000) | st.integers(0, HIGHEST_US), min_size=1, max_size=200)
REFERENCE = "HISTFAAAADN4nJNpmSzMwMAgxAABzFCaEURcm7yEwf4DRICJ5TE702QJJqaDwky/q5j+JzMBANFMCes="
"""Written by HdrHistogram's own Python port of `RECORDED`, three digits, 1 µs to an hour."""
RECORDED = (0, 1, 1, 500, 2047, 2048, 5000, 1_000_000, 77_777_777)


@given(VALUES, st.floats(0, 1))
def test_a_quantile_is_the_exact_one_to_a_thousandth(values: list[int], q: float) -> None:
    exact = int(np.quantile(values, q, method="inverted_cdf"))
    found = Histogram.of(values).quantile_us(q)
    assert exact <= found <= exact + max(exact // 1024, 0)


@given(VALUES, VALUES)
def test_adding_is_recording_both(one: list[int], other: list[int]) -> None:
    assert Histogram.of(one) + Histogram.of(other) == Histogram.of(one + other)


@given(VALUES)
def test_it_is_read_as_it_was_written(values: list[int]) -> None:
    histogram = Histogram.of(values)
    assert Histogram.decode(histogram.encode()) == histogram
    assert histogram.count == len(values)
    assert histogram.mean_us == pytest.approx(float(np.mean(values)), rel=1e-3, abs=0.5)


@given(VALUES, st.integers(0, HIGHEST_US))
def test_the_share_above_agrees_with_counting(values: list[int], limit: int) -> None:
    share = Histogram.of(values).share_above(limit)
    surely = sum(value > limit + limit // 1024 + 1 for value in values)
    assert surely <= round(share * len(values)) <= sum(value > limit for value in values)


def test_the_encoding_is_that_of_the_reference() -> None:
    assert Histogram.decode(REFERENCE) == Histogram.of(RECORDED)


def test_values_out_of_range_are_kept_at_its_ends() -> None:
    histogram = Histogram.of([-5, 10 * HIGHEST_US])
    assert histogram == Histogram.of([0, HIGHEST_US])


def test_nothing_has_no_quantiles() -> None:
    empty = Histogram.of([])
    assert (empty.count, empty.quantile_us(0.99), empty.mean_us) == (0, 0, 0.0)
    assert Histogram.decode(empty.encode()) == empty


@pytest.mark.parametrize("text", ["", "nothing", "SElTVA==", REFERENCE[:40], REFERENCE.replace("HIST", "HIDT")])
def test_what_is_no_histogram_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="histogram"):
        Histogram.decode(text)
