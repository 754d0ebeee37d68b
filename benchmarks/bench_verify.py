"""How fast the archive is verified: as it is by default, and row by row, against only reading its bytes.

    python -m benchmarks.bench_verify [--smoke]

A million rows in ten segments: decisions of twenty candidates with what followed them, admin trail and journal. A batch
of distinct rows is laid out once; each segment holds it again at later times, so that files are as large as real ones.
Told are rows per second, medians of runs in turn (A B A B), and the ratio to reading and hashing the same bytes with
one thread. The bar: a million rows in 20 s by default, on two cores.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from msgspec import structs

from nbx.audit.chain import Chain, Record, file_hash, segment_file
from nbx.audit.heads import public_hex
from nbx.audit.segments import SCHEMA, entries_of, next_hash, place_of, to_table, write_segment
from nbx.audit.verify import verify
from tests.archives import DAY_MS, KEY, START_MS, entries, spans_of

BAR_ROWS_S = 50_000
SEGMENTS = 10
CANDIDATES = 20
PARTITIONS = 16


def main(*, smoke: bool) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        begun = time.perf_counter()
        rows = _write(directory, 200 if smoke else 100_000)
        size = sum(path.stat().st_size for path in directory.rglob("*.parquet"))
        print(f"{rows:,} rows in {SEGMENTS} segments, {size / 1e6:.0f} MB, made in {time.perf_counter() - begun:.0f} s")
        plain, default, each_row = [], [], []
        for _ in range(1 if smoke else 3):
            begun = time.perf_counter()
            for path in directory.rglob("*.parquet"):
                file_hash(path)
            plain.append(time.perf_counter() - begun)
            default.append(_verified(directory, rows=False))
        each_row.append(_verified(directory, rows=True))
    once = statistics.median(plain)
    for what, runs in (("verify", default), ("verify --rows", each_row)):
        took = statistics.median(runs)
        print(f"{what:14} {took:7.2f} s, {rows / took:9,.0f} rows/s, {took / once:7.1f} x reading and hashing")
    if rows / statistics.median(default) < BAR_ROWS_S and not smoke:
        sys.exit(1)


def _verified(directory: Path, *, rows: bool) -> float:
    found = verify(directory, rows=rows, workers=2)
    assert not found.faults, found.faults[:3]
    return found.seconds


def _write(directory: Path, rows: int) -> int:
    chain = Chain.open(directory)
    chain.append(Record(kind="begin", n=0, at_ms=START_MS, prev="", public_key=public_hex(KEY)))
    batch = entries(np.random.default_rng(1), START_MS, rows, CANDIDATES, PARTITIONS)
    table = to_table(batch, bytes(32))
    for number in range(SEGMENTS):
        later = _later(table, number * DAY_MS // 2)
        start = chain.hash
        moved = entries_of(later)
        before, hashes = bytes.fromhex(start), []
        for entry in moved:
            before = next_hash(before, place_of(entry), entry.payload)
            hashes.append(before)
        later = later.set_column(len(SCHEMA) - 1, SCHEMA.field("row_hash"), pa.array(hashes, pa.binary(32)))
        from_ms = START_MS + number * DAY_MS // 2
        day = np.datetime64(from_ms, "ms").astype("datetime64[D]")
        record = Record(
            kind="segment", n=number + 1, at_ms=from_ms, prev="", file=segment_file(number + 1, str(day)),
            rows=len(moved), spans=spans_of(moved), from_ms=from_ms, to_ms=from_ms, rows_hash=before.hex(),
        )  # fmt: skip
        path = directory / record.file
        path.parent.mkdir(exist_ok=True)
        write_segment(path, later, {"n": str(record.n), "prev": start})
        chain.append(structs.replace(record, sha256=file_hash(path)))
    return sum(record.rows for record in chain.segments.values())


def _later(table: pa.Table, by_ms: int) -> pa.Table:
    """Move rows in time; the journal's ids are steps, they move as far."""
    ms, seq = (table.column(name).to_numpy() for name in ("log_ms", "log_seq"))
    journal = ms == 0
    moved = np.where(journal, ms, ms + by_ms)
    logged = pa.array(np.where(journal, 0, moved).astype("datetime64[ms]"), pa.timestamp("ms"), mask=journal)
    for name, column in (("log_ms", moved), ("log_seq", np.where(journal, seq + by_ms, seq)), ("logged_at", logged)):
        at = SCHEMA.get_field_index(name)
        table = table.set_column(at, SCHEMA.field(at), pa.array(column, SCHEMA.field(at).type))
    return table


if __name__ == "__main__":
    main(smoke="--smoke" in sys.argv[1:])
