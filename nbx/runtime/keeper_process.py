"""The keeper: lets due timers speak, and archives and trims the log. One is active; another waits for its lease.

Two at once would do no harm, only double work: a timer is run by a commit on a version, and on a settled slot it is
void. The archive has a lock of its own (`nbx.runtime.archiving`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket

from nbx.audit.metrics import TIMERS, observe_outcome
from nbx.clock import SystemClock
from nbx.decision.serving import Serving
from nbx.errors import NbxError, NotReady, Unavailable
from nbx.experience.service import EventService
from nbx.features.keys import LEASE_KEEPER
from nbx.features.lease import Lease
from nbx.features.store import Store, Timer
from nbx.runtime.archive_task import Archiving
from nbx.runtime.known_settings import note_settings
from nbx.runtime.process import connect, log, pause, stop_event
from nbx.runtime.scrubbing import Scrubber
from nbx.settings import Settings

LEASE_MS = 3_000
PAGE = 256
"""Timers taken from a partition at a time."""
AT_ONCE = 128
"""Timers run concurrently: more would starve the commits of serving on the same Redis."""


async def keep(settings: Settings) -> int:
    """Run until stopped."""
    stop = stop_event()
    connected = await connect(settings, stop)
    if connected is None:
        return 0
    connection, store = connected
    lease = Lease(connection, LEASE_KEEPER, f"{socket.gethostname()}:{os.getpid()}", LEASE_MS)
    serving = Serving(store)
    clock = SystemClock()
    events = EventService(
        store,
        serving.plan,
        clock,
        partitions=settings.partitions,
        dedupe_ms=settings.request_ttl_s * 1000,
        observe=observe_outcome,
        salt=settings.salt,
    )
    if settings.archive == "on":
        archiving = asyncio.create_task(Archiving(connection, store, lease, settings, clock).run(stop))
    else:
        archiving = asyncio.create_task(_scrub(Scrubber(connection, store, settings, clock), lease, settings, stop))
    await note_settings(connection, settings, "keeper", clock)
    log.info("keeper ready")
    away = False
    while not stop.is_set():
        full = False
        try:
            if await lease.acquire() is not None:
                await serving.refresh()
                full = await run_due(store, events, settings.partitions, clock.now_ms())
            if away:
                log.info("Redis is back")
            away = False
        except NotReady:
            pass
        except Unavailable as error:
            if not away:
                log.warning("timers wait: %s", error)
            away = True
        if not full:
            await pause(stop, settings.timer_interval_ms / 1000)
    archiving.cancel()  # wherever it is: it is made for being killed
    with contextlib.suppress(asyncio.CancelledError):
        await archiving
    try:
        await lease.release()
    except Unavailable:
        log.info("the lease will run out by itself")
    await connection.close()
    return 0


async def _scrub(scrubber: Scrubber, lease: Lease, settings: Settings, stop: asyncio.Event) -> None:
    """Finish erasures where nothing is archived."""
    while not await pause(stop, settings.archive_interval_s):
        try:
            if lease.fence:
                await scrubber.turn()
        except Unavailable as error:
            log.debug("erasures wait: %s", error)
        except Exception:  # noqa: BLE001 - this task ends with the process only
            log.exception("erasures are not finished")


async def run_due(store: Store, events: EventService, partitions: int, now_ms: int) -> bool:
    """Run one page of due timers of every partition; True when a page was full, so that more may be due."""
    pages = await asyncio.gather(*(store.due(partition, now_ms, PAGE) for partition in range(partitions)))
    gate = asyncio.Semaphore(AT_ONCE)

    async def run_one(partition: int, timer: Timer) -> None:
        async with gate:
            try:
                await events.run_timer(partition, timer)
                TIMERS.inc()
            except Unavailable:
                raise
            except (NbxError, ValueError, KeyError) as error:
                log.error("timer %s of partition %d is dropped: %s", timer.member, partition, error)
                await store.drop_timers(partition, [timer.member])

    await asyncio.gather(*(run_one(partition, timer) for partition, page in enumerate(pages) for timer in page))
    return any(len(page) == PAGE for page in pages)
