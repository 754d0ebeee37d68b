"""Archives for tests and benchmarks: entries as a service would have logged them, and segments and chain over them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import structs

from nbx.audit.chain import Chain, Record, Span, file_hash, segment_file
from nbx.audit.heads import public_hex
from nbx.audit.log_ids import ADMIN, JOURNAL
from nbx.audit.segments import entries_of, place_of, to_table, write_segment
from nbx.experience.entries import (
    FACTORS,
    DecisionEntry,
    Entry,
    Event,
    EventEntry,
    GoalOutcome,
    Outcome,
    PolicyRecord,
    ProfileEntry,
    Removed,
    RequestRecord,
    SlotRecord,
    TimerEntry,
    encode_entry,
)
from nbx.features.store import LogEntry
from nbx.features.trail import Change

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SECRET = bytes(range(32))
START_MS = 1_800_000_000_000
DAY_MS = 86_400_000
COLUMNS = 12


def write_archive(
    directory: Path, segments: int = 4, rows: int = 24, *, candidates: int = 3, partitions: int = 3, seed: int = 1
) -> Chain:
    """Write an archive, two segments a day."""
    rng = np.random.default_rng(seed)
    chain = Chain.open(directory)
    chain.append(Record(kind="begin", n=0, at_ms=START_MS, prev="", public_key=public_hex(KEY)))
    for number in range(segments):
        from_ms = START_MS + number * DAY_MS // 2
        add_segment(chain, entries(rng, from_ms, rows, candidates, partitions, step=number * 10))
    return chain


def add_segment(chain: Chain, found: Sequence[LogEntry]) -> Record:
    """Write entries as the next segment."""
    number = len(chain.segments) + 1
    times = [place_of(entry).ms for entry in found if entry.partition != JOURNAL]
    day = datetime.fromtimestamp(times[0] / 1000, UTC).date().isoformat()
    record = Record(
        kind="segment", n=number, at_ms=max(times), prev="", file=segment_file(number, day), rows=len(found),
        spans=spans_of(found), from_ms=min(times), to_ms=max(times),
    )  # fmt: skip
    return chain.append(written(chain, record, found, chain.hash))


def rewrite(chain: Chain, number: int, erased: Sequence[int], key: Ed25519PrivateKey = KEY) -> Record:
    """Write a segment anew with some rows erased, as an erasure does."""
    import pyarrow.parquet as pq

    before = chain.segments[number]
    found = entries_of(pq.ParquetFile(chain.directory / before.file).read())
    for row in erased:
        found[row] = found[row]._replace(payload=b"")
    stem, _, rest = before.file.removesuffix(".parquet").partition(".r")
    start = before.before or before.prev
    record = structs.replace(
        before, kind="rewrite", file=f"{stem}.r{int(rest or 0) + 1}.parquet", before=start, why={"erased": "customer"}
    )
    done = chain.append(written(chain, record, found, start), key)
    (chain.directory / before.file).unlink()
    return done


def written(chain: Chain, record: Record, found: Sequence[LogEntry], start: str) -> Record:
    """Write a segment's file; returns the record with what it says of the file."""
    path = chain.directory / record.file
    path.parent.mkdir(parents=True, exist_ok=True)
    table = to_table(found, bytes.fromhex(start))
    write_segment(path, table, {"n": str(record.n), "prev": start})
    return structs.replace(record, sha256=file_hash(path), rows_hash=table.column("row_hash")[-1].as_py().hex())


def spans_of(found: Sequence[LogEntry]) -> dict[int, Span]:
    """Return the spans of entries."""
    spans: dict[int, Span] = {}
    for entry in found:
        span = spans.get(entry.partition, Span(entry.entry_id, "", 0))
        spans[entry.partition] = Span(span.first, entry.entry_id, span.count + 1)
    return spans


def entries(
    rng: np.random.Generator, from_ms: int, rows: int, candidates: int, partitions: int, step: int = 0
) -> list[LogEntry]:
    """Return entries of one batch in the archive's order: journal, admin trail, then the partitions."""
    offsets = {str(number): f"{from_ms}-0" for number in range(partitions)}
    found = [
        LogEntry(JOURNAL, f"0-{step + number}", msgspec.msgpack.encode({"e": msgspec.msgpack.encode(offsets)}))
        for number in (1, 2)
    ]
    change = Change(at_ms=from_ms, who="anna (0123abcd)", what="published", details={"release": 2})
    found.append(LogEntry(ADMIN, f"{from_ms}-0", msgspec.json.encode(change)))
    share = -(-rows // partitions)
    for partition in range(partitions):
        stream = _life(rng, from_ms, candidates)
        found += [
            LogEntry(partition, f"{from_ms + 7 * (number // 2)}-{number % 2}", encode_entry(next(stream)))
            for number in range(share)
        ]
    return found


def _life(rng: np.random.Generator, now_ms: int, candidates: int) -> Iterator[Entry]:
    """Yield what customers' days are made of: a decision, that it was delivered, seen, answered, now and then more."""
    while True:
        now_ms += 7
        customer = f"customer-{rng.integers(100_000)}"
        decision = _decision(rng, customer, now_ms, candidates)
        about = decision.decision_id
        yield decision
        for kind in ("delivered", "seen"):
            event = Event(event_id=f"{kind}-{about}", type=kind, customer_id=customer, decision_id=about)
            yield EventEntry(customer_id=customer, at_ms=now_ms + 100, release=2, event=event, received_ms=now_ms + 120)
        outcome = Outcome(
            customer_id=customer, decision_id=about, slot=0, revision=0, action="action-1", group="cards",
            treatment="card", placement="web",
            outcome="declined", previous=None, cause="price", confidence=0.8, evidence=("stated",), response=0,
            response_weight=1.0, experience=-1.0, experience_weight=1.0, release=2, at_ms=now_ms + 5_000,
            x=decision.x, rule="stated_reason", channel="web",
        )  # fmt: skip
        answer = Event(
            event_id=f"answer-{about}", type="declined", reason="too dear", customer_id=customer, decision_id=about
        )
        yield EventEntry(
            customer_id=customer, at_ms=now_ms + 5_000, release=2, event=answer, received_ms=now_ms + 5_001,
            outcomes=(outcome,),
        )  # fmt: skip
        goal = GoalOutcome(
            decision_id=about, revision=0, customer_id=customer, placement="web", action="action-1",
            response=1, release=2, at_ms=now_ms + 6_000, x=decision.x,
        )  # fmt: skip
        yield TimerEntry(
            customer_id=customer, at_ms=now_ms + 6_000, release=2, decision_id=about, slot=-1,
            kind="goal", goals=(goal,),
        )  # fmt: skip
        yield ProfileEntry(customer_id=customer, at_ms=now_ms, release=2, changes={"age": int(rng.integers(18, 90))})


def _decision(rng: np.random.Generator, customer: str, now_ms: int, candidates: int) -> DecisionEntry:
    return DecisionEntry(
        customer_id=customer, at_ms=now_ms, release=2, decision_id=f"000{now_ms:011x}{rng.integers(2**40):012x}",
        snapshot=77, state_version=5, x=rng.random(COLUMNS, dtype=np.float32).tobytes(),
        request=RequestRecord(placement="web", slots=1, context={"hour": 13.0}, exclude=(), request_id="r-1"),
        policy=PolicyRecord(exchange=0.5, strain=1.0, scale=1.0, floor=0.01, salt="nbx"),
        relationship={"balance": float(rng.normal())}, removed=(Removed("action-x", "limit", "2 per day"),),
        actions=tuple(f"action-{number}" for number in range(candidates)), treatments=("card",) * candidates,
        factors=rng.random((candidates, len(FACTORS)), dtype=np.float32).tobytes(), none_probability=0.02,
        mandatory=(), shared=(),
        slots=(
            SlotRecord(
                action="action-1", treatment="card", group="cards", p_response=0.1, propensity=float(rng.random()),
                none="", implicit=False, delivery_ms=1_000, attention_ms=1_000, expires_at_ms=now_ms + 1_000,
            ),
        ),
        holdout="", degraded=(), took_us=900, channel="web", segments=("young",),
    )  # fmt: skip
