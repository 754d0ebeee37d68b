"""Deep replay of a world that lived on a real Redis: the same bits, and whatever is altered is noticed and named."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec import structs
from redis import Redis

from nbx.audit.journal import Step
from nbx.audit.reading import Window
from nbx.bandits.learner import LearnedSites
from nbx.bandits.snapshot import encode
from nbx.build import Build, current_build
from nbx.decision.replayed import Replay
from nbx.decision.serving import Serving
from nbx.errors import TooLarge
from nbx.experience.entries import DecisionEntry, Entry, EventEntry, ProfileEntry
from nbx.features.keys import MODEL_CHECKPOINT, MODEL_SNAPSHOT, partition_keys, release_key
from nbx.features.store import LogEntry
from nbx.limits import ERASED_SITES_MS
from nbx.runtime.journal import RedisJournal
from nbx.runtime.learner_process import LogLearner
from nbx.runtime.replaying import draw
from nbx.runtime.sites import MemorySites, Place, RedisSites
from tests.redis_server import RedisServer
from tests.unit.runtime.replay_world import (
    ALIAS,
    CUSTOMERS,
    GONE,
    Lived,
    Question,
    changing,
    decisions,
    make,
    opened,
    replays,
    verdicts,
)
from tests.worlds import PARTITIONS

Found = list[tuple[DecisionEntry, Replay]]


@pytest.fixture(scope="module")
def lived() -> Iterator[Lived]:
    with RedisServer() as server:
        yield asyncio.run(make(server.url))


@pytest.fixture(scope="module")
def untouched(lived: Lived) -> Found:
    return asyncio.run(replays(lived))


def ask(lived: Lived, **question: Any) -> Found:
    return asyncio.run(replays(lived, Question(**question)))


def of(found: Found, decision_id: str) -> Replay:
    (replayed,) = [each for entry, each in found if entry.decision_id == decision_id]
    return replayed


def drawn_from(found: Found, **wanted: Any) -> DecisionEntry:
    """Return a decision that chose an action among several, late enough to rest on model and state."""
    for entry, _ in found[::-1]:
        said = {name: getattr(entry, name) for name in wanted}
        if entry.snapshot > 2 and len(entry.actions) > 1 and entry.slots[0].action and said == wanted:
            return entry
    raise AssertionError(f"no such decision: {wanted}")


def test_every_decision_comes_out_again_to_the_bit(untouched: Found) -> None:
    assert [each for _, each in untouched if not each.same] == []
    assert all(each.deep and each.notes == () for _, each in untouched)


@pytest.mark.nightly
def test_every_decision_of_a_longer_life_comes_out_again_to_the_bit() -> None:
    with RedisServer() as server:
        found = asyncio.run(replays(asyncio.run(make(server.url, rounds=60))))
    assert [each for _, each in found if not each.same] == []
    assert len(found) > 1_000
    assert len({entry.cluster for entry, _ in found}) > 1, "customers are told apart by then"


def test_the_world_has_in_it_what_is_hard(untouched: Found) -> None:
    """Else the test above would prove less than it says."""
    entries = [entry for entry, _ in untouched]
    assert {entry.release for entry in entries} == {1, 2}
    assert {entry.snapshot for entry in entries} >= {0, 1, 2, 4, 5, 6, 7, 8}
    assert {entry.holdout for entry in entries} == {"", "silent", "random"}
    assert {bool(entry.degraded) for entry in entries} == {True, False}
    assert any(entry.mandatory for entry in entries)
    assert any(not entry.actions and not entry.degraded for entry in entries), "nothing was left"
    assert any(not entry.personalised for entry in entries)
    assert any(entry.shared for entry in entries)
    assert any(entry.spent for entry in entries)
    assert {entry.stakes for entry in entries} == {0.0, 0.5}
    assert len({entry.customer_id for entry in entries} & {GONE, ALIAS, CUSTOMERS[2]}) == 3
    reasons = {removed.reason for entry in entries for removed in entry.removed}
    assert {"budget_spent", "limit_reached", "paused", "excluded", "needs_personalise", "holdout"} <= reasons


def test_a_published_snapshot_is_had_again_byte_for_byte(lived: Lived) -> None:
    """The live learner was killed on the way and took up an old checkpoint; this one only sees log and journal."""

    async def check() -> dict[int, bytes]:
        async with opened(lived.url) as (connection, store):
            learner = LogLearner(store, Serving(store), PARTITIONS, MemorySites(), lambda _: None)
            found = {}
            async for step in RedisJournal(connection).steps(0, 10**6):
                assert step.build == current_build().fingerprint
                await learner.take_step(step.offsets)
                found[step.step] = encode(learner.snapshot())
            return found

    found = asyncio.run(check())
    assert {version: found[version] for version in lived.published} == lived.published
    assert len(set(lived.published.values())) == len(lived.published) > 5


def test_a_replay_leaves_no_trace(lived: Lived) -> None:
    with Redis.from_url(lived.url) as redis:

        def dump() -> dict[bytes, Any]:
            return {key: (redis.dump(key), redis.pexpiretime(key)) for key in redis.scan_iter()}

        before = dump()
        assert len(ask(lived)) > 100
        assert dump() == before
        assert redis.exists(MODEL_SNAPSHOT)
        assert not redis.exists(MODEL_CHECKPOINT)


def _other_propensity(entry: DecisionEntry) -> dict[str, Any]:
    slot = structs.replace(entry.slots[0], propensity=entry.slots[0].propensity / 2)
    return {"slots": (slot, *entry.slots[1:])}


def _other_action(entry: DecisionEntry) -> dict[str, Any]:
    other = next(action for action in entry.actions if action != entry.slots[0].action)
    return {"slots": (structs.replace(entry.slots[0], action=other), *entry.slots[1:])}


def _other_x(entry: DecisionEntry) -> dict[str, Any]:
    x = np.frombuffer(entry.x, np.float32).copy()
    x[-1] += np.float32(0.25)
    return {"x": x.tobytes()}


def _other_factor(entry: DecisionEntry) -> dict[str, Any]:
    table = np.frombuffer(entry.factors, np.float32).copy()
    table[0] += np.float32(1.0)
    return {"factors": table.tobytes()}


ALTERATIONS: dict[str, tuple[Callable[[DecisionEntry], dict[str, Any]], str]] = {
    "propensity": (_other_propensity, "slots[0].propensity"),
    "action": (_other_action, "slots[0].action"),
    "x": (_other_x, "x["),
    "factors": (_other_factor, "candidates["),
    "learns": (lambda entry: {"learns": not entry.learns}, "learns"),
    "removed": (lambda entry: {"removed": entry.removed[1:]}, "removed"),
    "relationship": (lambda entry: {"relationship": {**entry.relationship, "balance": 7.5}}, "relationship.balance"),
    "state_version": (lambda entry: {"state_version": entry.state_version + 40}, "state_version"),
    "spent": (lambda entry: {"spent": tuple(structs.replace(s, amount=9) for s in entry.spent)}, "spent[0].amount"),
    "build": (lambda _: {"build": "0123456789abcdef", "learns": False}, "learns"),
    "no build": (lambda _: {"build": "", "learns": False}, "learns"),
}


@pytest.mark.parametrize("name", ALTERATIONS)
def test_an_altered_record_is_told_and_nothing_else_is(lived: Lived, untouched: Found, name: str) -> None:
    alter, what = ALTERATIONS[name]
    entry = next(
        entry
        for entry, _ in untouched[::-1]
        if entry.snapshot and len(entry.actions) > 1 and entry.slots[0].action and entry.removed and entry.learns
        and (entry.spent or name != "spent")
    )  # fmt: skip
    found = ask(lived, entry=changing(entry.decision_id, **alter(entry)))
    replayed = of(found, entry.decision_id)
    assert any(each.what.startswith(what) for each in replayed.differences), replayed
    assert {each.verdict for each in replayed.differences} == {"record_altered"}
    others = [each for each, replayed in found if not replayed.same and each.decision_id != entry.decision_id]
    assert {each.customer_id for each in others} <= ({entry.customer_id} if name == "action" else set())
    assert all(each.at_ms >= entry.at_ms for each in others), "what came later rests on it too"


def test_a_digest_that_no_other_record_tells_is_the_records_fault(lived: Lived, untouched: Found) -> None:
    entry = drawn_from(untouched, release=2)
    found = ask(lived, entry=changing(entry.decision_id, release_digest="0" * 16))
    assert [each.decision_id for _, each in found if not each.same] == [entry.decision_id]
    assert verdicts(found) == {"record_altered"}


def test_an_altered_log_entry_is_told(lived: Lived, untouched: Found) -> None:
    """A profile value that never was changes the customer, an answer that never was changes the model for everybody."""

    def older(_: LogEntry, entry: Entry) -> Entry:
        return structs.replace(entry, changes={"age": 99.0}) if isinstance(entry, ProfileEntry) else entry

    aged = ask(lived, entry=older)
    assert verdicts(aged) <= {"log_altered", "record_altered"}
    told = [each for entry, each in aged if not each.same and entry.actions]
    assert len(told) > 5
    assert Counter(d.verdict for each in told for d in each.differences).most_common(1)[0][0] == "log_altered"
    assert all(each.same for entry, each in aged if not entry.snapshot and not entry.state_version)

    turned = 0

    def turn(_: LogEntry, entry: Entry) -> Entry:
        nonlocal turned
        if isinstance(entry, EventEntry) and entry.outcomes and entry.outcomes[0].response == 1:
            turned += 1
            other = structs.replace(entry.outcomes[0], response=0)
            return structs.replace(entry, outcomes=(other, *entry.outcomes[1:]))
        return entry

    refused = ask(lived, entry=turn)
    assert turned
    assert verdicts(refused) == {"log_altered"}
    assert sum(not each.same for _, each in refused) > 20
    assert all(each.same for entry, each in refused if entry.snapshot == 0)


def test_a_log_entry_that_was_taken_out_is_told(lived: Lived) -> None:
    def without(_: LogEntry, entry: Entry) -> Entry | None:
        return None if isinstance(entry, ProfileEntry) else entry

    found = ask(lived, entry=without)
    words = {each.why for _, replayed in found for each in replayed.differences if each.verdict == "log_incomplete"}
    assert any("commits lay behind the customer's state" in why for why in words)


def order_of(row: LogEntry) -> tuple[int, ...]:
    return (*map(int, row.entry_id.split("-")), row.partition)


async def ids_of(lived: Lived) -> list[tuple[int, ...]]:
    async with opened(lived.url) as (_, store):
        return sorted(order_of(row) for row in (await draw(store, PARTITIONS, Window(0, 4 * 10**12), 0, 0)).rows)


def test_a_log_that_was_trimmed_is_told(lived: Lived) -> None:
    begins = asyncio.run(ids_of(lived))
    middle = begins[len(begins) // 2]

    def trimmed(row: LogEntry, entry: Entry) -> Entry | None:
        return entry if order_of(row) >= middle else None

    found = ask(lived, entry=trimmed)
    assert len(found) == len(begins) - len(begins) // 2
    told = [(entry, each) for entry, each in found if entry.snapshot]
    assert told
    assert verdicts(told) == {"log_incomplete"}
    assert all(each.differences[0].what == "model" for _, each in told)
    assert "that one is not in the log any more" in told[0][1].differences[0].why


JOURNALS: dict[str, tuple[Callable[[Step], Step | None], str, str]] = {
    "begins late": (lambda s: s if s.step > 2 else None, "log_incomplete", "the journal begins at step 3"),
    "has a hole": (lambda s: s if s.step != 2 else None, "log_incomplete", "the journal ends at step 1"),
    "ends early": (lambda s: s if s.step < 3 else None, "log_incomplete", "the journal ends at step 2"),
    "bounds moved": (
        lambda s: s._replace(offsets=dict(list(s.offsets.items())[:-1])) if s.step == 2 else s,
        "log_altered",
        "log and journal lead elsewhere",
    ),
}


@pytest.mark.parametrize("name", JOURNALS)
def test_an_altered_journal_is_told(lived: Lived, name: str) -> None:
    step, verdict, words = JOURNALS[name]
    found = ask(lived, step=step)
    assert verdicts(found) == {verdict}
    different = [(entry, each) for entry, each in found if not each.same]
    assert all(words in each.differences[0].why for _, each in different)
    assert all(entry.snapshot >= 2 or name == "begins late" for entry, _ in different)
    assert all(each.same for entry, each in found if entry.snapshot == 0 or entry.degraded)


def test_another_build_is_told_and_is_the_reason_of_what_differs(lived: Lived, untouched: Found) -> None:
    now = current_build()
    entry = drawn_from(untouched)
    others: dict[str, Build] = {
        "code_changed": structs.replace(now, code="another"),
        "library_changed": structs.replace(now, libraries={**now.libraries, "numpy": "9.9"}),
    }
    for verdict, build in others.items():
        found = ask(lived, build=build, only=lambda each: each.decision_id == entry.decision_id)
        assert [each.same for _, each in found] == [True], "the same bits are the same, whoever computes them"
        (note,) = found[0][1].notes
        assert ("→ another" in note or f"({now.code}) → {now.version} (another)" in note) == (verdict == "code_changed")
        assert ("numpy" in note) == (verdict == "library_changed")
        altered = changing(entry.decision_id, **_other_propensity(entry))
        found = ask(lived, build=build, entry=altered, only=lambda each: each.decision_id == entry.decision_id)
        assert verdicts(found) == {verdict}


def test_another_release_is_told(lived: Lived) -> None:
    with Redis.from_url(lived.url) as redis:
        stored = redis.get(release_key(1))
        assert isinstance(stored, bytes)
        try:
            release = msgspec.json.decode(stored)
            release["catalog"]["actions"][1]["value"] = 999.0
            redis.set(release_key(1), msgspec.json.encode(release))
            found = ask(lived)
            redis.delete(release_key(1))
            gone = ask(lived)
        finally:
            redis.set(release_key(1), stored)
    for each in (found, gone):
        assert verdicts(each) == {"release_changed"}
        assert all(not replayed.same for entry, replayed in each if entry.release == 1)
    assert any(d.what.endswith(".value") for _, replayed in found for d in replayed.differences)
    assert {d.recomputed for e, r in gone if e.release == 1 for d in r.differences} == {"cannot be read"}


def test_a_bound_on_what_is_read_is_kept(lived: Lived) -> None:
    with pytest.raises(TooLarge, match="more than 20 log entries") as told:
        ask(lived, most=20)
    assert told.value.code == "replay_too_long"


def test_a_sample_is_drawn_fairly_and_repeats(lived: Lived, untouched: Found) -> None:
    async def drawn(**how: Any) -> tuple[int, list[str]]:
        async with opened(lived.url) as (_, store):
            found = await draw(store, PARTITIONS, how.get("span", Window(0, 4 * 10**12)), how["sample"], how["seed"])
            return found.found, [f"{row.partition}/{row.entry_id}" for row in found.rows]

    whole, all_ids = asyncio.run(drawn(sample=0, seed=0))
    assert whole == len(all_ids) == len(untouched)
    times: Counter[str] = Counter()
    for seed in range(60):
        found, ids = asyncio.run(drawn(sample=10, seed=seed))
        assert (found, len(set(ids))) == (whole, 10)
        times.update(ids)
    expected = 60 * 10 / whole
    assert max(times.values()) < expected + 5 * expected**0.5
    assert len(times) > 0.8 * whole
    assert asyncio.run(drawn(sample=10, seed=3)) == asyncio.run(drawn(sample=10, seed=3))
    entries = asyncio.run(decisions(lived))
    later = entries[len(entries) // 2].at_ms
    found, _ = asyncio.run(drawn(sample=0, seed=0, span=Window(later, 4 * 10**12)))
    assert found == sum(entry.at_ms >= later for entry in entries)


@pytest.mark.parametrize("erased", [False, True])
def test_sites_in_memory_end_when_those_in_redis_would(erased: bool) -> None:
    """The log's time decides: nobody knows when the learner came round."""
    learned = LearnedSites(key="d", revision=0, response=None, experience=None, value=2.5)
    place = Place("00" + "1" * 24, 0, 0)

    async def check() -> None:
        memory = MemorySites()
        await memory.write({place: learned}, {place: 1_000})
        memory.now_ms = 999
        assert await memory.read([place, place._replace(revision=1)], erased=erased) == [learned, None]
        memory.now_ms = 1_000
        assert await memory.read([place]) == [learned if erased else None]
        memory.now_ms = 999 + ERASED_SITES_MS
        assert await memory.read([place]) == [None]
        await memory.write({place._replace(revision=1): learned}, {place._replace(revision=1): 5})
        assert await memory.read([place]) == [None], "what ended does not come back with what is written later"

    asyncio.run(check())


def test_sites_in_redis_get_another_end_when_they_are_subtracted() -> None:
    learned = LearnedSites(key="d", revision=0, response=None, experience=None, value=2.5)
    place = Place("00" + "1" * 24, 0, 0)

    async def check() -> None:
        with RedisServer() as server:
            async with opened(server.url) as (connection, _):
                sites = RedisSites(connection)
                await sites.write({place: learned}, {place: 1_000_000})
                key = partition_keys(1).sites(place.decision_id)
                assert await sites.read([place, place._replace(slot=1)]) == [learned, None]
                assert 0 < await connection.execute("PTTL", key, timeout_ms=1000) <= 1_000_000
                await sites.read([place], erased=True)
                assert await connection.execute("PTTL", key, timeout_ms=1000) > 1_000_000

    asyncio.run(check())
