"""The common decision in one kernel call gives the bits of the steps, whatever the model says."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.catalogs import sized
from nbx.bandits.snapshot import BoundModel, bind
from nbx.catalog.plan import Plan
from nbx.decision.arbitration import score, utility
from nbx.decision.at_once import score_and_draw
from nbx.decision.slate import draw_slate
from nbx.experience.entries import PolicyRecord

PLAN = Plan(sized(24, 12), 1)
PLACEMENT = PLAN.placements["hero"]


def model(rng: np.random.Generator, spread: float) -> BoundModel:
    """Return a model that knows something about every action."""
    found = bind(None, PLAN.layout.columns, PLAN.action_names, PLAN.action_groups)
    found.mean[:] = rng.normal(-1, spread, found.mean.shape)
    found.experience[:] = rng.normal(0, 0.2, found.experience.shape)
    found.cov_packed[:] *= np.float32(rng.uniform(1e-6, 1))
    return found


@pytest.mark.parametrize("seed", range(200))
def test_one_call_gives_the_bits_of_the_steps(seed: int) -> None:
    rng = np.random.default_rng(seed)
    known = model(rng, rng.choice([0.05, 1.0, 5.0]))
    size = len(PLACEMENT.rows)
    positions = np.sort(rng.choice(size, rng.integers(0, size + 1), replace=False)).astype(np.int64)
    x = rng.normal(size=len(PLAN.layout.columns)).astype(np.float32)
    weight = rng.uniform(0, 2, size).astype(np.float32)
    policy = PolicyRecord(
        exchange=float(rng.uniform(0, 3)),
        strain=float(rng.uniform()),
        scale=float(rng.choice([0.0, 0.3, 1.0])),
        floor=float(rng.choice([0.0, 0.02])),
        salt="s",
    )
    decision_id = f"{seed:026x}"

    got = score_and_draw(x, known, PLACEMENT, positions, weight, policy, decision_id)

    factors = score(x, known, PLACEMENT, positions, weight)
    worth = utility(factors, policy)
    slate = draw_slate(factors, worth, policy, np.zeros(len(positions), np.bool_), (), 1, decision_id)
    assert (got.slate.chosen, got.slate.propensity, got.slate.silence) == (
        slate.chosen,
        slate.propensity,
        slate.silence,
    )
    assert got.slate.probability.tobytes() == slate.probability.tobytes()
    for name in factors.__struct_fields__:
        assert getattr(got.factors, name).tobytes() == getattr(factors, name).tobytes(), name
    for name in worth.__struct_fields__:
        assert getattr(got.utility, name).tobytes() == getattr(worth, name).tobytes(), name
    assert got.table[6].tobytes() == slate.probability[:-1].astype(np.float32).tobytes()
    assert got.table[7].tobytes() == worth.expected().astype(np.float32).tobytes()
