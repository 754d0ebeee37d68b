"""What a query finds as a file: CSV, or Parquet with the types as they are. It appears whole, or not at all."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import IO, Any, Final

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from nbx.audit.query import LogQuery
from nbx.audit.query_rows import Rows, plain
from nbx.errors import Invalid

SUFFIXES: Final = (".csv", ".parquet")
Progress = Callable[[int], None]
"""Is told how many rows were written so far."""


def checked_target(out: Path) -> Path:
    """Return the file to write; `Invalid` when its ending or place is wrong."""
    if out.suffix not in SUFFIXES:
        raise Invalid(f"{out.name} must end with .csv or .parquet", field="out", code="format_unknown")
    if not out.parent.is_dir():
        raise Invalid(f"{out.parent} is no directory", field="out", code="directory_missing")
    if out.is_dir():
        raise Invalid(f"{out} is a directory", field="out", code="format_unknown")
    return out


def write_found(
    query: LogQuery, sql: str, out: Path, progress: Progress, hide: Callable[[pa.Table], pa.Table] | None = None
) -> int:
    """Write all that a query finds, unbounded in rows; returns how many there were.

    Parameters
    ----------
    hide
        Changes what is written, a batch at a time; for pseudonyms.

    Raises
    ------
    Invalid, TooLarge, Damage
        As `LogQuery.answer`; also wrong names of files.
    """
    target = checked_target(out)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".nbx-export-") as folder:
        whole = Path(folder) / target.name
        write = _write_csv if target.suffix == ".csv" else _write_parquet
        count = query.over(sql, lambda rows: write(whole, progress, rows if hide is None else hidden(rows, hide)))
        whole.replace(target)
    return count


def hidden(rows: Rows, hide: Callable[[pa.Table], pa.Table]) -> Rows:
    """Return rows as `hide` lets them be seen."""

    def tables() -> Iterator[pa.Table]:
        for batch in rows.batches():
            yield hide(pa.Table.from_batches([batch]))

    def batches() -> pa.RecordBatchReader:
        found = tables()
        first = next(found, None)
        if first is None:
            return rows.batches()
        more = (batch for table in found for batch in table.to_batches())
        return pa.RecordBatchReader.from_batches(first.schema, chain(first.to_batches(), more))

    pages = (list(zip(*(column.to_pylist() for column in table.columns), strict=True)) for table in tables())
    return Rows(rows.columns, pages, batches)


def _write_parquet(whole: Path, progress: Progress, rows: Rows) -> int:
    count = 0
    batches = rows.batches()
    with pq.ParquetWriter(whole, batches.schema, compression="zstd") as file:
        for batch in batches:
            file.write_batch(batch)
            count += batch.num_rows
            progress(count)
    return count


def _write_csv(whole: Path, progress: Progress, rows: Rows) -> int:
    with whole.open("w", newline="", encoding="utf-8") as file:
        return write_csv(file, rows, progress)


def write_csv(file: IO[str], rows: Rows, progress: Progress) -> int:
    """Write rows as CSV with a header; lists and structs as JSON, NULL as nothing, times as ISO 8601, UTC."""
    lines = csv.writer(file, lineterminator="\n")
    lines.writerow([column.name for column in rows.columns])
    count = 0
    for page in rows.pages:
        lines.writerows([_cell(value) for value in row] for row in page)
        count += len(page)
        progress(count)
    return count


def _cell(value: Any) -> Any:
    match value:
        case None | str() | bool() | int() | float():
            return value
        case datetime():
            return value.isoformat()
        case list() | tuple() | dict():
            try:
                return msgspec.json.encode(value).decode()
            except (TypeError, ValueError):
                return msgspec.json.encode(plain(value)).decode()
        case _:
            return plain(value)
