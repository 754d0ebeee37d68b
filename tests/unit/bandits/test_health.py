"""Health of placements: the alarm, its way back, what is usual, corrections and experience."""

from __future__ import annotations

import numpy as np
import pytest

from nbx.bandits.health import MOST, Execution


def lived(execution: Execution, share: float, prompts: int, seed: int = 1) -> list[int]:
    """Take prompts in of which a share fails; returns after how many something changed."""
    rng, changes = np.random.default_rng(seed), []
    for n in range(prompts):
        before, bad = execution.unwell, bool(rng.random() < share)
        execution.take(now=bad, before=None, points=-2.0 if bad else 1.0, at_ms=n)
        changes += [n] if execution.unwell != before else []
    return changes


@pytest.mark.parametrize("usual", [0.0, 0.02, 0.05])
def test_an_alarm_and_the_way_back(usual: float) -> None:
    execution = Execution()
    assert lived(execution, usual, 3_000) == []
    (at,) = lived(execution, 0.35, 200)
    assert [execution.unwell, at < 120] == [True, True]
    before = execution.share
    lived(execution, 0.35, 500)
    assert execution.share == before, "nothing is usual while it is unwell"
    (back,) = lived(execution, usual, 1_000)
    assert not execution.unwell
    assert back < 600
    assert execution.experience == -2.0


def test_broken_from_the_first_day_is_not_healthy() -> None:
    execution = Execution()
    (at,) = lived(execution, 0.4, 300)
    assert at < 100
    assert execution.share <= MOST


def test_corrections_move_and_what_nobody_can_tell_counts_for_nothing() -> None:
    execution = Execution()
    execution.take(now=None, before=None, points=0.0, at_ms=1)
    assert execution == Execution()
    execution.take(now=False, before=None, points=1.0, at_ms=1)
    execution.take(now=True, before=False, points=-2.0, at_ms=1)
    assert (execution.taken, execution.failed) == (1, 1)
    direct = Execution()
    direct.take(now=True, before=None, points=-2.0, at_ms=1)
    assert execution.doubt == pytest.approx(direct.doubt, abs=0.3)
    execution.take(now=False, before=True, points=1.0, at_ms=1)
    assert (execution.taken, execution.failed, execution.recent) == (1, 0, 0.0)
    assert execution.doubt == 0.0
