"""Moving streams to the archive and trimming them, on a real Redis and real files."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from nbx.audit.chain import CHAIN, Chain, Damaged, file_hash
from nbx.audit.log_ids import ADMIN, JOURNAL
from nbx.errors import Conflict, SetupError
from nbx.features.keys import ADMIN_LOG, ARCHIVE_HEAD, ARCHIVE_SIGNER, LEASE_KEEPER
from nbx.limits import ADMIN_KEPT
from nbx.runtime.archiving import decode_head
from nbx.runtime.publishing import Overtaken
from tests.log_world import PARTITIONS, LogWorld, log_world
from tests.redis_server import RedisServer

DAY_MS = 86_400_000


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with RedisServer() as server:
        yield server.url


async def fill(world: LogWorld, rounds: int = 4) -> None:
    """Add rows to every stream."""
    for number in range(rounds):
        for partition in world.ever:
            for part in range(partition + 3):
                await world.add(partition, b"%d/%d/%d" % (number, partition, part))


async def everything(world: LogWorld) -> None:
    """See that archive and streams together hold each row once, and that a whole log reads it so."""
    archived = world.archived()
    whole = world.whole()
    for partition, ever in world.ever.items():
        live = await world.live(partition)
        kept = {entry.entry_id for entry in archived[partition]}
        assert archived[partition] + [entry for entry in live if entry.entry_id not in kept] == ever
        if partition >= 0:
            assert await whole.log_range(partition, "-", "+", 10_000) == ever


def test_every_row_is_archived_once_and_then_trimmed(redis_url: str, tmp_path: Path) -> None:
    async def run() -> None:
        async with log_world(redis_url, tmp_path / "archive", rows=7) as world:
            await fill(world)
            total = sum(map(len, world.ever.values()))
            assert await world.archiver.archive() == total
            assert await world.archiver.archive() == 0
            assert await world.trim() == {}, "nobody has a checkpoint"
            await world.learned()
            gone = await world.trim()
            assert gone == {p: len(rows) for p, rows in world.ever.items() if p != ADMIN}
            assert [len(await world.live(p)) for p in range(PARTITIONS)] == [0] * PARTITIONS
            await everything(world)
            await fill(world)
            await everything(world)
            assert await world.archiver.archive() == total
            await world.learned()
            await world.trim()
            await everything(world)
            chain = Chain.open(world.directory)
            assert all(record.rows <= 7 for record in chain.segments.values())
            assert all(file_hash(world.directory / record.file) == record.sha256 for record in chain.segments.values())
            head = decode_head(await world.execute("GET", ARCHIVE_HEAD))
            assert (head.hash, head.bytes) == (chain.hash, (world.directory / CHAIN).stat().st_size)

    asyncio.run(run())


def on_world(redis_url: str, directory: Path, work: Callable[[LogWorld], Awaitable[None]], rows: int = 1_000) -> None:
    """Run a test on an emptied Redis."""

    async def run() -> None:
        async with log_world(redis_url, directory, rows=rows) as world:
            await work(world)

    asyncio.run(run())


def test_a_segment_holds_rows_of_one_day(redis_url: str, tmp_path: Path) -> None:
    async def work(world: LogWorld) -> None:
        day = 20_000 * DAY_MS
        last_of_day, first_of_next = f"{day + DAY_MS - 1}-7", f"{day + DAY_MS}-0"
        await world.add(0, b"a", last_of_day)
        await world.add(0, b"b", first_of_next)
        await world.add(2, b"c", f"{day + 3 * DAY_MS}-1")
        await world.add(ADMIN, b"d", f"{day + 3 * DAY_MS}-0")
        await world.add(JOURNAL, b"e")
        assert await world.archiver.archive() == 5
        chain = Chain.open(world.directory)
        found = [
            (record.file, {p: span.count for p, span in record.spans.items()}) for record in chain.segments.values()
        ]
        assert found == [
            ("day=2024-10-04/00000001.parquet", {JOURNAL: 1, 0: 1}),
            ("day=2024-10-05/00000002.parquet", {0: 1}),
            ("day=2024-10-07/00000003.parquet", {ADMIN: 1, 2: 1}),
        ]
        await everything(world)

    on_world(redis_url, tmp_path, work)


def test_only_what_was_asked_for_is_archived(redis_url: str, tmp_path: Path) -> None:
    async def work(world: LogWorld) -> None:
        await fill(world, 2)
        until = world.ever[1][2].entry_id
        assert await world.archiver.archive({1: until}) == 3
        assert world.archived() == {p: rows[:3] if p == 1 else [] for p, rows in world.ever.items()}
        await world.learned()
        assert await world.trim() == {1: 3}
        await everything(world)

    on_world(redis_url, tmp_path, work)


def test_what_learner_or_time_still_need_stays(redis_url: str, tmp_path: Path) -> None:
    async def work(world: LogWorld) -> None:
        ids = [await world.add(0, b"%d" % number, f"{1_000 * number}-{number}") for number in range(1, 10)]
        await world.add(1, b"never learned", "5000-0")
        await world.archiver.archive()
        await world.learned(p0=ids[4], p1="1-0")
        assert await world.trim(now_ms=4_004) == {0: 4}, "later than log_keep_s ago"
        assert await world.trim(now_ms=2_000) == {}
        assert await world.trim() == {0: 1}, "beyond the checkpoint"
        assert [entry.entry_id for entry in await world.live(0)] == ids[5:]
        await world.learned(p0=ids[8])
        await world.add(0, b"more")
        await world.learned()
        assert await world.trim() == {0: 4, 1: 1}, "not archived"
        await everything(world)

    on_world(redis_url, tmp_path, work)


def test_the_latest_of_the_admin_trail_stay(redis_url: str, tmp_path: Path) -> None:
    async def work(world: LogWorld) -> None:
        many = "for i = 1, ARGV[1] do redis.call('XADD', KEYS[1], i .. '-0', 'e', '{}') end"
        await world.execute("EVAL", many, 1, ADMIN_LOG, ADMIN_KEPT + ADMIN_KEPT // 10 + 1)
        await world.learned()
        assert await world.trim() == {}
        await world.archiver.archive({ADMIN: "700-0"})
        assert await world.trim() == {ADMIN: 700}
        await world.add(ADMIN, b"{}")
        await world.archiver.archive()
        await world.trim()
        assert await world.execute("XLEN", ADMIN_LOG) == ADMIN_KEPT + 302

    on_world(redis_url, tmp_path, work, rows=100_000)


def test_one_writer_at_a_time(redis_url: str, tmp_path: Path) -> None:
    async def work(world: LogWorld) -> None:
        await fill(world, 1)
        other = world.new_archiver()
        await other.open()
        with pytest.raises(Conflict, match="another process writes the archive"):
            await world.archiver.archive()
        other.close()
        await world.archiver.archive()

    on_world(redis_url, tmp_path, work)


def test_an_overtaken_keeper_tells_nothing_more(redis_url: str, tmp_path: Path) -> None:
    async def work(world: LogWorld) -> None:
        await fill(world, 1)
        await world.archiver.open()
        known = await world.execute("GET", ARCHIVE_HEAD)
        await world.execute("SET", LEASE_KEEPER, "another:9")
        with pytest.raises(Overtaken):
            await world.archiver.archive()
        assert await world.execute("GET", ARCHIVE_HEAD) == known
        world.archiver.close()
        await world.execute("DEL", LEASE_KEEPER)
        await world.lease.acquire()
        await world.archiver.archive()
        await everything(world)

    on_world(redis_url, tmp_path, work)


def cut(directory: Path) -> None:
    """Take the last record away."""
    lines = (directory / CHAIN).read_bytes().splitlines(keepends=True)
    (directory / CHAIN).write_bytes(b"".join(lines[:-1]))


def replaced(directory: Path) -> None:
    """Put another archive in its place, as long as this one."""
    size = (directory / CHAIN).stat().st_size
    (directory / CHAIN).write_bytes(b"x" * (size - 1) + b"\n")


@pytest.mark.parametrize("harm", [cut, replaced, shutil.rmtree])
def test_an_archive_that_lost_something_is_not_gone_on_with(
    redis_url: str, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    async def work(world: LogWorld) -> None:
        await fill(world, 1)
        await world.archiver.archive()
        world.archiver.close()
        whole = tmp_path / "copy"
        shutil.copytree(world.directory, whole)
        harm(world.directory)
        await fill(world, 1)
        with pytest.raises((Damaged, FileNotFoundError)) as caught:
            await world.archiver.archive()
        assert "restore" in str(caught.value) or isinstance(caught.value, FileNotFoundError)
        world.archiver.close()
        shutil.rmtree(world.directory, ignore_errors=True)
        shutil.copytree(whole, world.directory)
        await world.archiver.archive()
        await everything(world)

    on_world(redis_url, tmp_path / "archive", work)


def test_a_chain_that_changes_underneath_is_not_written_to(redis_url: str, tmp_path: Path) -> None:
    async def work(world: LogWorld) -> None:
        await fill(world, 1)
        await world.archiver.archive()
        cut(world.directory)
        await fill(world, 1)
        with pytest.raises(Damaged):
            await world.archiver.archive()

    on_world(redis_url, tmp_path, work)


def test_another_installations_archive_is_left_alone(redis_url: str, tmp_path: Path) -> None:
    async def work(world: LogWorld) -> None:
        await fill(world, 1)
        await world.archiver.archive()
        world.archiver.close()
        await world.execute("DEL", ARCHIVE_HEAD, ARCHIVE_SIGNER)
        with pytest.raises(SetupError, match="another installation"):
            await world.archiver.archive()

    on_world(redis_url, tmp_path, work)


def test_a_chain_ahead_of_what_redis_knows_is_a_crash_that_came_between(redis_url: str, tmp_path: Path) -> None:
    async def work(world: LogWorld) -> None:
        await fill(world, 1)
        await world.archiver.archive()
        known = await world.execute("GET", ARCHIVE_HEAD)
        await fill(world, 1)
        await world.archiver.archive()
        world.archiver.close()
        await world.execute("SET", ARCHIVE_HEAD, known)
        (world.directory / "day=2000-01-01").mkdir()
        (world.directory / "day=2000-01-01/00000003.tmp").write_bytes(b"part")
        await fill(world, 1)
        await world.archiver.archive()
        await everything(world)
        assert list(world.directory.glob("day=*/*.tmp")) == []

    on_world(redis_url, tmp_path, work)


def test_the_chain_is_checked_without_nbx_as_the_page_says(redis_url: str, tmp_path: Path) -> None:
    async def work(world: LogWorld) -> None:
        await fill(world)
        await world.archiver.archive()

    on_world(redis_url, tmp_path, work, rows=7)
    page = (Path(__file__).parents[3] / "docs" / "archive.md").read_text()
    command = next(line for line in page.splitlines() if "chain.jsonl | while" in line).strip("` ;")
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True)
    hashes = [line.split()[0] for line in done.stdout.splitlines()]
    records = [msgspec.json.decode(line) for line in (tmp_path / CHAIN).read_bytes().splitlines()]
    assert hashes == [record["hash"] for record in records]
    assert [record["prev"] for record in records] == ["0" * 64, *hashes[:-1]]
    for record in records[1:]:
        told = subprocess.run(["sha256sum", record["file"]], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert told.stdout.split() == [record["sha256"], record["file"]]
