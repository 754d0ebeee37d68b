"""Finding decisions by what they were like, against a plain look at every entry."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from benchmarks.archived_log import ACTIONS, ANSWERS, PARTITIONS, Archive, answer, decision, history, logged
from nbx.audit.decisions_found import Criteria, find
from nbx.audit.live_tail import every_partition, readable
from nbx.audit.query import LogQuery
from nbx.audit.reading import Window
from nbx.errors import Invalid

START_MS = 1_767_225_600_000
DAY_MS = 86_400_000
COUNT = 40
EVER = {"since_ms": START_MS, "until_ms": START_MS + 10 * DAY_MS}


@pytest.fixture(scope="module")
def query(tmp_path_factory: pytest.TempPathFactory) -> LogQuery:
    """Four days with ten decisions each; the last one is live, and holds two that are out of the ordinary."""
    archive = Archive(tmp_path_factory.mktemp("archive"))
    for day in range(3):
        archive.add(history(10, START_MS + day * DAY_MS, 60_000, first=day * 10))
    live = history(10, START_MS + 3 * DAY_MS, 60_000, first=30)
    odd = decision(41, START_MS + 3 * DAY_MS + 700_000, "customer-1", degraded=("state_late",), holdout="random")
    other = msgspec.structs.replace(odd.request, placement="desk")
    moved = decision(42, START_MS + 3 * DAY_MS + 800_000, "customer-2", request=other)
    corrected = answer(decision(0, START_MS, "customer-0"), "complained", START_MS + 3 * DAY_MS, revision=1)
    live += [logged(odd, odd.at_ms), logged(moved, moved.at_ms), logged(corrected, corrected.at_ms, 7)]
    source = asyncio.run(readable(archive.directory, None, every_partition(PARTITIONS), Window(0, 1 << 50)))
    return LogQuery(source._replace(live=live), Window(0, 1 << 50), START_MS + 4 * DAY_MS)


def numbers(query: LogQuery, **criteria: object) -> list[int]:
    found = find(query, Criteria(**{**EVER, "limit": 1000, **criteria}), PARTITIONS)  # type: ignore[arg-type]
    return [int(each.decision_id[14:], 16) for each in found.decisions]


def test_decisions_are_found_by_what_they_were_like(query: LogQuery) -> None:
    everything = [42, 41, *range(COUNT - 1, -1, -1)]
    assert numbers(query) == everything
    assert numbers(query, customer="customer-3") == [23, 3]
    assert numbers(query, action="beta") == [n for n in everything if ACTIONS[n % 3] == "beta"]
    assert numbers(query, reason="limit_reached", action="delta", limit=3) == everything[:3]
    assert numbers(query, reason="limit_reached", action="alpha") == []
    assert numbers(query, degraded=True) == numbers(query, holdout="random") == numbers(query, holdout="any") == [41]
    assert numbers(query, holdout="silent") == []
    assert numbers(query, placement="desk") == [42]
    assert numbers(query, since_ms=START_MS + DAY_MS, until_ms=START_MS + DAY_MS + 60_001) == [11, 10]


def test_decisions_are_found_by_the_last_word_on_their_outcome(query: LogQuery) -> None:
    accepted = [n for n in range(COUNT - 1, -1, -1) if ANSWERS[n % 3] == "accepted"]
    assert numbers(query, outcome="accepted") == accepted[:-1], "the first was corrected since"
    assert numbers(query, outcome="complained", cause="timing") == [0]
    (first,) = find(query, Criteria(customer="customer-0", outcome="complained", **EVER), PARTITIONS).decisions
    assert (first.slots[0].action, first.slots[0].outcome, first.slots[0].cause) == ("alpha", "complained", "timing")


def test_the_newest_are_told_first_and_old_segments_stay_shut(query: LogQuery) -> None:
    found = find(query, Criteria(limit=2, since_ms=START_MS, until_ms=START_MS + 4 * DAY_MS), PARTITIONS)
    assert [each.decision_id[-2:] for each in found.decisions] == ["2a", "29"]
    assert found.truncated
    assert [d.slots[0].outcome for d in find(query, Criteria(limit=4, **EVER), PARTITIONS).decisions][2:] == [
        "accepted", "ignored"
    ]  # fmt: skip


def test_nothing_found_is_told_in_words(query: LogQuery) -> None:
    found = find(query, Criteria(customer="nobody", **EVER), PARTITIONS)
    assert found.decisions == []
    assert found.words == "no decision with customer nobody from 1 Jan 2026 UTC to 11 Jan 2026 UTC"


@pytest.mark.parametrize(
    "wrong",
    [{"outcome": "sold"}, {"cause": "bad"}, {"reason": "limit"}, {"holdout": "yes"}, {"customer": "a\n"}, {"limit": 0}],
)
def test_a_value_that_there_cannot_be_names_its_field(wrong: dict[str, object]) -> None:
    with pytest.raises(Invalid) as caught:
        Criteria(**wrong).checked()  # type: ignore[arg-type]
    assert caught.value.field == next(iter(wrong))
