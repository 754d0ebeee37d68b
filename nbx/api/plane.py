"""The data plane: bytes in, bytes out, for the calls both the hot front and the documented routes answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import msgspec

from nbx.api.errors import UNREADABLE, from_decode, problem
from nbx.api.messages import BatchItem, InteractionReply, InteractionRequest
from nbx.audit.metrics import ERRORS, EVENTS
from nbx.decision.messages import DecideRequest
from nbx.decision.service import DecisionService
from nbx.errors import Invalid, NbxError, TooLarge
from nbx.experience.entries import Event
from nbx.experience.results import EventResult
from nbx.experience.service import EventService
from nbx.limits import BATCH

_log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode
_decode_request = msgspec.json.Decoder(DecideRequest).decode
_decode_raw_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_interaction = msgspec.json.Decoder(InteractionRequest).decode
_decode_event = msgspec.json.Decoder(Event).decode


class DataPlane:
    """Decode, call the service, encode.

    Parameters
    ----------
    decisions, events
        The services behind every face.
    """

    def __init__(self, decisions: DecisionService, events: EventService) -> None:
        self.decisions = decisions
        self.events = events

    async def decide(self, body: bytes) -> bytes:
        """`POST /v1/decisions`."""
        return _encode(await self.decisions.decide(decoded_request(body)))

    async def decide_batch(self, body: bytes) -> bytes:
        """`POST /v1/decisions:batch`: one result per request, in order; a bad one fails alone."""
        rows = _rows(body, "requests")
        decoded: list[DecideRequest | NbxError] = []
        for row in rows:
            try:
                decoded.append(_decode_request(row))
            except UNREADABLE as error:
                decoded.append(from_decode(error))
        return _encode(await self.decide_many(decoded))

    async def decide_many(self, requests: Sequence[DecideRequest | NbxError]) -> list[BatchItem]:
        """Decide many at once; what is an error already stays one."""
        results = await asyncio.gather(*(self.decide_one(request) for request in requests))
        return list(results)

    async def decide_one(self, request: DecideRequest | NbxError, since_ns: int = 0) -> BatchItem:
        """Decide one of many, what is wrong with it is its result; `since_ns` as `DecisionService.decide` has it."""
        try:
            if not isinstance(request, NbxError):
                return BatchItem(reply=await self.decisions.decide(request, since_ns))
            refused = request
        except NbxError as error:
            refused = error
        except Exception:  # noqa: BLE001 - no traceback may reach a caller
            _log.exception("unexpected error in one of many decisions")
            refused = NbxError("something went wrong here; it is in the service's log")
        ERRORS.labels(refused.code).inc()
        return BatchItem(problem=problem(refused))

    async def record(self, body: bytes) -> bytes:
        """`POST /v1/events`: one result per event, in order; a bad one fails alone."""
        return _encode(await self.record_many(decoded_events(body)))

    async def record_many(self, events: Sequence[Event | EventResult]) -> list[EventResult]:
        """Record many; what was rejected already stays so."""
        good = [event for event in events if isinstance(event, Event)]
        recorded = iter(await self.events.record(good))
        results = []
        for index, event in enumerate(events):
            result = event if isinstance(event, EventResult) else next(recorded)
            if result.status == "rejected" and result.field.startswith("events["):
                _, _, path = result.field.partition("]")
                result = msgspec.structs.replace(result, field=f"events[{index}]{path}")
            EVENTS.labels(result.status).inc()
            results.append(result)
        return results

    async def interact(self, body: bytes) -> InteractionReply:
        """`POST /v1/interactions`: events, then a decision that sees them."""
        try:
            request = _decode_interaction(body)
        except UNREADABLE as error:
            raise from_decode(error) from None
        events = await self.record_many(request.events)
        return InteractionReply(events=events, decision=await self.decisions.decide(request.decision))


def decoded_request(body: bytes) -> DecideRequest:
    """Read the body of a decision; raises `Invalid` with the field."""
    try:
        return _decode_request(body)
    except UNREADABLE as error:
        raise from_decode(error) from None


def decoded_events(body: bytes) -> list[Event | EventResult]:
    """Read a body of events; what cannot be read is a rejection in its place."""
    return [_decoded(row, i) for i, row in enumerate(_rows(body, "events"))]


def _rows(body: bytes, name: str) -> list[msgspec.Raw]:
    try:
        rows = _decode_raw_list(body)
    except UNREADABLE as error:
        raise from_decode(error) from None
    if not rows:
        raise Invalid(f"{name} is empty", field=name)
    if len(rows) > BATCH:
        raise TooLarge(f"{len(rows)} {name} in one call, at most {BATCH} are allowed", field=name)
    return rows


def _decoded(row: msgspec.Raw, index: int) -> Event | EventResult:
    try:
        return _decode_event(row)
    except UNREADABLE as error:
        fault = from_decode(error)
        field = f"events[{index}].{fault.field}" if fault.field else f"events[{index}]"
        return EventResult("", "rejected", code=fault.code, detail=fault.message, field=field)
