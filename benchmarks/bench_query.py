"""The last hour of ten million rows: through a query's process, start and all, against all files without the chain.

    python -m benchmarks.bench_query [--days 10] [--rows 1000000] [--keep DIR] [--smoke]

Rows a day in 288 segments, as the keeper writes them every five minutes. Wall time as a caller sees it: the worker is
started, reads the chain, opens what it needs, answers, ends. `all files` is DuckDB in this process, warm, that opens
every segment for the same condition. Rounds alternate; medians are told.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import duckdb
import msgspec
import numpy as np
import pyarrow as pa

from benchmarks.archived_log import PARTITIONS, Archive, history
from nbx.audit.decisions_found import Criteria
from nbx.audit.query_answer import Bounds
from nbx.audit.reading import Window
from nbx.audit.segments import place_of, to_table
from nbx.runtime.querying import FOREVER_MS, Asked, ask

START_MS = 1_767_225_600_000
DAY_MS = 86_400_000
SEGMENTS = 288
"""A day."""
HOUR = "SELECT placement, count(*) AS n, avg(took_us) FROM decisions WHERE at >= now() - INTERVAL 1 HOUR GROUP BY ALL"
PLAIN = """SELECT placement, count(*), avg(took_us) FROM read_parquet('{files}')
WHERE kind = 'decision' AND "at" >= TIMESTAMP '{since}' GROUP BY ALL"""


def build(directory: Path, days: int, rows: int, segments: int) -> int:
    """Write an archive; returns how many rows it has. One segment is laid out, the others are it at other times."""
    archive = Archive(directory)
    count = max(1, rows // segments // 2)
    span_ms = DAY_MS // segments
    template = to_table(sorted(history(count, START_MS, max(2, span_ms // count), 5000), key=place_of), bytes(32))
    for number in range(days * segments):
        archive.add_table(_shifted(template, number * span_ms))
    return 2 * count * days * segments


def _shifted(table: pa.Table, by_ms: int) -> pa.Table:
    columns = {name: table.column(name) for name in table.column_names}
    for name in ("log_ms", "logged_at", "at"):
        kind = columns[name].type
        moved = columns[name].cast(pa.int64()).to_numpy() + by_ms
        columns[name] = pa.chunked_array([pa.array(moved).cast(kind)])
    return pa.table(columns, schema=table.schema)


def timed(work: Any) -> tuple[float, Any]:
    """Return how long something took in seconds, and what it gave."""
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


def measure(directory: Path, now_ms: int, rounds: int) -> None:
    """Time the questions and print."""
    asked = Asked(
        archive=str(directory), redis_url="", partitions=PARTITIONS, span=Window(START_MS, FOREVER_MS),
        now_ms=now_ms, bounds=Bounds(seconds=600),
    )  # fmt: skip
    customer = Criteria(customer="customer-7", since_ms=START_MS, until_ms=now_ms, limit=20)
    questions = {
        "last hour": msgspec.structs.replace(asked, sql=HOUR),
        "all rows by kind": msgspec.structs.replace(asked, sql="SELECT kind, count(*) FROM log GROUP BY ALL"),
        "a customer's last 20": msgspec.structs.replace(asked, criteria=customer),
        "an unknown customer": msgspec.structs.replace(
            asked, criteria=msgspec.structs.replace(customer, customer="nobody")
        ),
    }
    since = np.datetime64(now_ms - 3_600_000, "ms")
    plain = PLAIN.format(files=f"{directory}/day=*/*.parquet", since=str(since).replace("T", " "))
    times: dict[str, list[float]] = {name: [] for name in (*questions, "all files")}
    for _ in range(rounds):
        for name, question in questions.items():
            took, said = timed(lambda question=question: asyncio.run(ask(question)))
            times[name].append(took)
            if name == "last hour":
                counted = msgspec.json.decode(said)["rows"]
        with duckdb.connect(config={"threads": 1}) as connection:
            took, found = timed(lambda connection=connection: connection.execute(plain).fetchall())
        times["all files"].append(took)
        assert [list(row)[:2] for row in found] == [row[:2] for row in counted], (found, counted)
    medians = {name: median(values) for name, values in times.items()}
    for name, value in medians.items():
        print(f"{name}: {value:.2f} s (worst {max(times[name]):.2f})")
    print(
        f"last hour, with the chain against all files: {medians['all files'] / medians['last hour']:.1f} x (bar: 2 s)"
    )


def main() -> None:
    """Build, measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--days", type=int, default=10)
    parser.add_argument("--rows", type=int, default=1_000_000, help="a day")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="build here, or measure what is here")
    parser.add_argument("--smoke", action="store_true")
    asked = parser.parse_args()
    days, rows, segments, rounds = (1, 960, 48, 1) if asked.smoke else (asked.days, asked.rows, SEGMENTS, asked.rounds)
    with tempfile.TemporaryDirectory() as made:
        directory = asked.keep or Path(made)
        if not (directory / "chain.jsonl").exists():
            took, total = timed(lambda: build(directory, days, rows, segments))
            print(f"{total:,} rows in {days * segments} segments, written in {took:.0f} s")
        measure(directory, START_MS + days * DAY_MS, rounds)


if __name__ == "__main__":
    main()
