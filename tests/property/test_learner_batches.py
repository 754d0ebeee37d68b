"""Learning many observations at once is learning them one by one, to the bit, however they are cut into batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec import structs

from nbx.bandits import drift
from nbx.bandits.learner import LearnedSites, Learner, Observation
from tests.reference.learning import OneByOne

LAYOUTS = {1: ("one", "age", "rain"), 2: ("one", "rain", "late", "age")}
COUNT = 1200


def stream(seed: int) -> list[Observation]:
    """Actions that come and change their group, corrections near and far, faults, two releases, a world that turns."""
    rng = np.random.default_rng(seed)
    made: list[Observation] = []
    latest: dict[str, int] = {}
    for k in range(COUNT):
        if latest and rng.random() < 0.25:
            old = made[latest[list(latest)[-1 - int(min(rng.exponential(9), len(latest) - 1))]]]
            again = structs.replace(old, revision=old.revision + 1, **targets(rng, k, old.action))
            latest[old.key] = len(made)
            made.append(again)
            continue
        action = f"a{rng.integers(3 if k < COUNT // 2 else 5)}"
        layout = 1 if k < COUNT // 3 else int(rng.integers(1, 3))
        x = np.r_[1.0, rng.normal(size=len(LAYOUTS[layout]) - 1)].astype("<f4")
        x[1:] *= rng.random(len(x) - 1) < 0.8
        latest[f"d{k}/0"] = len(made)
        observation = Observation(
            key=f"d{k}/0",
            action=action,
            group="g0" if action == "a2" and k > COUNT // 2 else f"g{int(action[1:]) % 2}",
            layout=layout,
            x=x.tobytes() if rng.random() < 0.5 else x,
            competes=rng.random() < 0.9,
            **targets(rng, k, action),
        )
        if rng.random() < 0.02:
            observation = structs.replace(
                observation,
                **[{"x": x[:-1]}, {"x": x * np.float32("nan")}, {"layout": 9}, {"experience": 1e300}, {"response": 2}][
                    int(rng.integers(5))
                ],
            )
        made.append(observation)
    return made


def targets(rng: np.random.Generator, k: int, action: str) -> dict[str, Any]:
    rate = 0.9 if (k // (COUNT // 3) + int(action[1:])) % 2 else 0.1
    response = None if rng.random() < 0.1 else int(rng.random() < rate)
    return {
        "response": response,
        "response_weight": float(rng.choice([1.0, 1.0, 1.0, 0.5, 0.0])),
        "experience": float(rng.normal()),
        "experience_weight": float(rng.choice([1.0, 1.0, 0.0])),
        "value": 3.0 if response == 1 and rng.random() < 0.5 else None,
    }


def fold(learner: Learner, observations: list[Observation], cuts: list[int]) -> list[object]:
    """Learn in batches that end at some positions; the second half by a learner restored from the first."""
    known: dict[tuple[str, int], LearnedSites] = {}
    told: list[object] = []
    ends = sorted({*(cut for cut in cuts if cut < len(observations)), len(observations)})
    for release, columns in LAYOUTS.items():
        learner.register_layout(release, columns)
    begin = 0
    for end in ends:
        part = observations[begin:end]
        for each, sites in zip(part, learner.learn_all(part, known), strict=True):
            told.append(str(sites) if isinstance(sites, ValueError) else sites)
            if isinstance(sites, LearnedSites):
                known[each.key, each.revision] = sites
        if begin <= COUNT // 2 < end:
            told.append(learner.checkpoint())
            learner = type(learner).restore(learner.checkpoint())
        begin = end
    told = [each for each in told if not isinstance(each, bytes)]
    return [*told, learner.checkpoint(), learner.half_life, sum(m.changes for m in learner._models.values())]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("forgetting", [1.0, 0.99])
def test_a_batch_is_its_observations_one_by_one(seed: int, forgetting: float) -> None:
    observations = stream(seed)
    by_definition = fold(OneByOne(forgetting=forgetting), observations, [])
    cuts = np.random.default_rng(seed).integers(1, COUNT, 40).tolist()
    assert fold(Learner(forgetting=forgetting), observations, cuts) == by_definition
    assert fold(Learner(forgetting=forgetting), observations, list(range(COUNT))) == by_definition
    assert by_definition[-1] or forgetting < 1.0, "memories were cut"


def test_also_when_models_begin_to_forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "RULES", np.array([16.0, 0.99, 0.02, 5.0]))
    monkeypatch.setattr(drift, "PATIENT", np.array([60.0, 90.0, np.inf, np.inf, np.inf]))
    observations = stream(5)
    got = fold(Learner(), observations, [100, 555])
    assert got == fold(OneByOne(), observations, [])
    assert got[-2] != float("inf")


def test_without_anything_that_watches() -> None:
    observations = stream(6)
    assert fold(Learner(adaptive=False), observations, [300]) == fold(OneByOne(adaptive=False), observations, [])


def test_what_is_too_large_to_square_teaches_nothing() -> None:
    learner = Learner()
    learner.register_layout(1, ["one"])
    sound = Observation(
        key="a/0", action="a", group="g", layout=1, x=np.ones(1, np.float32), response=1, experience=1.0
    )
    learner.learn(sound, None)
    posterior = learner._models["a"].response.posterior
    posterior.cov[:] = np.inf
    before = learner.step
    (fault, later) = learner.learn_all(
        [structs.replace(sound, key="b/0"), structs.replace(sound, key="c/0", response=None)], {}
    )
    assert isinstance(fault, ValueError)
    assert isinstance(later, LearnedSites)
    assert learner.step == before + 1
