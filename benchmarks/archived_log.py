"""A made-up log and its archive: decisions of customers who answer. For benchmarks and tests of what reads it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from nbx.audit.chain import START, Chain, file_hash, segment_file
from nbx.audit.records import Record, Span
from nbx.audit.segments import place_of, to_table, write_segment
from nbx.experience.entries import (
    FACTORS,
    DecisionEntry,
    Entry,
    Event,
    EventEntry,
    Outcome,
    PolicyRecord,
    Removed,
    RequestRecord,
    SlotRecord,
    encode_entry,
)
from nbx.features.store import LogEntry
from nbx.ids import partition_of

PARTITIONS = 4
ACTIONS = ("alpha", "beta", "gamma")
ANSWERS = ("accepted", "declined", "ignored")
_HEX = 16**12


def decision(number: int, at_ms: int, customer: str, **more: Any) -> DecisionEntry:
    """Make a decision of one slot that holds `ACTIONS[number % 3]`, with `delta` removed."""
    partition = partition_of(customer, PARTITIONS)
    action = ACTIONS[number % len(ACTIONS)]
    factors = np.linspace(0.1, 0.9, len(ACTIONS) * len(FACTORS), dtype="<f4")
    slot = SlotRecord(
        action=action, treatment="card", group="offers", p_response=0.25, propensity=0.5, none="", implicit=True,
        delivery_ms=1000, attention_ms=1000, expires_at_ms=at_ms + 1000,
    )  # fmt: skip
    entry = DecisionEntry(
        customer_id=customer, at_ms=at_ms, release=1, decision_id=f"{partition:03x}{at_ms:011x}{number % _HEX:012x}",
        snapshot=3, state_version=1,
        request=RequestRecord(placement="web", slots=1, context={"hour": number % 24}, exclude=(), request_id=""),
        policy=PolicyRecord(exchange=1.0, strain=0.1, scale=1.0, floor=0.01, salt="nbx"),
        x=np.full(8, 0.5, "<f4").tobytes(), relationship={"balance": 1.5},
        removed=(Removed("delta", "limit_reached", "overall"),), actions=ACTIONS, treatments=("card",) * len(ACTIONS),
        factors=factors.tobytes(), none_probability=0.1, mandatory=(), shared=(), slots=(slot,), holdout="",
        degraded=(), took_us=300, channel="web",
    )  # fmt: skip
    return msgspec.structs.replace(entry, **more)


def answer(made: DecisionEntry, outcome: str, at_ms: int, revision: int = 0) -> EventEntry:
    """Make the event that tells what became of a decision."""
    told = Outcome(
        decision_id=made.decision_id, slot=0, revision=revision, customer_id=made.customer_id,
        action=made.slots[0].action, group="offers", treatment="card", placement="web",
        outcome=outcome, previous=None, cause="" if outcome == "accepted" else "timing",  # type: ignore[arg-type]
        confidence=0.5, evidence=("quick",), response=int(outcome == "accepted"), response_weight=1.0,
        experience=1.0, experience_weight=1.0, release=1, at_ms=at_ms, x=made.x, channel="web",
    )  # fmt: skip
    event = Event(
        event_id=f"{made.decision_id}/{revision}", type=outcome, decision_id=made.decision_id,
        customer_id=made.customer_id, at=at_ms,
    )  # fmt: skip
    return EventEntry(
        customer_id=made.customer_id, at_ms=at_ms, release=1, event=event, received_ms=at_ms, outcomes=(told,)
    )


def logged(entry: Entry, at_ms: int, sequence: int = 0) -> LogEntry:
    """Write an entry as it stands in its customer's log."""
    return LogEntry(partition_of(entry.customer_id, PARTITIONS), f"{at_ms}-{sequence}", encode_entry(entry))


def history(count: int, from_ms: int, step_ms: int = 1000, customers: int = 20, first: int = 0) -> list[LogEntry]:
    """Make decisions, one every `step_ms`, each answered half a step later; in the order of time."""
    rows: list[LogEntry] = []
    for number in range(first, first + count):
        at_ms = from_ms + (number - first) * step_ms
        made = decision(number, at_ms, f"customer-{number % customers}")
        told_ms = at_ms + step_ms // 2
        rows += (logged(made, at_ms), logged(answer(made, ANSWERS[number % len(ANSWERS)], told_ms), told_ms))
    return rows


class Archive:
    """An archive that is written segment by segment."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.chain = Chain.open(directory)
        if self.chain.head is None:
            self.chain.append(Record(kind="begin", n=0, at_ms=0, prev=START))

    def add(self, rows: Sequence[LogEntry]) -> Record:
        """Write rows of one day as the next segment."""
        ordered = sorted(rows, key=place_of)
        return self.add_table(to_table(ordered, bytes.fromhex(self.chain.hash)))

    def add_table(self, table: pa.Table) -> Record:
        """Write a segment's table, its rows in order of partition and place."""
        partitions = table.column("partition").to_numpy()
        ms, sequences = table.column("log_ms").to_numpy(), table.column("log_seq").to_numpy()
        spans: dict[int, Span] = {}
        for partition in np.unique(partitions).tolist():
            at = np.flatnonzero(partitions == partition)
            first, last = (f"{ms[i]}-{sequences[i]}" for i in (at[0], at[-1]))
            spans[partition] = Span(first, last, len(at))
        n = max(self.chain.segments, default=0) + 1
        file = segment_file(n, f"{datetime.fromtimestamp(int(ms.min()) / 1000, UTC):%Y-%m-%d}")
        path = self.directory / file
        path.parent.mkdir(exist_ok=True)
        write_segment(path, table, {})
        record = Record(
            kind="segment", n=n, at_ms=int(ms.max()), prev="", file=file, sha256=file_hash(path), rows=table.num_rows,
            rows_hash=table.column("row_hash")[-1].as_py().hex(), spans=spans, from_ms=int(ms.min()),
            to_ms=int(ms.max()),
        )  # fmt: skip
        return self.chain.append(record)
