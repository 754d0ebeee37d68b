"""`nbx decisions replay`: reads Redis itself, in a process of its own, so that serving is not slowed.

Of a span of time a sample is drawn first, by reading the span alone; then the log is read once from its beginning.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

import numpy as np
from msgspec import structs
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from nbx.audit.history import AFTER_MS, BEFORE_MS, locate_decision
from nbx.audit.journal import Journal
from nbx.audit.reading import SKEW_MS, Window
from nbx.audit.verdicts import Grounds, ReplayReport, judged
from nbx.audit.whole_log import WholeLog
from nbx.bandits.learner import warm_up as warm_up_learning
from nbx.build import current_build
from nbx.decision.replay import replay
from nbx.decision.replayed import Replay
from nbx.decision.warm_up import warm_up
from nbx.errors import Unknown
from nbx.experience.entries import DecisionEntry, decode_entry
from nbx.experience.heads import head_of, is_decision
from nbx.features.builds import noted_builds
from nbx.features.connection import RedisConnection
from nbx.features.store import LogEntry, Store
from nbx.features.store_redis import RedisStore
from nbx.ids import decision_ref
from nbx.runtime.deep_replay import DeepReplay, Wanted
from nbx.runtime.journal import WholeJournal
from nbx.runtime.process import check_partitions
from nbx.settings import Settings

PAGE = 4096


class Drawn(NamedTuple):
    """Decisions of a span."""

    found: int
    """How many there are."""
    rows: list[LogEntry]
    """All of them, or a sample."""


async def replay_one(settings: Settings, decision_id: str, *, most: int = 0, console: Console) -> Replay:
    """Replay one decision deeply.

    Raises
    ------
    Invalid, Unknown
        Not an id of ours; no such decision in the log.
    TooLarge
        More than `most` log entries would have to be read.
    Unavailable
        Redis does not answer.
    """
    async with _opened(settings) as (store, journal):
        found = await locate_decision(store, decision_id, settings.partitions)
        entry, partition = found.record, decision_ref(decision_id).partition
        wanted = Wanted(entry.decision_id, entry.customer_id, partition, found.entry_id, entry.snapshot)
        with _progress(console) as bar:
            task = bar.add_task("", total=1, entries=0)
            deep = _deep(store, journal, settings, lambda _: bar.update(task, entries=deep.entries), most)
            async for replayed in deep.run([wanted]):
                bar.advance(task)
                return replayed
    raise Unknown(f"decision {decision_id} is not in the log any more", field="decision_id", code="decision_unknown")


async def replay_all(
    settings: Settings, span: Window, *, deep: bool, sample: int, seed: int, console: Console
) -> ReplayReport:
    """Replay the decisions of a span, or a sample of them.

    Parameters
    ----------
    deep
        Rebuild state and model; else each from its record alone.
    sample
        Decisions drawn at most, all with the same chance; 0: every one.
    seed
        Of the sample.
    """
    began = time.perf_counter()
    report = ReplayReport(deep=deep, since_ms=span.since_ms, until_ms=span.until_ms)
    async with _opened(settings) as (store, journal):
        drawn = await draw(store, settings.partitions, span, sample, seed)
        report.found = drawn.found
        with _progress(console) as bar:
            task = bar.add_task("", total=len(drawn.rows), entries=0)
            if deep:
                wanted = [each for each in map(wanted_of, drawn.rows) if each is not None]
                run = _deep(store, journal, settings, lambda _: bar.update(task, entries=run.entries))
                async for replayed in run.run(wanted):
                    report.add(replayed)
                    bar.advance(task)
                report.entries = run.entries
            else:
                async for replayed in _from_records(store, drawn.rows):
                    report.add(replayed)
                    bar.advance(task)
                report.entries = len(drawn.rows)
    report.took_s = time.perf_counter() - began
    return report


async def draw(store: Store, partitions: int, span: Window, sample: int, seed: int) -> Drawn:
    """Find the decisions of a span; of more than `sample` draw so many, each with the same chance (0: keep all).

    The same log and seed give the same sample.
    """
    rng = np.random.default_rng(seed)
    kept: list[LogEntry] = []
    found = 0
    start = f"{max(span.since_ms - max(BEFORE_MS, SKEW_MS), 0)}"
    end = f"{span.until_ms + AFTER_MS}"
    for partition in range(partitions):
        cursor = start
        while page := await store.log_range(partition, cursor, end, PAGE):
            cursor = f"({page[-1].entry_id}"
            for row in page:
                if not is_decision(row.payload) or not span.since_ms <= head_of(row.payload).at_ms < span.until_ms:
                    continue
                found += 1
                if not sample or len(kept) < sample:
                    kept.append(row)
                elif (at := int(rng.integers(found))) < sample:
                    kept[at] = row
    return Drawn(found, kept)


def wanted_of(row: LogEntry) -> Wanted | None:
    """Return what a deep replay is asked for; None when the entry is no decision."""
    entry = decode_entry(row.payload)
    if not isinstance(entry, DecisionEntry):
        return None
    return Wanted(entry.decision_id, entry.customer_id, row.partition, row.entry_id, entry.snapshot)


async def _from_records(store: Store, rows: list[LogEntry]) -> AsyncIterator[Replay]:
    grounds = Grounds(build=current_build(), builds={})
    for row in rows:
        entry = decode_entry(row.payload)
        if isinstance(entry, DecisionEntry):
            if entry.build and entry.build not in grounds.builds:
                builds = {**grounds.builds, **await noted_builds(store, [entry.build])}
                grounds = structs.replace(grounds, builds=builds)
            yield judged(replay(entry), entry, grounds)


def _deep(
    store: Store, journal: Journal, settings: Settings, progress: Callable[[int], None], most: int = 0
) -> DeepReplay:
    warm_up()
    warm_up_learning()
    build, salt = current_build(), settings.salt
    return DeepReplay(store, journal, settings.partitions, build=build, salt=salt, most=most, progress=progress)


def _progress(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        BarColumn(),
        TextColumn("{task.completed:,} of {task.total:,} decisions, {task.fields[entries]:,} log entries read"),
        TimeElapsedColumn(),
        console=console,
    )


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[tuple[Store, Journal]]:
    connection = RedisConnection(settings.effective_redis_url)
    await connection.connect()
    try:
        await check_partitions(connection, settings.partitions)
        log = WholeLog(RedisStore(connection), settings.archive_path)
        yield log, WholeJournal(connection, log)
    finally:
        await connection.close()
