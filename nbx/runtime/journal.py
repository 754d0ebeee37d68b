"""The journal in Redis, and before what Redis keeps of it in the archive."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import msgspec

from nbx.audit.journal import Step
from nbx.audit.whole_log import WholeLog
from nbx.features.connection import RedisConnection
from nbx.features.keys import MODEL_JOURNAL

PAGE = 256
TIMEOUT_MS = 5_000.0
_OFFSETS: msgspec.msgpack.Decoder[dict[int, str]] = msgspec.msgpack.Decoder(dict[int, str])
_FIELDS: msgspec.msgpack.Decoder[dict[str, bytes]] = msgspec.msgpack.Decoder(dict[str, bytes])


class RedisJournal:
    """Reads the steps that Redis keeps; a `nbx.audit.journal.Journal`."""

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection

    async def steps(self, after: int, until: int) -> AsyncIterator[Step]:
        """Yield the steps that are kept with after < step ≤ until, a page at a time."""
        while after < until and (
            rows := await self._connection.execute(
                "XRANGE", MODEL_JOURNAL, f"(0-{after}", f"0-{until}", "COUNT", PAGE, timeout_ms=TIMEOUT_MS
            )
        ):
            for entry_id, fields in rows:
                told = {name.decode(): value for name, value in zip(fields[::2], fields[1::2], strict=True)}
                step = _step(entry_id.decode(), told)
                after = step.step
                yield step


class WholeJournal:
    """Reads the steps of archive and Redis; a `nbx.audit.journal.Journal`.

    A step is archived before it is trimmed: what is missing before the first that Redis still has is in the archive.
    """

    def __init__(self, connection: RedisConnection, log: WholeLog) -> None:
        self._live = RedisJournal(connection)
        self._log = log

    async def steps(self, after: int, until: int) -> AsyncIterator[Step]:
        """Yield the steps that are kept with after < step ≤ until; raises as `WholeLog.log_range` does."""
        async for step in self._live.steps(after, until):
            async for archived in self._archived(after, step.step - 1):
                yield archived
            yield step
            after = step.step
        async for archived in self._archived(after, until):
            yield archived

    async def _archived(self, after: int, until: int) -> AsyncIterator[Step]:
        while after < until:
            rows = await self._log.journalled(after + 1, until, PAGE)
            for row in rows:
                step = _step(row.entry_id, _FIELDS.decode(row.payload))
                after = step.step
                yield step
            if len(rows) < PAGE:
                return


def _step(entry_id: str, told: Mapping[str, bytes]) -> Step:
    return Step(int(entry_id.partition("-")[2]), _OFFSETS.decode(told["o"]), told.get("b", b"").decode())
