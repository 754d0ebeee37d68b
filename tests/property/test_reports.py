"""Whatever happened in whatever order: parts of a report add up to the whole, and each slot counts once."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from nbx.audit.experienced import LOST
from nbx.experience.entries import Entry
from tests.unit.audit.lives import POINTS, decided, ended, erased, experience, failures
from tests.worlds import NOW_MS

CAUSES = ("assumption", "information", "execution", "timing", "unknown")


class Life(NamedTuple):
    customer: int
    action: str
    placement: str
    tier: str
    late_by: int
    outcomes: list[tuple[str, str]]
    """One after the other, each truer than those before."""
    order: list[int]
    """In which they come in; not all may."""


lives = st.builds(
    Life,
    customer=st.integers(0, 5),
    action=st.sampled_from(["gold_card", "travel_card", "tips"]),
    placement=st.sampled_from(["hero", "desk"]),
    tier=st.sampled_from(["basic", "gold", ""]),
    late_by=st.integers(0, 90 * 86_400_000),
    outcomes=st.lists(st.tuples(st.sampled_from(sorted(POINTS)), st.sampled_from(CAUSES)), min_size=1, max_size=3),
    order=st.lists(st.integers(0, 2), max_size=5),
)


def entries_of(all_lives: list[Life]) -> tuple[list[Entry], dict[int, tuple[str, str]]]:
    entries: list[Entry] = []
    last: dict[int, tuple[str, str]] = {}
    for n, life in enumerate(all_lives):
        decision = decided(
            f"d{n}", f"c{life.customer}", NOW_MS + life.late_by, [life.action], placement=life.placement,
            segments=(life.tier, "north"),
        )  # fmt: skip
        entries.append(decision)
        told = [k for k in life.order if k < len(life.outcomes)]
        for k in told:
            outcome, cause = life.outcomes[k]
            cause = "" if outcome in ("accepted", "converted") else cause
            entries.append(ended(decision, outcome, cause, revision=k + 1))
        if told:
            outcome, cause = life.outcomes[max(told)]
            last[n] = outcome, "" if outcome in ("accepted", "converted") else cause
    return entries, last


@settings(max_examples=60, deadline=None)
@given(st.lists(lives, max_size=25), st.integers(0, 6))
def test_parts_add_up_to_the_whole(all_lives: list[Life], gone: int) -> None:
    entries, last = entries_of(all_lives)
    entries.append(erased(f"c{gone}"))
    left = {n: told for n, told in last.items() if all_lives[n].customer != gone}
    report = failures(entries)
    overall = report.parts[0]
    truth = Counter(cause for outcome, cause in left.values() if cause and outcome not in LOST)
    assert {each.cause: each.negative.count for each in overall.causes if each.negative.count} == truth
    assert report.outcomes == len(left)
    for part in report.parts:
        assert part.total.negative.count == sum(each.negative.count for each in part.causes)
        assert part.total.lost == sum(each.lost for each in part.causes)
        assert abs(part.total.money - sum(each.money for each in part.causes)) < 1e-9
        for each in (part.total, *part.causes):
            share = each.negative
            assert sum(each.series) == share.count
            if share.share is not None:
                assert share.low is not None
                assert share.high is not None
                assert 0.0 <= share.low <= share.share <= share.high <= 1.0
    for by in ("action", "placement", "channel", "segment"):
        for of in {part.of for part in report.parts if part.by == by}:
            some = [part for part in report.parts if (part.by, part.of) == (by, of)]
            assert sum(part.shown for part in some) == overall.shown
            assert sum(part.total.negative.count for part in some) == overall.total.negative.count
    told = experience(entries)
    assert told.parts[0].negative == overall.total.negative
    assert abs(told.parts[0].gained + told.parts[0].lost - sum(POINTS[outcome] for outcome, _ in left.values())) < 1e-9
    assert abs(sum(each.money for each in told.sums) - told.parts[0].money) < 1e-9
