"""What a query over the log may take, and what it answers: all that who asks has to know, without DuckDB."""

from __future__ import annotations

import msgspec
from msgspec import Struct, field

from nbx.errors import Invalid, Unsupported
from nbx.limits import QUERY_BYTES, QUERY_MEMORY_BYTES, QUERY_MOST_ROWS, QUERY_ROWS, QUERY_S


class Column(Struct, frozen=True):
    """A column of an answer."""

    name: str
    type: str
    """As DuckDB names it."""


class Bounds(Struct, frozen=True, kw_only=True):
    """What a query may take. The defaults are those of a query over HTTP."""

    rows: int = QUERY_ROWS
    bytes: int = QUERY_BYTES
    """Of the rows as JSON."""
    seconds: float = QUERY_S
    memory_bytes: int = QUERY_MEMORY_BYTES
    threads: int = 1
    spill: str = ""
    """Directory for what does not fit into memory; empty: none."""
    spill_bytes: int = 0

    def checked(self) -> Bounds:
        """Return these bounds; `Invalid` when there is no such number of rows."""
        if not 1 <= self.rows <= QUERY_MOST_ROWS:
            raise Invalid(
                f"limit must be 1 to {QUERY_MOST_ROWS}, found {self.rows}", field="limit", code="field_invalid"
            )
        return self


class Answer(Struct, frozen=True, kw_only=True):
    """What a query found."""

    columns: list[Column]
    rows: list[msgspec.Raw]
    """Each a JSON array, values in the order of the columns; times are UTC, without a zone."""
    truncated: bool
    """There were more rows than may be returned."""
    took_ms: float = 0.0
    notes: list[str] = field(default_factory=list)
    """What is missing or was left out, in words."""


class Damage(Unsupported):
    """Segments are missing or damaged, and nobody said to go on without them."""

    code = "segment_damaged"
