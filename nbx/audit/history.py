"""Finding decisions and a customer's past in the live log."""

from __future__ import annotations

import asyncio

import msgspec
from msgspec import Struct

from nbx.errors import Unknown
from nbx.experience.entries import DecisionEntry, Entry, decode_entry
from nbx.experience.lifecycle import OpenDecision, decode_open
from nbx.features.keys import partition_keys
from nbx.features.store import LogEntry, Store
from nbx.ids import decision_ref, partition_of

BEFORE_MS = 60_000
"""How far a log id may lie before the decision's own time: clocks differ."""
AFTER_MS = 600_000
"""How much later a decision may have been logged: a degraded one waits for the store."""
PAGE = 256
TAIL = 2_000
"""Log entries read back from the end for a customer's timeline."""
TIMEOUT_MS = 2_000.0


class DecisionView(Struct, frozen=True, kw_only=True):
    """A decision with what became of it."""

    record: DecisionEntry
    slots: OpenDecision | None
    """Where its slots stand; None when it is no longer open to correction."""


async def find_decision(store: Store, decision_id: str, partitions: int) -> DecisionEntry:
    """Return the record of a decision; raises as `locate_decision`."""
    return (await locate_decision(store, decision_id, partitions))[1]


async def locate_decision(store: Store, decision_id: str, partitions: int) -> tuple[LogEntry, DecisionEntry]:
    """Return the record of a decision, and the log entry that it was read from.

    Raises
    ------
    Invalid
        Not an id of ours.
    Unknown
        No such decision in the log.
    """
    ref = decision_ref(decision_id)
    if ref.partition < partitions:
        start, end = f"{max(ref.at_ms - BEFORE_MS, 0)}", f"{ref.at_ms + AFTER_MS}"
        wanted = decision_id.encode()
        # decisions are logged within milliseconds as a rule: begin there, then look at what came earlier
        for low, high in ((f"{max(ref.at_ms - 5, 0)}", end), (start, f"{ref.at_ms}")):
            cursor = low
            while page := await store.log_range(ref.partition, cursor, high, PAGE):
                for entry in page:
                    if wanted in entry.payload[:512]:
                        decoded = _decoded(entry)
                        if isinstance(decoded, DecisionEntry) and decoded.decision_id == decision_id:
                            return entry, decoded
                cursor = f"({page[-1].entry_id}"
    raise Unknown(f"decision {decision_id} is not in the log", field="decision_id", code="decision_unknown")


async def view_decision(store: Store, decision_id: str, partitions: int) -> DecisionView:
    """Return a decision's record and where its slots stand."""
    record = await find_decision(store, decision_id, partitions)
    keys = partition_keys(decision_ref(decision_id).partition)
    (packed,) = await store.read([keys.decision(decision_id)], TIMEOUT_MS)
    return DecisionView(record=record, slots=decode_open(packed) if packed is not None else None)


async def latest_decisions(store: Store, partitions: int, count: int) -> list[DecisionEntry]:
    """Return the latest decisions of all partitions, newest first."""
    tails = await asyncio.gather(*(store.log_tail(partition, count * 2) for partition in range(partitions)))
    newest = sorted((e for tail in tails for e in tail), key=_order, reverse=True)
    found: list[DecisionEntry] = []
    for entry in newest:
        decoded = _decoded(entry)
        if isinstance(decoded, DecisionEntry):
            found.append(decoded)
            if len(found) == count:
                break
    return found


async def timeline(store: Store, customer_id: str, partitions: int, count: int) -> list[Entry]:
    """Return a customer's last log entries, newest first, from the last `TAIL` of the partition."""
    wanted = customer_id.encode()
    tail = await store.log_tail(partition_of(customer_id, partitions), TAIL)
    entries = (_decoded(entry) for entry in tail if wanted in entry.payload)
    return [entry for entry in entries if entry is not None and entry.customer_id == customer_id][:count]


def _decoded(entry: LogEntry) -> Entry | None:
    try:
        return decode_entry(entry.payload)
    except msgspec.DecodeError:
        return None


def _order(entry: LogEntry) -> tuple[int, int]:
    ms, _, sequence = entry.entry_id.partition("-")
    return int(ms), int(sequence)
