"""What each call of the client sends and returns, as steps (`patience.Steps`).

Every decision has a `request_id` and every event an `event_id`, made once per call when the caller gave none, and kept
over its attempts: the service does each once. After a lost answer an event's result is `duplicate`: it is in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import count
from typing import Any, TypeVar
from urllib.parse import quote
from uuid import uuid4

import msgspec
from msgspec.structs import replace

from nbx.api.messages import BatchItem, InteractionReply, InteractionRequest, ProfilePatch
from nbx.client.patience import TEMPORARY, TEMPORARY_CODES, Patience, Refused, Retry, Send, Steps
from nbx.decision.messages import DecideReply, DecideRequest, Explain, Mode
from nbx.errors import Unavailable
from nbx.experience.entries import Event
from nbx.experience.results import EventResult
from nbx.features.schema import Value

DEADLINE_S = 5.0
"""Of a call, unless told: a page that waits longer has been left."""
FOR_THE_WAY = 0.1
"""Share of an attempt's time that its answer gets to travel: the service is told what is left without it."""
SERVICE_MS = 10_000
"""Longest deadline of a decision that the service takes."""

_encode = msgspec.json.Encoder().encode
_decode_reply = msgspec.json.Decoder(DecideReply).decode
_decode_items = msgspec.json.Decoder(list[BatchItem]).decode
_decode_results = msgspec.json.Decoder(list[EventResult]).decode
_decode_interaction = msgspec.json.Decoder(InteractionReply).decode
D = TypeVar("D", DecideRequest, Event)
R = TypeVar("R", BatchItem, EventResult)
T = TypeVar("T")


@dataclass(slots=True, frozen=True)
class Caller:
    """What all calls of one client share."""

    url: str
    retry: Retry
    deadline_s: float
    seed: str
    """Of the pauses."""
    monotonic: Callable[[], float] = time.monotonic
    made: count[int] = field(default_factory=count)

    def patience(self, deadline_s: float | None) -> Patience:
        """Begin a call."""
        seconds = self.deadline_s if deadline_s is None else deadline_s
        return Patience(self.url, self.retry, seconds, self.monotonic, f"{self.seed}{next(self.made)}")


def decide(
    caller: Caller,
    /,
    customer_id: str,
    placement: str,
    *,
    slots: int = 1,
    context: Mapping[str, Value] | None = None,
    exclude: Sequence[str] = (),
    mode: Mode = "live",
    explain: Explain = "none",
    request_id: str = "",
    deadline_s: float | None = None,
) -> Steps[DecideReply]:
    """Ask what to do next for a customer, here, now.

    Parameters
    ----------
    customer_id, placement, slots, context, exclude, mode, explain
        As in `DecideRequest`.
    request_id
        A later call with the same id gets the same reply; empty: one is made for this call.
    deadline_s
        Seconds in all. What is left of it is told to the service too, which answers `degraded` rather than late;
        None: the client's own, and the service keeps to its default.

    Raises
    ------
    Refused
        The request is wrong; `field` and `code` say what.
    Unavailable
        No answer after all attempts; `DeadlineExceeded` when time ran out.
    """
    request = DecideRequest(
        customer_id=customer_id,
        placement=placement,
        slots=slots,
        context=dict(context or {}),
        exclude=tuple(exclude),
        mode=mode,
        explain=explain,
        request_id=request_id or _new_id(),
    )

    def attempt(timeout_s: float) -> Send:
        return Send("POST", "/v1/decisions", _encode(_within(request, deadline_s, timeout_s)), timeout_s)

    return _read(_decode_reply, (yield from caller.patience(deadline_s).send(attempt, again=True)))


def decide_many(
    caller: Caller, /, requests: Sequence[DecideRequest], *, deadline_s: float | None = None
) -> Steps[list[BatchItem]]:
    """Decide up to 100 at once; one item each, in order: a reply, or the problem of that request.

    Requests that could not be answered for the moment are asked again, alone. Parameters and errors as `decide`.
    """
    rows = [replace(request, request_id=request.request_id or _new_id()) for request in requests]

    def attempt(waiting: Sequence[DecideRequest], timeout_s: float) -> Send:
        body = _encode([_within(request, deadline_s, timeout_s) for request in waiting])
        return Send("POST", "/v1/decisions:batch", body, timeout_s)

    def not_now(item: BatchItem) -> str:
        return item.problem.detail if item.problem is not None and item.problem.status in TEMPORARY else ""

    return (yield from _rows(caller.patience(deadline_s), rows, attempt, _decode_items, not_now))


def record(caller: Caller, /, events: Sequence[Event], *, deadline_s: float | None = None) -> Steps[list[EventResult]]:
    """Record up to 100 events; one result each, in order. What is `accepted` or `duplicate` is stored.

    Parameters
    ----------
    events
        One without `event_id` gets one. Events rejected for the moment are sent again, alone.
    deadline_s
        Seconds in all; None: the client's own.

    Raises
    ------
    Refused, Unavailable
        As `decide`. A single event that is wrong does not raise: its result is `rejected`.
    """
    rows = [replace(event, event_id=event.event_id or _new_id()) for event in events]

    def attempt(waiting: Sequence[Event], timeout_s: float) -> Send:
        return Send("POST", "/v1/events", _encode(waiting), timeout_s)

    def not_now(result: EventResult) -> str:
        return result.detail if result.status == "rejected" and result.code in TEMPORARY_CODES else ""

    results = yield from _rows(caller.patience(deadline_s), rows, attempt, _decode_results, not_now)
    return [_placed(result, index) for index, result in enumerate(results)]


def interact(
    caller: Caller, /, events: Sequence[Event], decision: DecideRequest, *, deadline_s: float | None = None
) -> Steps[InteractionReply]:
    """Record events, then decide with what they changed: one round trip. Parameters and errors as of both."""
    rows = [replace(event, event_id=event.event_id or _new_id()) for event in events]
    request = replace(decision, request_id=decision.request_id or _new_id())

    def attempt(timeout_s: float) -> Send:
        body = InteractionRequest(events=rows, decision=_within(request, deadline_s, timeout_s))
        return Send("POST", "/v1/interactions", _encode(body), timeout_s)

    return _read(_decode_interaction, (yield from caller.patience(deadline_s).send(attempt, again=True)))


def change_profile(
    caller: Caller, /, customer_id: str, profile: Mapping[str, Value | None], *, deadline_s: float | None = None
) -> Steps[None]:
    """Set declared features of a customer, or with None forget them.

    Setting a value twice is setting it once, so this is tried again too; raises as `decide`.
    """
    body, path = _encode(ProfilePatch(profile=dict(profile))), f"/v1/customers/{quote(customer_id, safe='')}"
    yield from caller.patience(deadline_s).send(lambda timeout_s: Send("PATCH", path, body, timeout_s), again=True)


def request(
    caller: Caller,
    /,
    method: str,
    path: str,
    *,
    json: Any = None,
    content: bytes | None = None,
    deadline_s: float | None = None,
    **query: Any,
) -> Steps[bytes]:
    """Call any route; returns the body. Tried again only when it reads; raises as `decide`.

    `json` is encoded, `content` sent as it is (YAML); query parameters that are None are left out.
    """
    body = _encode(json) if json is not None else content
    kind = "application/json" if json is not None else "application/yaml"
    named = {name: value for name, value in query.items() if value is not None}
    patience = caller.patience(deadline_s)
    return (
        yield from patience.send(lambda left_s: Send(method, path, body, left_s, named, kind), again=method == "GET")
    )


def call(
    caller: Caller, /, method: str, path: str, *, json: Any = None, content: bytes | None = None, **query: Any
) -> Steps[Any]:
    """Call any route that answers with JSON; returns the decoded answer, None when it is empty; else as `request`."""
    body = yield from request(caller, method, path, json=json, content=content, **query)
    return _read(msgspec.json.decode, body) if body else None


@dataclass(slots=True, frozen=True)
class _Report:
    """A call that reports one thing that happened to a slot."""

    type: str
    by: str = "customer"

    def __call__(
        self,
        caller: Caller,
        /,
        decision: DecideReply | str,
        slot: int = 0,
        *,
        cause: str = "",
        reason: str = "",
        value: float | None = None,
        sentiment: float | None = None,
        effort: float | None = None,
        text: str = "",
        properties: Mapping[str, Value] | None = None,
        at: int | datetime | None = None,
        event_id: str = "",
        deadline_s: float | None = None,
    ) -> Steps[EventResult]:
        """Report what happened to a slot of a decision, given as its reply or id; the rest is as in `Event`.

        Raises
        ------
        Refused
            The event was rejected; `field` and `code` say why.
        Unavailable
            As `decide`.
        """
        event = Event(
            event_id=event_id,
            type=self.type,
            decision_id=decision if isinstance(decision, str) else decision.decision_id,
            slot=slot,
            by=self.by,
            cause=cause,
            reason=reason,
            value=value,
            sentiment=sentiment,
            effort=effort,
            text=text,
            properties=dict(properties or {}),
            at=at,
        )
        (result,) = yield from record(caller, [event], deadline_s=deadline_s)
        if result.status == "rejected":
            if result.code in TEMPORARY_CODES:
                raise Unavailable(result.detail, field=result.field, code=result.code)
            raise Refused(msgspec.to_builtins(result))
        return result


delivered = _Report("delivered").__call__
seen = _Report("seen").__call__
accepted = _Report("accepted").__call__
declined = _Report("declined").__call__
dismissed = _Report("dismissed").__call__
converted = _Report("converted").__call__
complained = _Report("complained").__call__
failed = _Report("failed").__call__
skipped = _Report("skipped", by="agent").__call__
unsuitable = _Report("unsuitable", by="agent").__call__
no_time = _Report("no_time", by="agent").__call__


def _read(decode: Callable[[bytes], T], body: bytes) -> T:
    try:
        return decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused(
            {"detail": f"the answer is none of nbx: {error}; is the URL right?", "code": "answer_unreadable"}
        ) from error


def _rows(
    patience: Patience,
    rows: Sequence[D],
    attempt: Callable[[Sequence[D], float], Send],
    decode: Callable[[bytes], list[R]],
    not_now: Callable[[R], str],
) -> Steps[list[R]]:
    """Have rows answered; those answered "not now" are sent again, alone, while patience lasts."""
    found: dict[int, R] = {}
    waiting = list(range(len(rows)))
    while waiting:
        asked = [rows[index] for index in waiting]
        body = yield from patience.send(partial(attempt, asked), again=True)
        found.update(zip(waiting, _read(decode, body), strict=True))
        waiting = [index for index in waiting if not_now(found[index])]
        if waiting:
            try:
                pause = patience.pause(Unavailable(not_now(found[waiting[0]])))
            except Unavailable:
                break  # the others are done: each row tells for itself
            yield pause
    return [found[index] for index in range(len(rows))]


def _within(request: DecideRequest, deadline_s: float | None, timeout_s: float) -> DecideRequest:
    """Tell the service how long it has, when the caller said how long the call has."""
    if deadline_s is None or request.deadline_ms:
        return request
    left_ms = max(1, min(SERVICE_MS, int(timeout_s * (1.0 - FOR_THE_WAY) * 1000)))
    return replace(request, deadline_ms=left_ms)


def _placed(result: EventResult, index: int) -> EventResult:
    """Name an event by its place in the call, wherever it stood when it was sent again."""
    head, bracket, path = result.field.partition("]")
    return replace(result, field=f"events[{index}]{path}") if bracket and head.startswith("events[") else result


def _new_id() -> str:
    return str(uuid4())
