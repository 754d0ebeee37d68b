"""The journal in Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec

from nbx.audit.journal import Step
from nbx.features.connection import RedisConnection
from nbx.features.keys import MODEL_JOURNAL

PAGE = 256
TIMEOUT_MS = 5_000.0
_OFFSETS: msgspec.msgpack.Decoder[dict[int, str]] = msgspec.msgpack.Decoder(dict[int, str])


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
                after = int(entry_id.decode().partition("-")[2])
                told = dict(zip(fields[::2], fields[1::2], strict=True))
                yield Step(after, _OFFSETS.decode(told[b"o"]), told.get(b"b", b"").decode())
