"""What a decision reads and writes, packed and unpacked: the structs of nbx against the same as dicts.

    python -m benchmarks.run --only codecs

Request, reply, customer state, open decision and log record of one decision of 50 candidates and 32 columns. Against
`json` of the standard library (bytes as base64) and against msgspec's MessagePack of plain dicts, which would not know
a wrong type from a right one.
"""

from __future__ import annotations

import json
import time
from base64 import b64encode
from typing import Any

import msgspec

from benchmarks.catalogs import sized
from benchmarks.harness import PYTHON, Result, Size, Table, interleaved
from benchmarks.in_process import AtOnceStore, bodies, packed_states, result_of, served, service
from nbx.api.plane import DataPlane, decoded_request
from nbx.decision.messages import DecideReply
from nbx.experience.entries import decode_entry, encode_entry
from nbx.experience.lifecycle import decode_open, encode_open
from nbx.features.state import decode_state, encode_state
from nbx.features.store import versioned


def measure(size: Size) -> Result:
    """Measure every codec."""
    rounds, repeats = (2, 5) if size == "smoke" else (25, 50)
    plan, model = served(sized(50, 32))
    store, body = AtOnceStore(packed_states(plan)), bodies(plan)[0]
    reply_body = result_of(DataPlane(service(plan, model, store), None).decide(body))  # type: ignore[arg-type] # no events
    assert store.last is not None
    _, state_packed = versioned(packed_states(plan)[0])
    assert state_packed is not None
    open_packed, record_packed = store.last.puts[0].value, store.last.entries[0]
    reply = msgspec.json.decode(reply_body, type=DecideReply)
    decode_reply, encode_json = msgspec.json.Decoder(DecideReply).decode, msgspec.json.Encoder().encode
    state, opened, record = decode_state(state_packed), decode_open(open_packed), decode_entry(record_packed)
    work = {
        "request, read": (lambda: decoded_request(body), body, decoded_request(body)),
        "reply, written": (lambda: encode_json(reply), reply_body, reply),
        "reply, read (a retry)": (lambda: decode_reply(reply_body), reply_body, reply),
        "state, read": (lambda: decode_state(state_packed), state_packed, state),
        "state, written": (lambda: encode_state(state), state_packed, state),
        "open decision, read": (lambda: decode_open(open_packed), open_packed, opened),
        "open decision, written": (lambda: encode_open(opened), open_packed, opened),
        "record, read": (lambda: decode_entry(record_packed), record_packed, record),
        "record, written": (lambda: encode_entry(record), record_packed, record),
    }
    rows = []
    for name, (own, packed, thing) in work.items():
        plain = _plain(thing)
        text, generic = json.dumps(plain), msgspec.msgpack.encode(plain)
        reads = "read" in name
        found = interleaved(
            {
                "own": own,
                "json": (lambda text=text: json.loads(text)) if reads else (lambda plain=plain: json.dumps(plain)),  # type: ignore[misc]
                "dicts": (lambda generic=generic: msgspec.msgpack.decode(generic))  # type: ignore[misc]
                if reads
                else (lambda plain=plain: msgspec.msgpack.encode(plain)),  # type: ignore[misc]
            },
            rounds,
            repeats,
            time.thread_time,
        )
        rows.append((name, found["own"], len(packed), found["json"], len(text), found["dicts"], len(generic)))
    return Result(
        title="Codecs",
        what=f"one decision's bytes, CPU time, medians of {rounds} rounds",
        against="json of the standard library, and MessagePack of plain dicts",
        command=f"{PYTHON} --only codecs",
        tables=(Table(("", "nbx µs", "bytes", "json µs", "bytes", "dicts µs", "bytes"), tuple(rows)),),
        size=size,
    )


def _plain(thing: Any) -> Any:
    """Return the same as dicts, lists and numbers; bytes as base64."""
    if isinstance(thing, msgspec.Struct):
        return {name: _plain(getattr(thing, name)) for name in thing.__struct_fields__}
    if isinstance(thing, dict):
        return {str(key): _plain(value) for key, value in thing.items()}
    if isinstance(thing, list | tuple):
        return [_plain(each) for each in thing]
    return b64encode(thing).decode() if isinstance(thing, bytes | memoryview) else thing
