"""Slates: without replacement, conditional propensities, silence to the end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nbx.bandits import kernels
from nbx.bandits.thompson import choose_slate
from tests.reference import bandits as reference


def candidates(n: int, seed: int = 1) -> reference.Field:
    return next(iter(reference.fields(n, np.random.default_rng(seed))))[1]


def test_one_slot_is_drawn_from_selection_with_its_floor() -> None:
    field = candidates(5)
    slate = choose_slate(*field, scale=0.8, floor=0.1, slots=1, uniforms=[0.37])
    expected = kernels.with_floor(kernels.selection(*field, 0.8, True), 0.1, True)
    assert slate.probabilities.tolist() == expected.tolist()
    at = kernels.draw(expected, 0.37)
    assert slate.chosen.tolist() == [at if at < 5 else -1]
    assert slate.propensity.tolist() == [expected[at]]


def test_later_slots_are_conditional_on_earlier_ones() -> None:
    field = candidates(6)
    slate = choose_slate(*field, scale=1.0, floor=0.3, slots=3, uniforms=[0.1, 0.5, 0.9], with_none=False)
    assert len(set(slate.chosen.tolist())) == 3
    left = list(range(6))
    for slot, chosen in enumerate(slate.chosen.tolist()):
        rows = field.take(left)
        prob = kernels.with_floor(kernels.selection(*rows, 1.0, False), 0.3, False)
        assert slate.propensity[slot] == prob[left.index(chosen)]
        left.remove(chosen)


def test_after_none_comes_none() -> None:
    slate = choose_slate(*candidates(3), scale=1.0, floor=1.0, slots=3, uniforms=[0.99, 0.0, 0.0])
    assert slate.chosen.tolist() == [-1, -1, -1]
    assert slate.propensity.tolist() == [0.25, 1.0, 1.0]


def test_slots_left_over_are_none() -> None:
    slate = choose_slate(*candidates(2), scale=1.0, floor=0.5, slots=4, uniforms=[0.4] * 4, with_none=False)
    assert sorted(slate.chosen.tolist()) == [-1, -1, 0, 1]
    assert slate.propensity[1:].tolist() == [1.0, 1.0, 1.0]


def test_no_candidates_is_none() -> None:
    empty = candidates(1).take([])
    slate = choose_slate(*empty, scale=1.0, floor=0.1, slots=2, uniforms=[0.5, 0.5])
    assert (slate.chosen.tolist(), slate.propensity.tolist()) == ([-1, -1], [1.0, 1.0])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"uniforms": [0.5]}, "uniforms"),
        ({"slots": 0, "uniforms": []}, "uniforms"),
        ({"floor": 1.5}, "floor"),
        ({"floor": float("nan")}, "floor"),
        ({"scale": -1.0}, "scale"),
        ({"scale": float("nan")}, "scale"),
    ],
)
def test_bad_numbers_are_refused(change: dict[str, Any], named: str) -> None:
    good = {"scale": 1.0, "floor": 0.0, "slots": 2, "uniforms": [0.5, 0.5]}
    with pytest.raises(ValueError, match=named):
        choose_slate(*candidates(2), **{**good, **change})
