"""Calibration: what was told moves what is declared, corrections are exact, the model is River's."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec import msgpack
from river import naive_bayes

from nbx.bandits.calibration import HALF_LIFE_MS, PRIOR_COUNT, REBASE, Calibration, Counts, Told, WeightedNB
from nbx.bandits.evidence import CODES, KNOWN, admission, posterior


def told(cause: str, *evidence: str, outcome: str = "declined", rule: str = "explicit_cause") -> Told:
    return Told(placement="hero", outcome=outcome, cause=cause, evidence=evidence, rule=rule)


def taught(*lessons: tuple[Told, int]) -> Calibration:
    calibration = Calibration()
    for n, (lesson, times) in enumerate(lessons):
        for _ in range(times):
            calibration.take(lesson, None, n)
    return calibration


def test_without_weights_the_model_is_that_of_river() -> None:
    rng = np.random.default_rng(1)
    mine, river = WeightedNB(), naive_bayes.BernoulliNB()
    codes = sorted(CODES)
    for _ in range(200):
        x = {code: True for code in codes if rng.random() < 0.2}
        y = str(rng.choice(KNOWN))
        mine.learn_one(x, y)
        river.learn_one(x, y)
    for code in codes:
        assert mine.predict_proba_one({code: True}) == pytest.approx(river.predict_proba_one({code: True}), rel=1e-12)


def test_what_is_declared_holds_until_enough_was_told() -> None:
    fresh = Calibration()
    for code in ("page_errors", "concern_open"):
        assert fresh.admission((code,), "hero") == admission(posterior((code,)))
    assert fresh.weight(told("assumption", "seen"), 1.0) == 1.0
    some = taught((told("assumption", "not_viewable"), 5))
    assert some.admission(("not_viewable",), "hero") == 0.0
    many = taught((told("assumption", "not_viewable"), 500))
    assert many.admission(("not_viewable",), "hero") == pytest.approx(1.0, abs=0.03)
    assert many.admission(("page_errors",), "hero") == 0.0, "of another code nothing was told"


def test_a_no_without_signs_weighs_as_those_that_were_told_of() -> None:
    calibration = taught((told("assumption", "seen"), 300), (told("execution", "seen"), 100))
    assert calibration.weight(told("assumption", "seen", rule="seen"), 1.0) == pytest.approx(
        (400 * 0.75 + PRIOR_COUNT) / (400 + PRIOR_COUNT), abs=0.01
    )
    other = told("assumption", "seen", rule="seen", outcome="ignored")
    assert calibration.weight(other, 1.0) == 1.0, "of what is ignored nobody tells a cause"
    timing = taught((told("timing", "seen"), 1_000))
    assert timing.weight(told("assumption", "seen", rule="seen"), 1.0) == pytest.approx(0.5, abs=0.01)


def test_what_was_inferred_teaches_nothing() -> None:
    calibration = taught((told("execution", "page_errors", rule="page_errors"), 50), (told("", rule=""), 50))
    assert calibration == Calibration()


def test_corrections_are_exact() -> None:
    rng = np.random.default_rng(4)
    corrected, direct = Calibration(), Calibration()
    for _ in range(300):
        decided_ms = int(rng.integers(0, 3 * HALF_LIFE_MS))
        chain = [
            told(
                str(rng.choice(KNOWN)),
                *(code for code in sorted(CODES) if rng.random() < 0.2),
                rule=str(rng.choice(["explicit_cause", "reason_code", "seen"])),
            )
            for _ in range(rng.integers(1, 4))
        ]
        before = None
        for each in chain:
            corrected.take(each, before, decided_ms)
            before = each
        direct.take(chain[-1], None, decided_ms)
    for calibration in (corrected, direct):
        calibration.take(told("timing", "seen"), None, 3 * HALF_LIFE_MS)  # as of the same time
    for code in sorted(CODES):
        assert corrected.admission((code,), "hero") == pytest.approx(direct.admission((code,), "hero"), abs=1e-6)
        assert corrected.weight(told("assumption", code), 0.5) == pytest.approx(
            direct.weight(told("assumption", code), 0.5), abs=1e-6
        )
    full = {c: {g: n for g, n in row.items() if n} for c, row in corrected.confusion.items()}
    assert full == direct.confusion


def test_a_cause_taken_back_leaves_no_trace() -> None:
    counts = Counts()
    for sign in (1, -1):
        counts.add(sign, ("page_errors", "placement=hero"), "execution", 5)
    assert (dict(counts.causes), dict(counts.codes)) == ({}, {})


def test_old_truth_is_forgotten() -> None:
    calibration = taught((told("assumption", "not_viewable"), 40))
    now_ms = 4 * HALF_LIFE_MS
    for _ in range(40):
        calibration.take(told("execution", "not_viewable"), None, now_ms)
    assert calibration.prompts.told(("not_viewable",)) == pytest.approx(40 + 40 / 16)
    assert calibration.admission(("not_viewable",), "hero") == 0.0
    later_ms = now_ms + (REBASE + 1) * HALF_LIFE_MS
    calibration.take(told("execution", "not_viewable"), None, later_ms)
    assert calibration.prompts.told(("not_viewable",)) == pytest.approx(1.0)


def test_how_often_the_rules_would_have_been_right_is_kept() -> None:
    calibration = taught(
        (told("execution", "cause=execution", "page_errors"), 6),
        (told("timing", "cause=timing", "seen"), 3),
        (told("execution", "cause=execution"), 1),
    )
    table = calibration.table()
    assert table.confusion == {"execution": {"execution": 6, "unknown": 1}, "timing": {"assumption": 3}}
    assert table.right_ratio == pytest.approx(0.6)
    assert table.evidence["seen"]["timing"] > table.evidence["seen"]["information"]
    assert Calibration().table().right_ratio is None


def test_a_checkpoint_goes_on_to_the_bit() -> None:
    rng = np.random.default_rng(6)
    lessons = [
        told(str(rng.choice(KNOWN)), *(code for code in sorted(CODES) if rng.random() < 0.3)) for _ in range(200)
    ]
    first = Calibration()
    for n, each in enumerate(lessons[:100]):
        first.take(each, lessons[n - 1] if n % 3 == 1 else None, n * 10**8)
    packed = msgpack.encode(first)
    second = msgpack.decode(packed, type=Calibration)
    assert msgpack.encode(second) == packed
    for n, each in enumerate(lessons[100:], start=100):
        for calibration in (first, second):
            calibration.take(each, None, n * 10**8)
        for code in sorted(CODES):
            assert first.admission((code,), "hero") == second.admission((code,), "hero")
            assert first.weight(told("assumption", code), 1.0) == second.weight(told("assumption", code), 1.0)
    assert msgpack.encode(first) == msgpack.encode(second)
