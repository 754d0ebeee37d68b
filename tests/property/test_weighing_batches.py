"""Weighing many outcomes at once is weighing them one by one, to the bit, however they are cut into batches."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from nbx.bandits import kernels_teaching
from nbx.bandits.learner import LearnedSites, Observation
from nbx.bandits.posterior import Site
from nbx.experience.entries import GoalOutcome, Outcome
from nbx.runtime import weighing
from nbx.runtime.weighing import Weighing

COUNT = 3_000
USES = {"hero": frozenset({"f1", "f2", "f3"}), "desk": frozenset({"f3", "f4"})}
CODES = ("page_errors", "not_viewable", "concern_open", "seen", "stale:f2", "corrected:f4", "named:f1", "aside:f9")
CAUSES = ("assumption", "information", "execution", "timing", "unknown")
SITE = Site(tau=1.0, nu=1.0, weight=1.0, at=0.0)
Known = dict[tuple[str, int], LearnedSites]


def outcomes_of(seed: int) -> tuple[list[Outcome | GoalOutcome], Known]:
    """Evidence, told causes, a lost signal, a broken placement, bad features, corrections; and the sites replaced."""
    rng = np.random.default_rng(seed)
    made: list[Outcome | GoalOutcome] = []
    latest: dict[str, Outcome] = {}
    known: Known = {}
    for k in range(COUNT):
        if latest and rng.random() < 0.2:
            old = latest.pop(list(latest)[int(rng.integers(len(latest)))])
            again = msgspec.structs.replace(
                old,
                revision=old.revision + 1,
                previous=old.outcome,
                previous_cause=old.cause,
                previous_seen_reported=old.seen_reported,
                previous_evidence=old.evidence,
                previous_rule=old.rule,
                **told(rng, k),
            )
            if rng.random() < 0.8:
                taught = [SITE if rng.random() < 0.8 else None for _ in range(2)]
                key = f"{old.decision_id}/{old.slot}"
                sites = LearnedSites(key=key, revision=old.revision, response=taught[0], experience=taught[1])
                known[key, old.revision] = sites
            latest[again.decision_id] = again
            made.append(again)
            continue
        decision_id = f"001{max(k * 9_000_000 - int(rng.integers(10**8)), 0):011x}{k:012x}"
        if rng.random() < 0.05:
            made.append(
                GoalOutcome(
                    decision_id=decision_id,
                    revision=0,
                    customer_id="c",
                    placement="hero",
                    action="a",
                    response=1,
                    release=1,
                    at_ms=k,
                    x=b"",
                )
            )
            continue
        outcome = Outcome(
            decision_id=decision_id,
            slot=0,
            revision=0,
            customer_id="c",
            action="a",
            group="g",
            treatment="t",
            placement="hero" if rng.random() < 0.7 else "desk",
            previous=None,
            confidence=1.0,
            release=int(rng.integers(1, 3)),
            x=b"x" if rng.random() < 0.95 else b"",
            quarantined=("f2",) if rng.random() < 0.05 else (),
            **told(rng, k),
        )
        made.append(outcome)
        latest[decision_id] = outcome
    return made, known


def told(rng: np.random.Generator, k: int) -> dict[str, Any]:
    third = 3 * k // COUNT
    kinds = kernels_teaching.OUTCOMES
    outcome = str(rng.choice(kinds, p=[0.25, 0.2, 0.05, 0.05, 0.2, 0.1, 0.05, 0.05, 0.05]))
    positive = outcome in {"accepted", "converted"}
    evidence = tuple(rng.choice(CODES, size=2, replace=False).tolist()) if rng.random() < 0.2 else ()
    cause = "" if positive else str(rng.choice(CAUSES))
    stale: tuple[str, ...] = ()
    if third == 1 and rng.random() < 0.6:
        evidence, cause, stale = (*evidence, "stale:f3"), cause and "information", ("f3",)
    if third == 2 and not positive and rng.random() < 0.5:
        cause = "execution"
    return {
        "outcome": outcome,
        "cause": cause,
        "evidence": evidence,
        "rule": str(rng.choice(["", "evidence", "explicit_cause", "reason_code"], p=[0.4, 0.4, 0.1, 0.1])),
        "response": None if outcome in {"not_seen", "not_delivered"} else int(positive),
        "response_weight": float(rng.choice([1.0, 0.5, 0.25, 0.0])),
        "experience": float(rng.normal()),
        "experience_weight": float(rng.choice([1.0, 0.0])),
        "seen_reported": bool(rng.random() < (0.1 if k % 1000 > 800 else 0.95)),
        "at_ms": k * 9_000_000,
        "stale": stale,
    }


def weigh(outcomes: list[Outcome | GoalOutcome], known: Known, cuts: list[int]) -> tuple[object, ...]:
    weighed = Weighing()
    for release in (1, 2):
        weighed.know(release, USES if release == 1 else {**USES, "desk": frozenset({"f5"})})
    observations: list[Observation] = []
    ends = sorted({*cuts, len(outcomes)})
    begin = 0
    for end in ends:
        part: dict[str, Outcome | GoalOutcome] = {}
        for each in outcomes[begin:end]:
            if each.decision_id in part:  # none of a batch replaces another
                observations += weighed.observations(list(part.values()), known)
                part.clear()
            part[each.decision_id] = each
        observations += weighed.observations(list(part.values()), known)
        begin = end
    told_of = (weighed._changed, sorted(weighed._held.items()), weighed._heard)
    return msgspec.msgpack.encode(weighed.teaching), observations, told_of


@pytest.mark.parametrize("seed", range(6))
def test_a_batch_is_its_outcomes_one_by_one(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes, known = outcomes_of(seed)
    cuts = np.random.default_rng(seed).integers(1, COUNT, 20).tolist()
    got = weigh(outcomes, known, cuts)
    monkeypatch.setattr(weighing, "FEW", 1_000_000)
    by_definition = weigh(outcomes, known, [])
    assert got[0] == by_definition[0]
    assert got[1:] == by_definition[1:]
    turned = {type(each).__name__ for each in got[2][0]}  # type: ignore[index]
    assert turned == {"SignalHealth", "PlacementHealth", "FeatureHealth"}
    assert {held for (_, held), _ in got[2][1]} == {"unseen", "paused"}  # type: ignore[index]
