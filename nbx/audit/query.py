"""SQL over the log: archive and live tail as one table, behind ready views, read-only and bounded.

DuckDB reads the segments where they are; the live tail is laid out as a segment's table beside them. Before a caller's
statement is seen DuckDB is locked: no file but the segments of the window, no extension, no setting can be changed, no
variable of ours is a table. `nbx.audit.query_guard` then looks at the statement itself. Rows are taken as they come and
counted, so what is too large is cut and said to be. Whoever serves others runs this in a process of its own
(`nbx.runtime.querying`): time, memory and a crash are then that process's.

`now()` is the time at which the query was asked, UTC and without a zone as the log's own times are: conditions like
`at >= now() - INTERVAL 1 HOUR` reach the files that way. `ago('1h')` says the same.

Not here: which live entries there are (`nbx.audit.live_tail`), and which files are opened (`nbx.audit.query_files`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from threading import Timer
from typing import Any, Final, TypeVar

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from nbx.audit.chain import Record
from nbx.audit.live_tail import Readable
from nbx.audit.query_answer import Answer, Bounds, Damage
from nbx.audit.query_files import changed, faults_of, needed
from nbx.audit.query_guard import checked_statement
from nbx.audit.query_rows import Rows, packed, rows_of
from nbx.audit.query_views import View, views_in
from nbx.audit.reading import Window
from nbx.audit.segments import SCHEMA, to_table
from nbx.errors import Invalid, NbxError, TooLarge
from nbx.limits import STOPPED_MS

T = TypeVar("T")
FEW_FILES: Final = 16
"""So many segments are opened without asking which are needed: asking takes as long."""
_START: Final = bytes(32)
_AS_WRITTEN: Final = "hive_partitioning = false, filename = false"
_SCHEMAS_DIFFER: Final = ("schema mismatch", "union_by_name")


def _as_read(kind: pa.DataType) -> pa.DataType:
    """Return the type as which DuckDB reads a column of a segment: its times are microseconds."""
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us")
    if pa.types.is_list(kind):
        return pa.list_(_as_read(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(kind.field(i).name, _as_read(kind.field(i).type)) for i in range(kind.num_fields)])
    return kind


_LIVE: Final = pa.schema([(each.name, _as_read(each.type)) for each in SCHEMA])


class LogQuery:
    """Queries over one reading of the log; each opens DuckDB anew.

    Parameters
    ----------
    source
        What there is to read.
    span
        Rows written within it are seen.
    now_ms
        What `now()` is.
    bounds
        What each query may take.
    skip_damaged
        Go on without segments that are missing or damaged, with a note.

    Attributes
    ----------
    opened
        How many segments the last query opened.
    """

    def __init__(
        self, source: Readable, span: Window, now_ms: int, bounds: Bounds | None = None, *, skip_damaged: bool = False
    ) -> None:
        self._source = source
        self._span = span
        self._now = _timestamp(now_ms)
        self._bounds = bounds or Bounds()
        self._skip_damaged = skip_damaged
        live = to_table(source.live, _START).cast(_LIVE)
        nothing = pa.nulls(live.num_rows, pa.binary(32))  # a row's hash is of a place in a segment
        self._live = live.set_column(live.schema.get_field_index("row_hash"), "row_hash", nothing)
        self._skipped: dict[str, str] = {}
        self.opened = 0

    @property
    def notes(self) -> list[str]:
        """What is missing from what was read, in words."""
        skipped = [f"without the damaged segment {file}: {words}" for file, words in self._skipped.items()]
        return [*self._source.notes, *skipped]

    def answer(self, sql: str, parameters: Sequence[object] = (), *, trusted: bool = False) -> Answer:
        """Answer a query; its rows are cut at the bounds.

        Parameters
        ----------
        sql
            One SELECT over the views.
        parameters
            For the `?` in it.
        trusted
            It is ours: it is not checked.

        Raises
        ------
        Invalid
            It is no SQL, or not allowed; what DuckDB says of it, with the place.
        TooLarge
            It took more time or memory than it may, or one row is larger than an answer.
        Damage
            A segment is missing or damaged, and `skip_damaged` was not said.
        """
        return self.over(sql, self._taken, parameters, trusted=trusted)

    def over(
        self,
        sql: str,
        take: Callable[[Rows], T],
        parameters: Sequence[object] = (),
        *,
        trusted: bool = False,
    ) -> T:
        """Give a query's rows to `take`, which begins anew when it is called again; returns what it returns.

        Raises
        ------
        Invalid, TooLarge, Damage
            As `answer`.
        """
        records: Sequence[Record] = self._source.records
        by_name, pruned = False, len(records) <= FEW_FILES
        clock = _Limit(self._bounds.seconds)
        try:
            while True:
                records = self._whole(records if pruned else [*self._newest_whole()])
                by_name = by_name or self._is_older(records[-1:])
                try:
                    with self._connected(sql, records, by_name=by_name, asking=not pruned) as connection:
                        clock.watch(connection)
                        statement = sql if trusted else checked_statement(connection, sql)
                        if not pruned:
                            records = self._needed(connection, statement, parameters)
                            pruned = True
                            continue
                        self.opened = len(records)
                        return take(rows_of(connection, statement, parameters))
                except duckdb.Error as error:
                    if clock.is_over:
                        raise _late(self._bounds.seconds) from None
                    if not by_name and any(words in str(error) for words in _SCHEMAS_DIFFER):
                        by_name = True  # an older version wrote some of them
                    elif not self._note_changed(records, error):
                        raise _told(error, self._source.directory) from None
                except MemoryError:
                    raise _no_memory() from None
        finally:
            clock.end()

    def _taken(self, rows: Rows) -> Answer:
        taken: list[bytes] = []
        left = self._bounds.bytes
        truncated = False
        for row in chain.from_iterable(rows.pages):
            line = packed(row)
            left -= len(line)
            if len(taken) == self._bounds.rows or left < 0:
                truncated = True
                break
            taken.append(line)
        if truncated and not taken:
            raise TooLarge(f"one row is larger than an answer may be, {self._bounds.bytes} bytes", code="row_too_large")
        return Answer(
            columns=rows.columns, rows=[msgspec.Raw(row) for row in taken], truncated=truncated, notes=self.notes
        )

    def _whole(self, records: Sequence[Record]) -> list[Record]:
        """Return the records without those whose files are seen to be damaged; `Damage` unless these may be skipped."""
        return self._without(faults_of(self._source.directory, records), records)

    def _newest_whole(self) -> Iterator[Record]:
        """Yield the newest segment that is whole: what the columns are like is read from it."""
        for record in reversed(self._source.records):
            if not faults_of(self._source.directory, [record]):
                yield record
                return

    def _is_older(self, records: Sequence[Record]) -> bool:
        """Tell whether a segment lacks columns that others may have: DuckDB takes the first for what all are like."""
        for record in records:
            with suppress(pa.ArrowException, OSError):  # DuckDB will say it
                return not set(SCHEMA.names) <= set(pq.read_schema(self._source.directory / record.file).names)
        return False

    def _without(self, faults: Mapping[str, str], records: Sequence[Record]) -> list[Record]:
        if faults and not self._skip_damaged:
            told = "; ".join(f"{file} {words}" for file, words in list(faults.items())[:5])
            more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
            raise Damage(
                f"the answer would be wrong, as the archive is damaged: {told}{more}. `nbx log verify` says more; "
                "restore the files from a copy, or ask again with skip_damaged to go on without them"
            )
        self._skipped |= faults
        return [record for record in records if record.file not in self._skipped]

    def _note_changed(self, records: Sequence[Record], error: duckdb.Error) -> bool:
        """After an error that a damaged file may be behind: find it by its hash; False: it is none."""
        if isinstance(error, _CALLERS_OWN):
            return False
        faults = changed(self._source.directory, records)
        self._without(faults, records)
        return bool(faults)

    def _needed(
        self, connection: duckdb.DuckDBPyConnection, statement: Any, parameters: Sequence[object]
    ) -> list[Record]:
        text = statement if isinstance(statement, str) else statement.query
        try:
            described = connection.execute(f"EXPLAIN (FORMAT json) {text}", list(parameters)).fetchall()
        except duckdb.InterruptException:
            raise
        except duckdb.Error:  # will be told of the query itself
            return list(self._source.records)
        return needed(self._source.records, described[0][1])

    @contextmanager
    def _connected(
        self, sql: str, records: Sequence[Record], *, by_name: bool, asking: bool
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open DuckDB over some segments; `asking`: only for a plan, which must not depend on what these hold."""
        bounds = self._bounds
        connection = duckdb.connect(
            config={
                "threads": bounds.threads,
                "memory_limit": f"{bounds.memory_bytes}B",
                "python_enable_replacements": "false",
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
                "allow_community_extensions": "false",
                "temp_directory": bounds.spill,
            }
        )
        try:
            if asking:
                connection.execute("SET disabled_optimizers = 'statistics_propagation'")
            self._lay_out(connection, views_in(sql), records, by_name=by_name)
            yield connection
        finally:
            connection.close()

    def _lay_out(
        self,
        connection: duckdb.DuckDBPyConnection,
        views: Mapping[str, View],
        records: Sequence[Record],
        *,
        by_name: bool,
    ) -> None:
        """Make views over some segments and the live tail, then lock everything else away."""
        paths = [str((self._source.directory / record.file).resolve()) for record in reversed(records)]
        if self._bounds.spill:
            connection.execute(f"SET max_temp_directory_size = '{self._bounds.spill_bytes}B'")
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET enable_progress_bar = false")
        connection.register("live", self._live)
        kept = "SELECT * FROM live"
        if paths:
            files = ", ".join(map(_text, paths))
            kept += (  # paths of ours, as texts
                f" UNION ALL BY NAME SELECT * FROM read_parquet([{files}], union_by_name = {by_name}, {_AS_WRITTEN})"  # noqa: S608
            )
        since, until = _timestamp(self._span.since_ms), _timestamp(self._span.until_ms)
        connection.execute(
            f"CREATE VIEW kept AS SELECT * FROM ({kept}) WHERE logged_at >= {since} AND logged_at < {until}"  # noqa: S608
        )
        for name in ("now", "current_timestamp", "get_current_timestamp", "transaction_timestamp", "localtimestamp"):
            connection.execute(f"CREATE MACRO {name}() AS {self._now}")
        connection.execute(f"CREATE MACRO ago(span) AS {self._now} - CAST(span AS INTERVAL)")
        for name, view in views.items():
            connection.execute(f"CREATE VIEW {name} AS {view.select}")
        connection.execute(f"SET allowed_paths = [{', '.join(map(_text, paths))}]")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")


class _Limit:
    """Interrupts whatever DuckDB does when the time is over."""

    def __init__(self, seconds: float) -> None:
        self.is_over = False
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._timer = Timer(seconds, self._interrupt) if math.isfinite(seconds) else None
        if self._timer is not None:
            self._timer.daemon = True
            self._timer.start()

    def watch(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Take over another connection."""
        self._connection = connection
        if self.is_over:
            connection.interrupt()

    def end(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _interrupt(self) -> None:
        self.is_over = True
        if self._connection is not None:
            with suppress(duckdb.Error):
                self._connection.interrupt()


def _text(value: str) -> str:
    """Write a text for SQL."""
    doubled = value.replace("'", "''")
    return f"'{doubled}'"


def _timestamp(ms: int) -> str:
    """Write a time for SQL; beyond the year 9999 it is the end of it."""
    at = datetime.fromtimestamp(min(max(ms, 0), STOPPED_MS) / 1000, UTC)
    return f"TIMESTAMP '{at:%Y-%m-%d %H:%M:%S.%f}'"


_CALLERS_OWN: Final = (
    duckdb.ParserException,
    duckdb.BinderException,
    duckdb.CatalogException,
    duckdb.ConversionException,
    duckdb.OutOfRangeException,
    duckdb.OutOfMemoryException,
    duckdb.InterruptException,
    duckdb.PermissionException,
    duckdb.NotImplementedException,
    duckdb.ConstraintException,
)
"""Errors that no file is behind."""


def _told(error: duckdb.Error, directory: Path) -> NbxError:
    """Tell DuckDB's error: its words with the line and the place in it, and no path of this machine."""
    words = str(error).replace(f"{directory.resolve()}/", "").replace(f"{directory}/", "").strip()
    if isinstance(error, duckdb.OutOfMemoryException):
        return _no_memory()
    return Invalid(re.sub(r"\n{2,}", "\n", words), field="sql", code="sql_invalid")


def _late(seconds: float) -> TooLarge:
    return TooLarge(
        f"the query took more than {seconds:g} s: ask for less time (since, until), or export and query the file",
        code="query_late",
    )


def _no_memory() -> TooLarge:
    return TooLarge(
        "the query needs more memory than it may have: ask for less time (since, until) or fewer columns, or aggregate",
        code="query_memory",
    )
