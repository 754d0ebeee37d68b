"""Pseudonyms in tables: one customer one name, and nothing left that names anybody."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from nbx.audit.pseudonyms import pseudonymised
from nbx.audit.segments import to_table
from nbx.experience.entries import decode_entry
from nbx.hashing import pseudonym
from tests.unit.audit.test_scrub import WORLD

KEY = b"k" * 32


def test_a_table_of_the_log_names_nobody_and_keeps_rows_together() -> None:
    table = to_table(WORLD, bytes(32))
    told = pseudonymised(table, KEY)
    assert told.schema == table.schema
    customers = {decode_entry(row.payload).customer_id for row in WORLD}
    text = str(told.to_pydict())
    assert [name for name in (*customers, "kiosk") if name in text] == []
    ids = told.column("customer_id").to_pylist()
    assert ids == [pseudonym(KEY, name) for name in table.column("customer_id").to_pylist()]
    assert told.column("outcomes").equals(table.column("outcomes"))
    assert pseudonymised(table, b"x" * 32).column("customer_id").to_pylist() != ids


@settings(max_examples=50, deadline=None)
@given(st.lists(st.none() | st.text(max_size=5)), st.integers(1, 3))
def test_every_value_is_hashed_alike_wherever_it_stands(values: list[str | None], chunks: int) -> None:
    column = pa.chunked_array([pa.array(values, pa.string())] * chunks)
    told = pseudonymised(pa.table({"customer_id": column}), KEY).column(0).to_pylist()
    assert told == [None if value is None else pseudonym(KEY, value) for value in values] * chunks
