"""Why a replay came out otherwise: every combination of grounds, in its order, and what is excused."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from nbx.audit.verdicts import BEFORE, FIRST, Grounds, ReplayReport, excused, judge, judged, notes
from nbx.build import Build
from nbx.decision.replay import replay
from nbx.decision.replayed import Difference, Replay, Verdict
from nbx.decision.warm_up import warm_up
from nbx.experience.entries import DecisionEntry
from tests.worlds import Desk

NOW = Build(version="2", code="new", libraries={"numpy": "2"})
OLD_CODE = Build(version="1", code="old", libraries={"numpy": "2"})
OLD_LIBRARY = Build(version="2", code="new", libraries={"numpy": "1"})
BUILDS: dict[str, Build | None] = {each.fingerprint: each for each in (NOW, OLD_CODE, OLD_LIBRARY)}


def grounds(*computed_by: Build | str, **more: Any) -> Grounds:
    by = frozenset(each if isinstance(each, str) else each.fingerprint for each in computed_by)
    return Grounds(build=NOW, builds=BUILDS, computed_by=by, **more)


CASES: list[tuple[Grounds, str, str]] = [
    (grounds(NOW), "record_altered", "log, model and release are as they were"),
    (grounds(OLD_LIBRARY, NOW), "library_changed", "numpy 1 → 2"),
    (grounds(OLD_CODE, OLD_LIBRARY), "code_changed", "nbx 1 (old) → 2 (new)"),
    (grounds("ffff", OLD_CODE), "record_altered", "build ffff is not on record"),
    (grounds(""), "code_changed", BEFORE),
    (grounds("", NOW), "record_altered", "it names no build"),
    (grounds(OLD_CODE, releases=("release 3 is a now",)), "release_changed", "release 3 is a now"),
    (grounds(OLD_CODE, releases=("r",), missing="trimmed"), "log_incomplete", "trimmed"),
]


@pytest.mark.parametrize(("given", "verdict", "words"), CASES)
def test_the_first_ground_that_explains_is_told(given: Grounds, verdict: str, words: str) -> None:
    found, why = judge(given, "record_altered")
    assert (found, words in why) == (verdict, True), why
    if verdict == "record_altered" and given.computed_by == {NOW.fingerprint}:
        assert judge(given, "log_altered")[0] == "log_altered"


def test_what_changed_is_noted_also_where_nothing_came_out_otherwise() -> None:
    assert notes(grounds(NOW)) == ()
    assert notes(grounds("", OLD_LIBRARY, "ffff", releases=("r",))) == (
        "r",
        "computed by another build: numpy 1 → 2",
        "build ffff is not on record",
        BEFORE,
    )


def entry_of() -> DecisionEntry:
    warm_up()  # a decision that waits for the compiler would be late, and degraded
    desk = Desk()
    desk.decide("anna", slots=2)
    (entry,) = [each for each in desk.log() if isinstance(each, DecisionEntry)]
    return entry


def test_a_replay_from_the_record_alone_is_judged_by_its_own_build() -> None:
    entry = structs.replace(entry_of(), build=NOW.fingerprint)
    same = judged(replay(entry), entry, grounds())
    assert (same.same, same.notes, excused(same)) == (True, (), True)
    forged = structs.replace(entry, none_probability=0.5, slots=(structs.replace(entry.slots[0], propensity=0.1),))
    told = judged(replay(forged), forged, grounds())
    assert {each.verdict for each in told.differences} == {"record_altered"}
    assert not excused(told)
    older = structs.replace(forged, build=OLD_LIBRARY.fingerprint)
    told = judged(replay(older), older, grounds())
    assert {each.verdict for each in told.differences} == {"library_changed"}
    assert excused(told)


def different(number: int, *verdicts: Verdict) -> Replay:
    found = tuple([Difference("x", "1", "2", verdict, "why") for verdict in verdicts])
    return Replay(f"d{number}", same=False, differences=found, notes=("n",))


def test_a_report_counts_by_the_gravest_verdict_and_keeps_the_first_few() -> None:
    report = ReplayReport(deep=True, since_ms=0, until_ms=1)
    report.add(Replay("d", same=True, differences=(), notes=("n",)))
    for number in range(9):
        report.add(different(number, "library_changed", "code_changed"))
    assert (report.replayed, report.same, report.excused, report.notes) == (10, 1, True, {"n": 10})
    assert report.different.keys() == {"code_changed"}
    assert report.different["code_changed"].decisions == 9
    assert report.different["code_changed"].first == [f"d{number}" for number in range(FIRST)]
    assert len(report.examples) == FIRST
    report.add(different(9, "release_changed", "log_incomplete"))
    assert report.different["log_incomplete"].first == ["d9"]
    assert not report.excused, "what the log does not hold is no stated change"
