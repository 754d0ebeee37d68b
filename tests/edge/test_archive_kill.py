"""SIGKILL at every line of archiving and trimming: each row is archived once, and nothing is trimmed that is not."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from nbx.audit.chain import CHAIN, Chain, file_hash
from nbx.audit.log_ids import after, parsed
from tests.log_world import PARTITIONS, LogWorld, log_world
from tests.redis_server import RedisServer
from tests.service import ROOT

ANEW = 12
"""Kills after which archive and streams begin anew: what there is, is compared after each."""
DAY_MS = 86_400_000


class Line(NamedTuple):
    """A line of code that archiving passes, and how often."""

    file: str
    function: str
    number: int
    times: int


class Victim:
    """The process whose children are killed."""

    def __init__(self, url: str, directory: Path, partitions: int = PARTITIONS) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.archive_victim", url, str(directory), str(partitions)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def ask(self, command: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def lines(self) -> list[Line]:
        """Archive to the end; returns the lines passed."""
        said, *passed = self.ask("-").split()
        assert said == "done"
        told = (each.split(":") for each in passed)
        return [Line(file, function, int(number), int(times)) for file, function, number, times in told]

    def kill_at(self, line: Line, times: int) -> None:
        assert self.ask(f"{line.file} {line.number} {times}") == "killed", line

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with RedisServer() as server:
        yield server.url


@contextlib.contextmanager
def victim_of(url: str, directory: Path) -> Iterator[Victim]:
    victim = Victim(url, directory)
    try:
        yield victim
    finally:
        victim.close()


async def more(world: LogWorld) -> None:
    """Add rows of two days, so that there are two segments to write; the learner has taken in all of it."""
    for _ in range(2):
        at_ms = (20_000 + len(world.ever[0]) // 2) * DAY_MS
        for partition in world.ever:
            for part in range(2):
                await world.add(partition, b"{} %d" % part, f"{at_ms}-{part}")
    await world.learned()


async def compare(world: LogWorld) -> None:
    """See that each row is in the archive once or in its stream, and that whatever was trimmed is archived."""
    if not world.directory.exists():
        return
    archived = world.archived()
    last = Chain.open(world.directory).last_ids()
    for partition, ever in world.ever.items():
        beyond = after(parsed(last[partition])) if partition in last else (0, 0)
        live = await world.live(partition)
        assert archived[partition] + [entry for entry in live if parsed(entry.entry_id) >= beyond] == ever


async def storm(world: LogWorld, victim: Victim, kills: list[tuple[Line, int]]) -> None:
    """Kill the archiver over and over, with new rows each time."""
    for number, (line, times) in enumerate(kills):
        if number % ANEW == 0:
            await world.execute("FLUSHALL")
            shutil.rmtree(world.directory, ignore_errors=True)
            world.ever = {partition: [] for partition in world.ever}
            await more(world)
            victim.lines()
        await more(world)
        victim.kill_at(line, times)
        await compare(world)
    victim.lines()
    await compare(world)
    assert [len(await world.live(p)) for p in range(PARTITIONS)] == [0] * PARTITIONS, "what was left is trimmed"
    chain = Chain.open(world.directory)
    named = {record.file for record in chain.segments.values()}
    there = {str(path.relative_to(world.directory)) for path in world.directory.glob("day=*/*")}
    assert there == named, "what a crash left is gone"
    assert all(file_hash(world.directory / record.file) == record.sha256 for record in chain.segments.values())


def run_storm(redis_url: str, directory: Path, functions: set[str] | None) -> None:
    """Kill at every fourth line of some functions when it is last reached, or at every line, also when it is first."""

    async def run() -> None:
        async with log_world(redis_url, directory) as world:
            with victim_of(redis_url, directory) as victim:
                await more(world)
                victim.lines()
                await more(world)
                lines = victim.lines()
                if functions is not None:
                    await storm(
                        world, victim, [(line, line.times) for line in lines if line.function in functions][::4]
                    )
                else:
                    await storm(world, victim, [(line, times) for line in lines for times in sorted({1, line.times})])

    asyncio.run(run())


def test_a_kill_loses_no_row_and_doubles_none(redis_url: str, tmp_path: Path) -> None:
    run_storm(redis_url, tmp_path / "archive", {"_segment", "append", "_write", "tell_head", "_log", "trim_to"})


def test_a_full_disk_loses_no_row_and_doubles_none(redis_url: str, tmp_path: Path) -> None:
    async def run() -> None:
        async with log_world(redis_url, tmp_path / "archive") as world:
            with victim_of(redis_url, world.directory) as victim:
                await more(world)
                victim.lines()
                size = (world.directory / CHAIN).stat().st_size
                for most in (0, 1_000, size + 10, size + 600):
                    await more(world)
                    assert "OSError" in victim.ask(f"full {most}"), most
                    await compare(world)
                victim.lines()
                await compare(world)
                assert [len(await world.live(p)) for p in range(PARTITIONS)] == [0] * PARTITIONS

    asyncio.run(run())


@pytest.mark.nightly
@pytest.mark.timeout(1_200)
def test_a_kill_at_any_line_loses_no_row_and_doubles_none(redis_url: str, tmp_path: Path) -> None:
    run_storm(redis_url, tmp_path / "archive", None)
