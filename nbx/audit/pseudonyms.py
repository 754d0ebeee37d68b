"""Pseudonyms in what leaves the house: the same customer, the same name, without saying who.

A table's ids of customers are replaced by keyed hashes (`nbx.hashing.pseudonym`), so that rows of one customer stay
together. Columns from which an id could be read otherwise are emptied: the entry as packed, free text, and JSON of what
callers wrote. Ids that callers chose for events and requests are hashed too, as they often hold a customer's.

This hides who somebody is from a reader without the key. It is no anonymity: what a row says may tell by itself.
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from nbx.hashing import pseudonym

HASHED: Final = ("customer_id", "alias", "into", "event_id", "request_id")
"""Columns whose values are replaced."""
EMPTIED: Final = ("payload", "text", "details", "context", "row_hash")
"""Columns that are made null: what is in them could name a customer."""


def pseudonymised(table: pa.Table, key: bytes) -> pa.Table:
    """Return a table with its customers under pseudonyms; columns and order as before.

    Parameters
    ----------
    table
        Any with columns as `nbx.audit.segments.SCHEMA` names them; those it lacks are not missed.
    key
        Of the installation: `nbx.features.secrets.pseudonym_key`.

    Examples
    --------
    >>> pseudonymised(pa.table({"customer_id": ["anna", None], "text": ["I am anna", ""]}), b"k").to_pydict()
    {'customer_id': ['c_4d5837415825729cd5828656c1', None], 'text': [None, None]}
    """
    for at, name in enumerate(table.schema.names):
        if name in HASHED:
            table = table.set_column(at, name, _hashed(table.column(name), key))
        elif name in EMPTIED:
            table = table.set_column(at, name, pa.nulls(table.num_rows, table.schema.field(name).type))
    return table


def _hashed(column: pa.ChunkedArray, key: bytes) -> pa.ChunkedArray:
    """Hash each distinct value once."""
    encoded = pc.dictionary_encode(column.cast(pa.string()).combine_chunks())
    array = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    names = [None if value is None else pseudonym(key, value) for value in array.dictionary.to_pylist()]
    return pa.chunked_array([pa.array(names, pa.string()).take(array.indices)]).cast(column.type)
