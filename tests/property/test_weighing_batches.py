"""Weighing many outcomes at once is weighing them one by one, to the bit, however they are cut into batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from nbx.bandits import kernels_teaching
from nbx.bandits.learner import LearnedSites, Observation
from nbx.bandits.posterior import Site
from nbx.experience.entries import GoalOutcome, Outcome
from nbx.runtime.weighing import Weighing

COUNT = 3_000
USES = {"hero": frozenset({"f1", "f2", "f3"}), "desk": frozenset({"f3", "f4"})}
CODES = ("page_errors", "not_viewable", "concern_open", "seen", "stale:f2", "corrected:f4", "named:f1", "aside:f9")
CAUSES = ("assumption", "information", "execution", "timing", "unknown")
SITE = Site(tau=1.0, nu=1.0, weight=1.0, at=0.0)
BAD = b"cannot be learned"
Known = dict[tuple[str, int], LearnedSites]


def outcomes_of(seed: int) -> list[Outcome | GoalOutcome]:
    """Evidence, told causes, a lost signal, a broken placement, bad features, corrections, some that are refused."""
    rng = np.random.default_rng(seed)
    made: list[Outcome | GoalOutcome] = []
    latest: dict[str, Outcome] = {}
    for k in range(COUNT):
        if latest and rng.random() < 0.2:
            near = rng.random() < 0.5
            old = latest.pop(list(latest)[-1 if near else int(rng.integers(len(latest)))])
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
            x=(b"", BAD, b"x")[int(rng.choice(3, p=[0.05, 0.05, 0.9]))],
            quarantined=("f2",) if rng.random() < 0.05 else (),
            **told(rng, k),
        )
        made.append(outcome)
        latest[decision_id] = outcome
    return made


def told(rng: np.random.Generator, k: int) -> dict[str, Any]:
    third = 3 * k // COUNT
    kinds = kernels_teaching.OUTCOMES
    outcome = str(rng.choice(kinds, p=[0.25, 0.2, 0.05, 0.05, 0.2, 0.1, 0.05, 0.05, 0.05]))
    positive = outcome in {"accepted", "converted"}
    evidence = tuple(rng.choice(CODES, size=2, replace=False).tolist()) if rng.random() < 0.2 else ()
    cause = "" if positive else str(rng.choice(CAUSES))
    stale: tuple[str, ...] = ()
    if third == 1 and rng.random() < 0.9:
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


def unfit(observations: Sequence[Observation]) -> set[int]:
    return {k for k, each in enumerate(observations) if each.x == BAD}


def learn(known: Known, observations: Sequence[Observation]) -> None:
    """Keep sites as the learner would: of what has a weight, or replaces what is known."""
    for each in observations:
        if each.x and each.x != BAD:
            response = SITE if each.response is not None and each.response_weight else None
            experience = SITE if each.experience_weight else None
            sites = LearnedSites(key=each.key, revision=each.revision, response=response, experience=experience)
            known[each.key, each.revision] = sites


def weigh(outcomes: list[Outcome | GoalOutcome], cuts: list[int] | None) -> tuple[Any, ...]:
    """Weigh in batches that end at some positions; None: one by one."""
    weighed, known = Weighing(), Known()
    for release in (1, 2):
        weighed.know(release, USES if release == 1 else {**USES, "desk": frozenset({"f5"})})
    observations: list[Observation] = []
    if cuts is None:
        for each in outcomes:
            replaced = known.get((f"{each.decision_id}/{each.slot}", each.revision - 1))
            observations.append(weighed.observation(each, replaced))
            learn(known, observations[-1:])
    else:
        ends = sorted({*cuts, len(outcomes)})
        for begin, end in zip([0, *ends], ends, strict=False):
            made = weighed.observations(outcomes[begin:end], known, unfit)
            learn(known, made)
            observations += made
    told_of = (weighed._changed, sorted(weighed._held.items()), weighed._heard)
    return msgspec.msgpack.encode(weighed.teaching), observations, told_of


@pytest.mark.parametrize("seed", range(6))
def test_a_batch_is_its_outcomes_one_by_one(seed: int) -> None:
    outcomes = outcomes_of(seed)
    cuts = np.random.default_rng(seed).integers(1, COUNT, 60).tolist()
    by_definition = weigh(outcomes, None)
    for got in (weigh(outcomes, cuts), weigh(outcomes, [])):
        assert got[0] == by_definition[0]
        assert got[1:] == by_definition[1:]
    changed, held, _ = by_definition[2]
    assert {type(each).__name__ for each in changed} == {"SignalHealth", "PlacementHealth", "FeatureHealth"}
    assert {why for (_, why), _ in held} == {"unseen", "paused"}
