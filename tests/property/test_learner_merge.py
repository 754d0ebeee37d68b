"""Learners on disjoint data merge into the learner that saw all of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbx.bandits.learner import Learner, Observation

ROWS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.integers(0, 1),
        st.floats(-3.0, 3.0, allow_subnormal=False),
        st.floats(-2.0, 2.0, allow_subnormal=False),
        st.booleans(),
    ),
    max_size=60,
)
Row = tuple[int, int, float, float, bool]


def observation(number: int, row: Row, layout: int = 1) -> Observation:
    action, response, x, points, _ = row
    return Observation(
        key=f"d{number}/0",
        action=f"a{action}",
        group=f"g{action % 2}",
        layout=layout,
        x=np.array([1.0, x][:: 1 if layout == 1 else -1], np.float32),
        response=response,
        experience=points,
        value=4.0 if response else None,
    )


def learner(rows: Sequence[tuple[int, Row]], layout: int = 1) -> Learner:
    made = Learner(adaptive=False)
    made.register_layout(layout, ["bias", "x"] if layout == 1 else ["x", "bias"])
    for number, row in rows:
        made.learn(observation(number, row, layout), None)
    return made


def sums(learned: Learner, action: str, of: int) -> tuple[np.ndarray, np.ndarray]:
    posterior = learned._models[action].posteriors[of]
    order = [learned.columns.index(name) for name in ("bias", "x")]
    return posterior.sites_precision[np.ix_(order, order)], posterior.sites_mean[order]


@settings(deadline=None, max_examples=40)
@given(ROWS)
def test_merged_learners_hold_what_one_would(rows: list[Row]) -> None:
    numbered = list(enumerate(rows))
    left = learner([n for n in numbered if n[1][4]])
    right = learner([n for n in numbered if not n[1][4]], layout=2)
    whole = learner(numbered)
    parts = {a: [sums(s, a, 0) for s in (left, right) if a in s._models] for a in whole.evidence}
    left.merge(right)
    assert {a: pytest.approx(n) for a, n in whole.evidence.items()} == left.evidence
    for action, models in whole._models.items():
        for mine, expected in zip(sums(left, action, 1), sums(whole, action, 1), strict=True):
            np.testing.assert_allclose(mine, expected, rtol=0, atol=1e-8)  # linear: exactly one learner's
        for k, mine in enumerate(sums(left, action, 0)):
            np.testing.assert_allclose(mine, sum(p[k] for p in parts[action]), rtol=0, atol=1e-8)  # sites on record
        merged = left._models[action]
        assert (merged.value_sum, merged.value_count) == (models.value_sum, models.value_count)
    restored = Learner.restore(left.checkpoint())
    assert restored.checkpoint() == left.checkpoint()


def test_memories_of_different_ages_do_not_merge() -> None:
    row: Row = (0, 1, 0.5, 1.0, True)
    whole, faded = learner([(0, row)]), Learner(forgetting=0.9)
    faded.register_layout(1, ["bias", "x"])
    faded.learn(observation(1, row), None)
    before = whole.checkpoint()
    with pytest.raises(ValueError, match="a0"):
        whole.merge(faded)
    assert whole.checkpoint() == before
