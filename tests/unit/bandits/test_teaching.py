"""Weights: what an unknown cause counts for, what is held back, and that corrections move and never add."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec import msgpack, structs

from nbx.bandits.calibration import HALF_LIFE_MS, PRIOR_COUNT
from nbx.bandits.signals import Signal, Stream
from nbx.bandits.teaching import Lesson, Teaching

FAILED = Lesson(
    placement="hero",
    outcome="failed",
    cause="unknown",
    seen_reported=True,
    response=0,
    response_weight=0.5,
    experience_weight=1.0,
    decided_ms=0,
    at_ms=0,
)
ACCEPTED = structs.replace(FAILED, outcome="accepted", cause="", response=1, response_weight=1.0)
IGNORED = structs.replace(FAILED, outcome="ignored", cause="assumption", response_weight=1.0)
NOT_SEEN = structs.replace(FAILED, outcome="not_seen", response=None, seen_reported=False)


def of(cause: str, weight: float, **more: object) -> Lesson:
    return structs.replace(FAILED, cause=cause, response_weight=weight, **more)


def share(teaching: Teaching, at_ms: int = 0) -> float:
    """Weight of an unknown failure; taking it in changes nothing of it."""
    return teaching.weigh(structs.replace(FAILED, decided_ms=at_ms)).response


def reporting() -> Teaching:
    return Teaching(signals={"hero": Signal(answers=Stream(taken=500, count=500.0, seen=480.0), seen_ms=0)})


def unseen(lesson: Lesson) -> Lesson:
    return structs.replace(lesson, seen_reported=False)


def lost() -> Teaching:
    teaching = reporting()
    for _ in range(30):
        teaching.weigh(unseen(ACCEPTED))
    assert teaching.signals["hero"].lost
    return teaching


def test_unknown_weighs_as_much_as_assumption_is_frequent() -> None:
    teaching = Teaching()
    assert share(teaching) == 0.5, "nothing is known"
    for n in range(40):
        teaching.weigh(of("assumption", 1.0) if n % 4 == 0 else of("execution", 0.0))
    assert share(teaching) == pytest.approx((10 + PRIOR_COUNT / 2) / (40 + PRIOR_COUNT))
    assert teaching.weigh(structs.replace(FAILED, placement="desk")).response == 0.5, "each placement its own"
    assert teaching.weigh(structs.replace(FAILED, outcome="complained")).response == 0.5, "each outcome its own"
    for _ in range(100):
        teaching.weigh(IGNORED)
    assert share(teaching) == pytest.approx(15 / 50), "what is ignored says nothing about a failure"


def test_the_share_converges_to_the_truth() -> None:
    rng = np.random.default_rng(2)
    teaching = Teaching()
    for n in range(4_000):
        teaching.weigh(of("assumption" if rng.random() < 0.15 else "information", 0.0, decided_ms=n * 60_000))
    assert share(teaching, 4_000 * 60_000) == pytest.approx(0.15, abs=0.02)


def test_known_causes_are_forgotten() -> None:
    teaching = Teaching()
    for _ in range(30):
        teaching.weigh(of("execution", 0.0))
    assert share(teaching) == pytest.approx(5 / 40)
    assert share(teaching, HALF_LIFE_MS) == pytest.approx(5 / 25)
    assert share(teaching, 20 * HALF_LIFE_MS) == pytest.approx(0.5, abs=1e-4)
    teaching.weigh(of("execution", 0.0, decided_ms=HALF_LIFE_MS))
    assert share(teaching, HALF_LIFE_MS) == pytest.approx(5 / 26)


def test_a_late_cause_moves_what_was_counted_exactly_once() -> None:
    rng = np.random.default_rng(4)
    corrected, direct = Teaching(), Teaching()
    names = ["unknown", "assumption", "execution", "information", "timing"]
    for n in range(400):
        decided_ms = int(rng.integers(0, 2 * HALF_LIFE_MS))
        chain = [str(name) for name in rng.choice(names, rng.integers(1, 4))]
        previous, previous_cause = None, ""
        for cause in chain:
            lesson = of(cause, 0.5, decided_ms=decided_ms, at_ms=n)
            corrected.weigh(structs.replace(lesson, previous=previous, previous_cause=previous_cause))
            previous, previous_cause = "failed", cause
        direct.weigh(of(chain[-1], 0.5, decided_ms=decided_ms, at_ms=n))
    known, wanted = corrected.causes["hero"]["failed"], direct.causes["hero"]["failed"]
    since = (wanted.at_ms - known.at_ms) / HALF_LIFE_MS
    assert known.count == pytest.approx(wanted.count * 2.0**since, rel=1e-9)
    assert known.assumption == pytest.approx(wanted.assumption * 2.0**since, rel=1e-9)
    assert share(corrected, 2 * HALF_LIFE_MS) == pytest.approx(share(direct, 2 * HALF_LIFE_MS))


def test_another_outcome_takes_its_cause_along() -> None:
    teaching = Teaching()
    teaching.weigh(of("execution", 0.0))
    teaching.weigh(
        structs.replace(FAILED, outcome="complained", cause="assumption", previous="failed", previous_cause="execution")
    )
    assert teaching.causes["hero"]["failed"].count == 0.0
    assert teaching.causes["hero"]["complained"].assumption == 1.0


def test_only_a_reported_exposure_teaches_where_it_is_usual() -> None:
    teaching = reporting()
    assert teaching.weigh(ACCEPTED) == (1.0, 1.0, "")
    assert teaching.weigh(IGNORED) == (1.0, 1.0, "")
    assert teaching.weigh(unseen(ACCEPTED)) == (0.0, 0.0, "unseen")
    assert teaching.weigh(unseen(FAILED)) == (0.0, 1.0, "unseen"), "a failure is an experience, seen or not"
    assert teaching.weigh(NOT_SEEN) == (0.5, 1.0, ""), "tells nothing about the response anyway"
    assert Teaching().weigh(unseen(ACCEPTED)) == (1.0, 1.0, ""), "never reported: as today"


def test_a_paused_placement_teaches_nothing_and_corrects_what_it_taught() -> None:
    teaching = lost()
    for lesson in (ACCEPTED, IGNORED, NOT_SEEN, unseen(ACCEPTED), FAILED):
        assert teaching.weigh(lesson) == (0.0, 0.0, "paused")
    corrected = structs.replace(ACCEPTED, previous="ignored", previous_cause="assumption")
    assert teaching.weigh(corrected, taught_response=True, taught_experience=True)[:2] == (1.0, 1.0)
    assert teaching.weigh(corrected, taught_experience=True)[:2] == (0.0, 1.0)
    assert teaching.weigh(structs.replace(ACCEPTED, placement="desk")).response == 1.0
    health = {health.placement: health.lost for health in teaching.health()}
    assert health == {"desk": False, "hero": True}


def test_since_is_the_time_of_the_change() -> None:
    teaching = reporting()
    for at_ms in range(100, 130):
        teaching.weigh(structs.replace(unseen(ACCEPTED), at_ms=at_ms))
    assert 110 < teaching.signals["hero"].since_ms < 130
    for at_ms in range(200, 230):
        teaching.weigh(structs.replace(ACCEPTED, at_ms=at_ms))
    assert not teaching.signals["hero"].lost
    assert 210 < teaching.signals["hero"].since_ms < 230


def test_what_is_no_news_about_the_signal_is_not_counted() -> None:
    teaching = reporting()
    signal = teaching.signals["hero"]
    by_agent = structs.replace(NOT_SEEN, cause="execution")
    again = structs.replace(NOT_SEEN, previous="not_delivered", previous_cause="unknown")
    converted = structs.replace(ACCEPTED, outcome="converted", previous="accepted")
    for lesson in (by_agent, again, converted, FAILED, unseen(FAILED)):
        teaching.weigh(lesson)
    assert (signal.answers.taken, signal.timeouts.taken) == (500, 0)
    teaching.weigh(NOT_SEEN)
    teaching.weigh(structs.replace(IGNORED, previous="not_seen", previous_cause="unknown"))
    assert (signal.timeouts.taken, signal.timeouts.recent) == (1, 1.0), "a late `seen` moves it"


def test_the_state_is_what_a_checkpoint_holds() -> None:
    teaching = lost()
    teaching.weigh(of("assumption", 1.0, decided_ms=12_345))
    packed = msgpack.encode(teaching)
    again = msgpack.decode(packed, type=Teaching)
    assert again == teaching
    assert msgpack.encode(again) == packed


def test_evidence_that_does_not_depend_on_the_answer_weighs_all_answers_alike() -> None:
    teaching = Teaching()
    rng = np.random.default_rng(8)
    shown = ("not_viewable",)
    yes = structs.replace(ACCEPTED, evidence=shown, response_weight=0.0)
    no = of("execution", 0.0, outcome="declined", evidence=shown, rule="not_viewable")
    for _ in range(400):  # on this placement it is mostly harmless
        cause = str(rng.choice(["assumption", "execution"], p=[0.9, 0.1]))
        teaching.weigh(of(cause, 0.0, outcome="declined", evidence=shown, rule="explicit_cause"))
        assert teaching.weigh(yes).response == teaching.weigh(no).response
    assert teaching.weigh(yes).response == pytest.approx(0.9, abs=0.06)
    assert teaching.weigh(structs.replace(yes, evidence=("page_errors",))).response == 0.0
    assert teaching.weigh(structs.replace(yes, evidence=(), response_weight=1.0)).response == 1.0
    told = of("assumption", 0.0, outcome="declined", evidence=("page_errors",), rule="explicit_cause")
    assert teaching.weigh(told).response == 0.0, "whoever told a cause"


def test_a_feature_is_counted_where_it_was_used_and_blamed_where_it_is_named() -> None:
    teaching = Teaching()
    uses = frozenset({"age", "tier"})
    stale = of("information", 0.0, outcome="declined", evidence=("stale:age",), rule="stale", uses=uses, stale=("age",))
    for n in range(60):
        teaching.weigh(structs.replace(stale, at_ms=n))
        teaching.weigh(structs.replace(ACCEPTED, uses=uses, at_ms=n))
    assert teaching.quarantined() == ["age"]
    assert teaching.features["tier"].wrong == 0.0
    assert teaching.features["tier"].used == pytest.approx(120, rel=0.15)
    late = Teaching()
    for n in range(60):
        late.weigh(structs.replace(IGNORED, uses=uses, at_ms=n))
        corrected = of("information", 0.0, outcome="ignored", evidence=("corrected:tier",), uses=uses, at_ms=n)
        late.weigh(structs.replace(corrected, previous="ignored", previous_cause="assumption"))
    assert late.quarantined() == ["tier"], "also when it comes out later"
    held = structs.replace(IGNORED, uses=uses, quarantined=("tier",), evidence=("aside:tier",))
    for _ in range(400):
        late.weigh(held)
    assert late.quarantined() == ["tier"], "corrections go on while nobody relies on it"


def test_execution_is_charged_to_its_placement() -> None:
    teaching = Teaching()
    for n in range(100):
        teaching.weigh(of("execution", 0.0, points=-2.0, at_ms=n))
        teaching.weigh(structs.replace(ACCEPTED, placement="desk", points=1.0, at_ms=n))
    assert (teaching.execution["hero"].unwell, teaching.execution["desk"].unwell) == (True, False)
    assert teaching.execution["hero"].experience == -2.0


def test_what_shows_says_nothing_about_what_does_not() -> None:
    teaching = Teaching()
    for _ in range(50):
        teaching.weigh(of("execution", 0.0, evidence=("page_errors",), rule="page_errors"))
    assert share(teaching) == 0.5
    for _ in range(30):
        teaching.weigh(of("execution", 0.0, evidence=("cause=execution",), rule="explicit_cause"))
    assert share(teaching) == pytest.approx(5 / 40)
