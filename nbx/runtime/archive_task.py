"""The keeper's archiving, beside its timers: when a segment is due, what to do when one cannot be written, the alarms.

While anything fails the streams grow, nothing is trimmed, and it is tried again ever less often, up to once a minute;
then several segments follow each other until all is archived. A failure is a warning once; what else goes wrong until
it works again is logged beside.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from nbx.audit.log_ids import ADMIN, JOURNAL, parsed
from nbx.audit.metrics import (
    ARCHIVE_BEHIND_ROWS,
    ARCHIVE_BEHIND_S,
    ARCHIVE_FAILING,
    ARCHIVED,
    REDIS_FULL_RATIO,
    TRIMMED,
)
from nbx.errors import NbxError, Unavailable
from nbx.features.keys import ADMIN_LOG, ARCHIVE_FAULT, MODEL_JOURNAL, partition_keys
from nbx.runtime.archiving import Archiver
from nbx.runtime.process import log, pause
from nbx.runtime.publishing import Overtaken
from nbx.runtime.scrubbing import Scrubber
from nbx.runtime.trimming import Trimmer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nbx.clock import Clock
    from nbx.features.connection import RedisConnection
    from nbx.features.lease import Lease
    from nbx.features.store import Store
    from nbx.settings import Settings

LOOK_S: Final = 5.0
"""Seconds between two looks at how much waits."""
SETTLED_S: Final = 2.0
"""An append-only file that is forced to disk every second is at most so far behind."""
PATIENCE_S: Final = 60.0
"""Longest wait between two attempts while archiving fails."""
FULL_RATIO: Final = 0.8
"""Share of Redis's maxmemory from which on it is worth a warning."""
TIMEOUT_MS: Final = 5_000.0


class _Look(NamedTuple):
    """What the streams were at a time."""

    at_s: float
    """Of the event loop's clock."""
    lengths: dict[int, int]
    ends: dict[int, str]


class Archiving:
    """Archives and trims while the keeper's lease is held.

    Parameters
    ----------
    connection, store, lease, settings, clock
        The keeper's.
    settled_s
        Seconds after which Redis loses nothing any more, even with its machine: what is younger is not archived, or the
        archive could hold what never was.
    """

    def __init__(
        self,
        connection: RedisConnection,
        store: Store,
        lease: Lease,
        settings: Settings,
        clock: Clock,
        settled_s: float = SETTLED_S,
    ) -> None:
        self._connection = connection
        self._lease = lease
        self._settings = settings
        self._clock = clock
        partitions = settings.partitions
        self.archiver = Archiver(
            connection,
            store,
            lease,
            settings.archive_path,
            partitions=partitions,
            rows=settings.archive_rows,
            clock=clock,
        )
        self._trimmer = Trimmer(connection, partitions=partitions, keep_s=settings.log_keep_s)
        self._unscrubbed = ""
        self._scrubber = Scrubber(connection, store, settings, clock, self.archiver, self._trimmer)
        self._kept: dict[int, int] = {}
        """Partition → entries of its stream that are archived, as of the last time all was."""
        self._settled_s = settled_s
        self._looks: deque[_Look] = deque()
        self.attempts = 0
        """How often archiving was tried."""
        self._due_ms = 0
        self._back_off_s = 0.0
        self._fault = ""
        self._full = False

    async def run(self, stop: asyncio.Event) -> None:
        """Go on until stopped.

        Cancelled, it keeps the archive locked until the process ends: a thread may still be writing.
        """
        look_s = min(LOOK_S, self._settings.archive_interval_s)
        while not await pause(stop, look_s if self._lease.fence else 0.1):
            await self.attempt()
        self.archiver.close()

    async def attempt(self) -> None:
        """Take a turn; whatever goes wrong is told, and another turn may be taken."""
        if not self._lease.fence:
            self.archiver.close()
            return
        try:
            await self.turn()
        except Overtaken:
            log.warning("another keeper has the lease: archiving ends here")
            self.archiver.close()
        except Unavailable as error:
            log.debug("archiving waits: %s", error)
        except (NbxError, OSError) as error:
            await self._failed(str(error))
        except Exception as error:  # noqa: BLE001 - this task ends with the process only
            log.exception("archiving")
            await self._failed(f"{type(error).__name__}: {error}")

    async def turn(self) -> None:
        """Look at what waits, and archive and trim when it is due; raises what went wrong."""
        await self._look_at_redis()
        now = _Look(asyncio.get_running_loop().time(), await self._lengths(), await self.archiver.ends())
        self._looks.append(now)
        while len(self._looks) > 1 and now.at_s - self._looks[1].at_s >= self._settled_s:
            self._looks.popleft()
        settled = now.at_s - self._looks[0].at_s >= self._settled_s
        waiting = await self._tell(now.lengths)
        interval_s = self._settings.archive_interval_s
        due = self._clock.now_ms() >= self._due_ms
        if not settled or not (due or (waiting >= self._settings.archive_rows and not self._fault)):
            return
        self._due_ms = self._clock.now_ms() + round(1000 * max(interval_s, self._back_off_s))
        await self._archive(self._looks[0])
        if self._fault:
            log.warning("archiving works again")
            await self._connection.execute("DEL", ARCHIVE_FAULT, timeout_ms=TIMEOUT_MS)
        self._fault, self._back_off_s = "", 0.0
        ARCHIVE_FAILING.set(0)
        await self._tell(await self._lengths())

    async def _archive(self, look: _Look) -> None:
        """Archive what there was at a look, and trim."""
        self.attempts += 1
        await self.archiver.open()
        more = True
        while more:
            rows = await self.archiver.segment(look.ends)
            ARCHIVED.inc(rows)
            more = rows > 0
            for partition, count in (await self._trimmer.trim(self.archiver.last, self._clock.now_ms())).items():
                TRIMMED.inc(count)
                for each in self._looks:  # later ones too: when they are used, this is gone
                    each.lengths[partition] -= count
        self._kept = dict(look.lengths)
        for partition in await self._scrub():  # what came meanwhile is counted as waiting once too often
            self._kept[partition] = 0
            for each in self._looks:
                each.lengths[partition] = 0

    async def _scrub(self) -> frozenset[int]:
        """Go on with erasures; what stops them does not stop the archive."""
        try:
            emptied = await self._scrubber.turn()
        except (Overtaken, Unavailable):
            raise
        except Exception as error:  # noqa: BLE001 - such as a segment that cannot be read
            self.archiver.close()
            if str(error) != self._unscrubbed:
                log.error("erasures cannot be finished: %s: %s", type(error).__name__, error)
            self._unscrubbed = str(error)
            return frozenset()
        self._unscrubbed = ""
        return emptied

    async def _failed(self, why: str) -> None:
        self.archiver.close()
        if why != self._fault:
            log.log(
                logging.INFO if self._fault else logging.WARNING,
                "the archive cannot be written, nothing is trimmed meanwhile: %s",
                why,
            )
        self._fault = why
        self._back_off_s = min(max(2 * self._back_off_s, 1.0), PATIENCE_S)
        self._due_ms = self._clock.now_ms() + round(1000 * self._back_off_s)
        ARCHIVE_FAILING.set(1)
        try:
            kept_ms = round(1000 * (self._back_off_s + PATIENCE_S))
            await self._connection.execute("SET", ARCHIVE_FAULT, why, "PX", kept_ms, timeout_ms=TIMEOUT_MS)
        except Unavailable as error:
            log.debug("%s", error)

    async def _tell(self, lengths: Mapping[int, int]) -> int:
        """Set the gauges of what waits for the archive; returns how many entries do."""
        waiting = max(sum(lengths.values()) - sum(self._kept.values()), 0)
        now_ms = self._clock.now_ms()
        ARCHIVE_BEHIND_ROWS.set(waiting)
        ARCHIVE_BEHIND_S.set(max(now_ms - await self._oldest_ms(now_ms), 0) / 1000)
        return waiting

    async def _oldest_ms(self, now_ms: int) -> int:
        last = self.archiver.last
        heads = await asyncio.gather(
            *(
                self.archiver.page(p, f"({last[p]}" if p in last else "-", "+", 1)
                for p in range(ADMIN, self._settings.partitions)
            )
        )
        return min((parsed(page[0].entry_id)[0] for page in heads if page), default=now_ms)

    async def _lengths(self) -> dict[int, int]:
        streams = {JOURNAL: MODEL_JOURNAL, ADMIN: ADMIN_LOG}
        streams |= {p: partition_keys(p).log for p in range(self._settings.partitions)}
        lengths = await asyncio.gather(
            *(self._connection.execute("XLEN", stream, timeout_ms=TIMEOUT_MS) for stream in streams.values())
        )
        return dict(zip(streams, lengths, strict=True))

    async def _look_at_redis(self) -> None:
        told: bytes = await self._connection.execute("INFO", "memory", timeout_ms=TIMEOUT_MS)
        memory: dict[bytes, Any] = dict(line.split(b":", 1) for line in told.splitlines() if b":" in line)
        most = int(memory.get(b"maxmemory", 0))
        ratio = int(memory[b"used_memory"]) / most if most else 0.0
        REDIS_FULL_RATIO.set(ratio)
        full = ratio >= FULL_RATIO
        if full and not self._full:
            log.warning(
                "Redis uses %.0f of 100 parts of its maxmemory: beyond it writes are refused and decisions degraded; "
                "see that the archive can be written and the learner runs, or raise maxmemory",
                100 * ratio,
            )
        self._full = full
