"""One customer's log, without reading everybody's: by the archive's column of ids, and then the live stream.

Of a segment only the row groups are read whose statistics and ids say that the customer is in them; so it takes
milliseconds a segment where reading a partition takes seconds. What was archived between the two parts is read from the
stream or the archive by whoever answers for the whole log.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nbx.audit.chain import Chain, Record, covering
from nbx.errors import Unsupported
from nbx.features.store import LogEntry, Store

if TYPE_CHECKING:
    import pyarrow.parquet as pq

PAGE: Final = 512
"""Entries of the live stream read at a time."""
_COLUMNS: Final = ("partition", "log_ms", "log_seq", "payload")


class CustomerLog:
    """Reads the rows of single customers.

    Parameters
    ----------
    log
        The whole log.
    directory
        Of the archive; None, or one that is not there: all is in the stream.
    """

    def __init__(self, log: Store, directory: Path | None) -> None:
        self._log = log
        self._chain = Chain(directory) if directory is not None else None
        self._reading = asyncio.Lock()

    async def rows(self, partition: int, customer_id: str, start: str = "-") -> AsyncIterator[list[LogEntry]]:
        """Yield the rows that may be a customer's, oldest first, in lists that are not empty.

        Parameters
        ----------
        start
            `-`, or `(id`: only what comes after it. Rows of the live stream that merely name the customer come too.

        Raises
        ------
        Unsupported
            The archive is damaged, or does not reach far enough.
        """
        last = start.removeprefix("(") if start != "-" else "0-0"
        if self._chain is not None:
            chain = self._chain
            async with self._reading:
                await asyncio.to_thread(chain.refresh)
                segments = list(covering(chain.segments, partition, last))
            for record in segments:
                async with self._reading:
                    found = await asyncio.to_thread(_rows_of, chain, record, partition, customer_id)
                beyond = [row for row in found if _order(row.entry_id) > _order(last)]
                if beyond:
                    yield beyond
            if segments:
                last = segments[-1].spans[partition].last
        wanted, cursor = customer_id.encode(), f"({last}" if last != "0-0" else "-"
        while page := await self._log.log_range(partition, cursor, "+", PAGE):
            if found := [row for row in page if wanted in row.payload]:
                yield found
            cursor = f"({page[-1].entry_id}"


def _rows_of(chain: Chain, record: Record, partition: int, customer_id: str) -> list[LogEntry]:
    try:
        return read_rows(chain.directory / record.file, partition, customer_id)
    except FileNotFoundError:  # it was written anew, and its record came after we looked
        chain.refresh()
        return read_rows(chain.directory / chain.segments[record.n].file, partition, customer_id)


def read_rows(path: Path, partition: int, customer_id: str) -> list[LogEntry]:
    """Return a customer's rows of a segment, in order."""
    import pyarrow as pa  # as in `nbx.audit.whole_log`
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from nbx.audit.segments import entries_of

    found: list[LogEntry] = []
    try:
        file = pq.ParquetFile(path)
        for number in range(file.num_row_groups):
            if not _may_hold(file.metadata.row_group(number), partition, customer_id):
                continue
            ids = file.read_row_group(number, ["customer_id"]).column(0)
            rows = pc.indices_nonzero(pc.equal(ids, customer_id))
            if len(rows):
                found += entries_of(file.read_row_group(number, list(_COLUMNS)).take(rows))
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise Unsupported(
            f"{path}: cannot be read: {error}; restore it from a copy, then run `nbx log verify`",
            code="segment_damaged",
        ) from error
    return [row for row in found if row.partition == partition]


def _may_hold(group: pq.RowGroupMetaData, partition: int, customer_id: str) -> bool:
    wanted = {"partition": partition, "customer_id": customer_id}
    for at in range(group.num_columns):
        column = group.column(at)
        value = wanted.pop(column.path_in_schema, None)
        statistics = column.statistics if value is not None else None
        if statistics is not None and statistics.has_min_max and not statistics.min <= value <= statistics.max:
            return False
        if not wanted:
            break
    return True


def _order(entry_id: str) -> tuple[int, int]:
    ms, _, sequence = entry_id.partition("-")
    return int(ms), int(sequence or 0)
