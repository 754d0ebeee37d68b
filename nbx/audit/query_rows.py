"""Rows as DuckDB finds them, page by page, and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import duckdb
import msgspec
from msgspec import Struct

from nbx.audit.query_answer import Column
from nbx.errors import Invalid

_PAGE: Final = 256
_BATCH: Final = 8192


class Rows(Struct, frozen=True):
    """Rows as they come from DuckDB."""

    columns: list[Column]
    pages: Iterator[list[tuple[Any, ...]]]
    batches: Callable[[], Any]
    """The same as a `pyarrow.RecordBatchReader`, in place of the pages."""


def rows_of(connection: duckdb.DuckDBPyConnection, statement: Any, parameters: Sequence[object]) -> Rows:
    """Bind a statement; it runs when its rows are taken.

    Raises
    ------
    Invalid
        It has parameters that nothing is given for.
    duckdb.Error
        DuckDB refuses it.
    """
    if isinstance(statement, str):
        (statement,) = connection.extract_statements(statement)
    if given := len(statement.named_parameters) - len(parameters):
        raise Invalid(f"the query has {given} parameters that nothing is given for", field="sql", code="sql_invalid")
    if not parameters:
        try:
            found = connection.sql(statement)
        except duckdb.BinderException:
            connection.execute(statement)  # says the same with the place
            raise
        columns = [Column(name, str(kind)) for name, kind in zip(found.columns, found.types, strict=True)]
    else:
        described = connection.execute(f"DESCRIBE {statement.query}", list(parameters)).fetchall()
        columns = [Column(name, kind) for name, kind, *_ in described]

    def pages() -> Iterator[list[tuple[Any, ...]]]:
        result = connection.execute(statement, list(parameters))
        while page := result.fetchmany(_PAGE):
            yield page

    return Rows(columns, pages(), lambda: connection.sql(statement).to_arrow_reader(_BATCH))


def packed(row: tuple[Any, ...]) -> bytes:
    """Pack a row as a JSON array."""
    try:
        return msgspec.json.encode(row)
    except (TypeError, ValueError, OverflowError):
        return msgspec.json.encode(plain(row))


def plain(value: Any) -> Any:
    """Return a value of DuckDB's with what JSON has no word for as text.

    Examples
    --------
    >>> plain(({(1, 2): b"a"}, 10**30))
    [{'(1, 2)': '61'}, '1000000000000000000000000000000']
    """
    match value:
        case list() | tuple():
            return [plain(each) for each in value]
        case dict():
            return {str(key): plain(each) for key, each in value.items()}
        case bytes():
            return value.hex()
        case int() if not -(1 << 63) <= value < 1 << 64:
            return str(value)
        case str():
            return value.encode(errors="replace").decode()
        case None | bool() | int() | float():
            return value
        case _:
            return str(value)
