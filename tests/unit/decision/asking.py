"""Decisions of small catalogs, made and put on record, to be explained."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from nbx.bandits.snapshot import BoundModel
from nbx.catalog.plan import Plan
from nbx.decision.again import Again, again
from nbx.decision.choice import decide
from nbx.decision.messages import DecideRequest
from nbx.decision.record import decision_entry
from nbx.experience.entries import DecisionEntry
from nbx.features.state import CustomerState
from tests.worlds import NOW_MS, prior_model

DECISION_ID = f"001{NOW_MS:011x}0123456789ab"


def learned_model(plan: Plan, seed: int, version: int = 7) -> BoundModel:
    """Return a model that has learned something or other."""
    rng, prior = np.random.default_rng(seed), prior_model(plan)
    shape = prior.mean.shape
    return replace(
        prior,
        mean=rng.normal(0.0, 0.7, shape).astype(np.float32),
        experience=rng.normal(0.0, 0.3, shape).astype(np.float32),
        cov_packed=(prior.cov_packed * 0.05).astype(np.float32),
        version=version,
    )


def recorded(
    plan: Plan, model: BoundModel, state: CustomerState, placement: str, now_ms: int = NOW_MS, **more: Any
) -> DecisionEntry:
    """Decide, and return the record."""
    purse = more.pop("purse", {})
    request = DecideRequest(**{"customer_id": "anna", "placement": placement, **more})
    choice = decide(plan, model, state, request, DECISION_ID, now_ms, salt="test", purse=purse)
    return decision_entry(
        choice,
        request,
        DECISION_ID,
        now_ms,
        release=plan.release,
        snapshot=model.version,
        state_version=0,
        took_us=1,
    )


def asked(plan: Plan, model: BoundModel, state: CustomerState, placement: str, **more: Any) -> Again:
    """Decide, and return what it was made of."""
    return again(recorded(plan, model, state, placement, **more), plan, model, state)
