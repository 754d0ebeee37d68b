"""What was trimmed and what was not read as one log: whatever is asked for, and whatever moves between two reads."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbx.audit.chain import Chain
from nbx.audit.whole_log import WholeLog
from nbx.errors import Unsupported
from nbx.features.store import LogEntry
from nbx.features.store_redis import RedisStore
from tests.log_world import PARTITIONS, LogWorld, log_world
from tests.redis_server import RedisServer

CACHE_BYTES = 900
"""A few slices: what is asked for again has often been dropped meanwhile."""


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with RedisServer() as server:
        yield server.url


@pytest.fixture(scope="module", autouse=True)
def small_pieces() -> Iterator[None]:
    """Make slices and row groups so small that a few rows cross them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nbx.audit.archived.SLICE", 3)
        patch.setattr("nbx.audit.segments.ROW_GROUP", 5)
        patch.setattr("nbx.runtime.archiving.ROW_GROUP", 5)
        yield


class Moving(RedisStore):
    """A store under which something happens after every answer."""

    def __init__(self, world: LogWorld, happens: Sequence[Callable[[], Awaitable[Any]]]) -> None:
        super().__init__(world.connection)
        self._happens = list(happens)

    async def read(self, keys: Sequence[str], timeout_ms: float) -> list[bytes | None]:
        found = await super().read(keys, timeout_ms)
        await self._go_on()
        return found

    async def log_range(self, partition: int, start: str, end: str, count: int) -> list[LogEntry]:
        found = await super().log_range(partition, start, end, count)
        await self._go_on()
        return found

    async def log_tail(self, partition: int, count: int) -> list[LogEntry]:
        found = await super().log_tail(partition, count)
        await self._go_on()
        return found

    async def _go_on(self) -> None:
        if self._happens:
            await self._happens.pop(0)()


async def act(world: LogWorld, what: tuple[str, int, int]) -> None:
    """Let something happen: rows come, all or some are archived, all or some are trimmed."""
    name, partition, number = what
    ever = world.ever[partition]
    match name:
        case "add":
            for count in range(number):
                ms, sequence = map(int, ever[-1].entry_id.split("-")) if ever else (0, 0)
                await world.add(partition, b"row %d" % count, f"{ms + number % 2}-{sequence + 1}")
        case "archive":
            await world.archiver.archive()
        case "archive some" if ever:
            await world.archiver.archive({partition: ever[min(number, len(ever) - 1)].entry_id})
        case "move" if ever:
            await world.archiver.archive()
            await world.learned(**{f"p{partition}": ever[min(number, len(ever) - 1)].entry_id})
            await world.trim()
        case "trim":
            await world.learned()
            await world.trim()
        case "trim some" if ever:
            await world.learned(**{f"p{partition}": ever[min(number, len(ever) - 1)].entry_id})
            await world.trim()
        case _:
            pass


def asked(ever: list[LogEntry], start: str, end: str, count: int) -> list[LogEntry]:
    """Answer a range from a plain list."""

    def place(text: str, otherwise: int) -> tuple[int, int]:
        ms, _, sequence = text.lstrip("(").partition("-")
        return int(ms), int(sequence) if sequence else otherwise

    found = []
    for entry in ever:
        at = place(entry.entry_id, 0)
        if start != "-" and (at < place(start, 0) or (start[0] == "(" and at == place(start, 0))):
            continue
        if end != "+" and (at > place(end, 2**62) or (end[0] == "(" and at == place(end, 2**62))):
            continue
        found.append(entry)
    return found[:count]


partitions = st.integers(0, PARTITIONS - 1)
acts = st.tuples(
    st.sampled_from(["add", "add", "move", "move", "archive", "archive some", "trim", "trim some"]),
    partitions,
    st.integers(0, 9),
)
whole_ids = st.tuples(st.integers(0, 12), st.integers(0, 40)).map(lambda at: f"{at[0]}-{at[1]}")
ends = st.one_of(whole_ids, whole_ids.map("({}".format), st.integers(0, 12).map(str))
ranges = st.tuples(
    partitions, st.one_of(st.just("-"), ends), st.one_of(st.just("+"), ends), st.sampled_from([0, 1, 4, 7, 1_000])
)


@settings(max_examples=25, deadline=None)
@given(before=st.lists(acts, max_size=12), asks=st.lists(ranges, min_size=1, max_size=8))
def test_any_range_is_that_of_a_log_that_was_never_trimmed(
    redis_url: str, before: list[tuple[str, int, int]], asks: list[tuple[int, str, str, int]]
) -> None:
    async def run() -> None:
        with tempfile.TemporaryDirectory() as directory:
            async with log_world(redis_url, Path(directory), rows=8) as world:
                for each in before:
                    await act(world, each)
                known = WholeLog(world.store, world.directory, CACHE_BYTES)
                for partition, start, end, count in asks:
                    ever = world.ever[partition]
                    for whole in (known, world.whole()):
                        assert await whole.log_range(partition, start, end, count) == asked(ever, start, end, count)
                        assert await whole.log_tail(partition, count) == ever[::-1][:count]

    asyncio.run(run())


@settings(max_examples=25, deadline=None)
@given(
    before=st.lists(acts, max_size=8),
    meanwhile=st.lists(acts, max_size=6),
    partition=partitions,
    count=st.sampled_from([3, 1_000]),
    known=st.booleans(),
)
def test_what_is_moved_between_two_reads_is_neither_missing_nor_doubled(
    redis_url: str,
    before: list[tuple[str, int, int]],
    meanwhile: list[tuple[str, int, int]],
    partition: int,
    count: int,
    known: bool,
) -> None:
    async def run() -> None:
        with tempfile.TemporaryDirectory() as directory:
            async with log_world(redis_url, Path(directory), rows=8) as world:
                for each in [("add", partition, 5), *before]:
                    await act(world, each)
                there = list(world.ever[partition])
                moving = Moving(world, [])
                whole = WholeLog(moving, world.directory, CACHE_BYTES)
                if known:
                    await whole.log_range(partition, "-", "+", 1)
                moving._happens += [partial(act, world, each) for each in meanwhile]
                found: list[LogEntry] = []
                cursor = "-"
                while page := await whole.log_range(partition, cursor, "+", count):
                    found += page
                    cursor = f"({page[-1].entry_id}"
                assert found[: len(there)] == there
                assert found == world.ever[partition][: len(found)]
                moving._happens += [partial(act, world, each) for each in meanwhile]
                at_first = len(world.ever[partition])
                tail = await whole.log_tail(partition, 1_000)
                assert tail[::-1][:at_first] == world.ever[partition][:at_first]
                assert tail[::-1] == world.ever[partition][: len(tail)]

    asyncio.run(run())


def harmed(world: LogWorld, how: str) -> None:
    """Do something to the archive's first segment."""
    record = next(iter(Chain.open(world.directory).segments.values()))
    path = world.directory / record.file
    if how == "gone":
        path.unlink()
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif how == "another":
        later = Chain.open(world.directory).segments[2]
        path.write_bytes((world.directory / later.file).read_bytes())


@pytest.mark.parametrize("how", ["gone", "cut", "another"])
def test_a_harmed_segment_is_told_to_who_needs_it_and_to_nobody_else(redis_url: str, tmp_path: Path, how: str) -> None:
    async def run() -> None:
        async with log_world(redis_url, tmp_path) as world:
            for name, number in (("add", 9), ("archive", 0), ("add", 4), ("archive", 0), ("trim", 0), ("add", 3)):
                await act(world, (name, 0, number))
            harmed(world, how)
            whole, ever = world.whole(), world.ever[0]
            with pytest.raises(Unsupported, match="restore it from a copy") as caught:
                await whole.log_range(0, "-", "+", 1)
            assert caught.value.code == "segment_damaged"
            assert await whole.log_range(0, ever[10].entry_id, "+", 100) == ever[10:]
            assert await whole.log_tail(0, 7) == ever[:-8:-1]

    asyncio.run(run())


def test_an_archive_that_does_not_have_what_was_trimmed_is_told(redis_url: str, tmp_path: Path) -> None:
    async def run() -> None:
        async with log_world(redis_url, tmp_path / "archive") as world:
            for what in (("add", 0, 9), ("archive", 0, 0), ("trim", 0, 0)):
                await act(world, what)
            await world.add(0, b"live")
            for directory in (None, tmp_path / "elsewhere"):
                whole = WholeLog(world.store, directory)
                with pytest.raises(Unsupported, match="NBX_ARCHIVE_DIR") as caught:
                    await whole.log_range(0, "-", "+", 1)
                assert caught.value.code == "archive_missing"
                assert await whole.log_tail(0, 1) == [world.ever[0][-1]]

    asyncio.run(run())
