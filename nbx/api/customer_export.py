"""Everything that is kept about a customer, for the customer: one JSON document, written as it is read.

What is packed is told by name, numbers as numbers. The log comes from archive and stream; of decisions everything is in
it, candidates and chances too. Bounded: a page of the log and of keys at a time is in memory, and the ids of the
customer's decisions.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

import msgspec
import numpy as np

from nbx.api.wiring import Services
from nbx.errors import Unknown
from nbx.experience.entries import FACTORS, DecisionEntry, Entry, decode_entry
from nbx.experience.goals import goal_timer
from nbx.experience.identity import merge_timer
from nbx.experience.lifecycle import decode_open
from nbx.experience.promises import promise_timer
from nbx.features.keys import partition_keys
from nbx.features.state import ERASED, Handover, decode_state
from nbx.features.store import versioned
from nbx.ids import checked_id, decision_ref, partition_of

PAGE: Final = 256
TIMEOUT_MS: Final = 5_000.0
NOT_INCLUDED: Final = (
    "what the models hold: sums over all customers, from which no one can be read",
    "marks of event ids, kept for a while so that a repeated event counts once",
    "the company's catalog, which decides what was offered: see its history",
    "what happened before the log begins, or was erased",
    "copies made before: of the data directory, the archive, and exports",
)
_json = msgspec.json.Encoder().encode


async def customer_ids(services: Services, customer_id: str) -> list[str]:
    """Return a customer's canonical id and then its others; `Unknown` when nothing is known."""
    checked_id(customer_id, "customer_id")
    root = await services.events.merging.peek(customer_id)
    packed = await _state(services, root.customer_id)
    if packed is None or versioned(packed)[1] == ERASED:
        raise Unknown(f"customer {customer_id} is not known here", field="customer_id", code="customer_unknown")
    return [root.customer_id, *(alias for alias, sequence in root.state.aliases.items() if sequence > 0)]


async def export_of(services: Services, ids: list[str]) -> AsyncIterator[bytes]:
    """Yield the document of a customer with these ids, piece by piece."""
    head = {
        "customer_id": ids[0],
        "customer_ids": ids,
        "exported_at": services.clock.now_ms(),
        "not_included": NOT_INCLUDED,
        "state": {each: await _state_of(services, each) for each in ids},
    }
    yield _json(head)[:-1] + b',"log":['
    decisions: dict[str, tuple[str, str]] = {}
    first = True
    for each in ids:
        async for page in services.history.rows(partition_of(each, services.settings.partitions), each):
            entries = [entry for row in page if (entry := _decoded(row.payload)) and entry.customer_id == each]
            for entry in entries:
                if isinstance(entry, DecisionEntry):
                    decisions[entry.decision_id] = each, entry.request.request_id
            if entries:
                yield (b"" if first else b",") + b",".join(_json(told(entry)) for entry in entries)
                first = False
    yield b'],"decisions":['
    first = True
    known = list(decisions)
    for at in range(0, len(known), PAGE):
        found = [await _kept_of(services, each, *decisions[each]) for each in known[at : at + PAGE]]
        pieces = [_json(each) for each in found if len(each) > 1]
        if pieces:
            yield (b"" if first else b",") + b",".join(pieces)
            first = False
    members = [name(each) for each in ids for name in (merge_timer, promise_timer)]
    yield b'],"timers":' + _json([timer for each in ids for timer in await _timers(services, each, members)]) + b"}"


def told(entry: Entry) -> dict[str, Any]:
    """Return a log entry as people read it: fields by name, arrays as numbers.

    A decision's candidates stand each with their factors by name.
    """
    named: dict[str, Any] = plain(entry)
    if isinstance(entry, DecisionEntry):
        table = np.frombuffer(entry.factors, dtype="<f4").reshape(len(entry.actions), len(FACTORS)).tolist()
        names = zip(entry.actions, entry.treatments, table, strict=True)
        named["candidates"] = [
            {"action": action, "treatment": treatment, **dict(zip(FACTORS, row, strict=True))}
            for action, treatment, row in names
        ]
        for packed in ("actions", "treatments", "factors"):
            del named[packed]
    return {"what": type(entry).__name__.removesuffix("Entry").lower(), **named}


def plain(value: Any) -> Any:
    """Return something packed as plain data, all the way down.

    Examples
    --------
    >>> plain(Handover(7, state=b"", entry=b"", decision=b""))
    {'sequence': 7, 'state': None, 'entry': None, 'decision': None}
    """
    if isinstance(value, Handover):
        return {
            "sequence": value.sequence,
            "state": plain(decode_state(value.state)) if value.state else None,
            "entry": told(decode_entry(value.entry)) if value.entry else None,
            "decision": plain(decode_open(value.decision)) if value.decision else None,
        }
    if isinstance(value, msgspec.Struct):
        return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, dict):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, bytes):  # vectors of features and chances
        return np.frombuffer(value, dtype="<f4").tolist()
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


async def _state(services: Services, customer_id: str) -> bytes | None:
    key = partition_keys(partition_of(customer_id, services.settings.partitions)).customer(customer_id)
    return (await services.store.read([key], TIMEOUT_MS))[0]


async def _state_of(services: Services, customer_id: str) -> dict[str, Any]:
    version, struct = versioned(await _state(services, customer_id))
    return {"version": version, **plain(decode_state(struct))}


async def _kept_of(services: Services, decision_id: str, customer_id: str, request_id: str) -> dict[str, Any]:
    """Return what is kept of a decision beside the log: its slots, the reply, the learner's sites, timers."""
    keys = partition_keys(decision_ref(decision_id).partition)
    kept: dict[str, Any] = {"decision_id": decision_id}
    wanted = [keys.decision(decision_id), *([keys.request(customer_id, request_id)] if request_id else [])]
    opened, *replies = await services.store.read(wanted, TIMEOUT_MS)
    slots = 0
    if opened is not None:
        decision = decode_open(opened)
        slots = len(decision.slots)
        kept["open"] = plain(decision)
    if replies and replies[0] is not None:
        kept["reply"] = _guessed(replies[0])
    fields = await services.connection.execute("HGETALL", keys.sites(decision_id), timeout_ms=TIMEOUT_MS)
    if fields:
        sites = zip(fields[::2], fields[1::2], strict=True)
        kept["learned"] = {name.decode(): msgspec.msgpack.decode(packed) for name, packed in sites}
    members = [f"{kind}:{decision_id}:{slot}" for slot in range(slots) for kind in ("delivery", "attention")]
    if opened is not None:
        timers = await _timers(services, customer_id, [*members, goal_timer(decision_id)])
        if timers:
            kept["timers"] = timers
    return kept


async def _timers(services: Services, customer_id: str, members: Iterable[str]) -> list[dict[str, Any]]:
    """Return those of some timers that are armed in a customer's partition."""
    names = list(members)
    timers = partition_keys(partition_of(customer_id, services.settings.partitions)).timers
    scores = await services.connection.execute("ZMSCORE", timers, *names, timeout_ms=TIMEOUT_MS)
    return [
        {"timer": name, "due_ms": int(float(score))}
        for name, score in zip(names, scores, strict=True)
        if score is not None
    ]


def _guessed(packed: bytes) -> Any:
    """Return a stored reply, whichever way it is packed."""
    for decode in (msgspec.json.decode, msgspec.msgpack.decode):
        try:
            return decode(packed)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
    return None


def _decoded(payload: bytes) -> Entry | None:
    try:
        return decode_entry(payload)
    except msgspec.DecodeError:
        return None
