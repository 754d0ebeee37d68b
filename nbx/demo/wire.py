"""The simulated customers' way to the service: website visits over HTTP, contact-centre calls over gRPC.

Latencies are taken here, at the client: they hold the network, both codecs and the wait for this process's own turn.

HTTP goes through one client per connection: httpx's own pool looks at every connection for every request, which with 64
of them cost 7 ms of client time per request (profiled), most of what would have been shown as the service's latency.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import Counter
from types import TracebackType
from typing import Any, Self

import grpc
import httpx
import msgspec

from nbx.decision.messages import DecideReply, DecideRequest
from nbx.demo.world import Visit
from nbx.errors import NbxError, Unavailable
from nbx.experience.entries import Event
from nbx.features.schema import Value
from nbx.v1 import nbx_pb2 as pb

CONNECTIONS = 32
TIMEOUT_S = 10.0
READY_S = 15.0
_encode = msgspec.json.Encoder().encode
_decode_reply = msgspec.json.Decoder(DecideReply).decode


class _Result(msgspec.Struct):
    """Result of one event."""

    status: str
    detail: str = ""


class CustomerView(msgspec.Struct):
    """What the comparison needs of `GET /v1/customers/{id}`."""

    relationship: dict[str, float]
    outcomes: dict[str, int]


class Decided(msgspec.Struct, frozen=True):
    """A decision as a channel sees it."""

    decision_id: str
    actions: tuple[str, ...]
    """Per slot; empty: silence."""
    p_response: tuple[float, ...]
    """Of the actions that were chosen."""
    degraded: bool


class NotTaken(NbxError):
    """The service did not take a call or an event."""

    code = "not_taken"


class Faces:
    """Both faces of a running service; use as an asynchronous context.

    Parameters
    ----------
    url, grpc_target
        Of the service.
    key
        API key with the scopes decide, events and audit.
    """

    def __init__(self, url: str, grpc_target: str, key: str) -> None:
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        one = httpx.Limits(max_connections=1, max_keepalive_connections=1)
        verify = ssl.create_default_context()
        self._idle: asyncio.LifoQueue[httpx.AsyncClient] = asyncio.LifoQueue()
        for _ in range(CONNECTIONS):
            self._idle.put_nowait(
                httpx.AsyncClient(
                    base_url=url, headers=headers, limits=one, timeout=TIMEOUT_S, trust_env=False, verify=verify
                )
            )
        self._channel = grpc.aio.insecure_channel(grpc_target)
        self._metadata = (("authorization", f"Bearer {key}"),)
        self._decide = self._method("/nbx.v1.DecisionService/Decide", pb.DecideReply)
        self._record = self._method("/nbx.v1.EventService/Record", pb.RecordReply)
        self.latencies_ms: dict[str, list[float]] = {"HTTP": [], "gRPC": []}
        """Of decisions, per face."""
        self.errors: Counter[str] = Counter()
        """Refused or unanswered calls, by what was said."""

    def _method(self, path: str, reply: Any) -> Any:
        return self._channel.unary_unary(
            path, request_serializer=lambda m: m.SerializeToString(), response_deserializer=reply.FromString
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        clients = [await self._idle.get() for _ in range(CONNECTIONS)]
        await asyncio.gather(self._channel.close(), *(client.aclose() for client in clients))

    async def wait_ready(self) -> None:
        """Wait until decisions can be made; raises the last refusal after `READY_S`."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + READY_S
        while True:
            try:
                await self._call("GET", "/health/ready")
            except NbxError:
                if loop.time() > give_up:
                    raise
                await asyncio.sleep(0.1)
            else:
                return

    async def set_profile(self, customer_id: str, profile: dict[str, Value]) -> None:
        """Tell what the bank's file says of a customer."""
        await self._call("PATCH", f"/v1/customers/{customer_id}", {"profile": profile})

    async def customer(self, customer_id: str) -> CustomerView:
        """Look at a customer."""
        return msgspec.json.decode(await self._call("GET", f"/v1/customers/{customer_id}?events=0"), type=CustomerView)

    async def decide(self, visit: Visit, customer_id: str, request_id: str) -> Decided:
        """Ask for actions over the visit's face, and take the time."""
        if visit.is_call:
            message = pb.DecideRequest(
                customer_id=customer_id,
                placement=visit.placement,
                slots=visit.slots,
                context={name: _value(value) for name, value in visit.context.items()},
                request_id=request_id,
            )
            started = time.perf_counter()
            try:
                answer = await self._decide(message, metadata=self._metadata, timeout=TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                raise NotTaken(f"gRPC {error.code().name}: {error.details()}") from error
            self.latencies_ms["gRPC"].append(1000 * (time.perf_counter() - started))
            actions = tuple(slot.action for slot in answer.slots)
            expected = tuple(slot.p_response for slot in answer.slots if slot.action)
            return Decided(answer.decision_id, actions, expected, bool(answer.degraded))
        request = DecideRequest(
            customer_id=customer_id,
            placement=visit.placement,
            slots=visit.slots,
            context=visit.context,
            request_id=request_id,
        )
        started = time.perf_counter()
        body = await self._call("POST", "/v1/decisions", request)
        self.latencies_ms["HTTP"].append(1000 * (time.perf_counter() - started))
        reply = _decode_reply(body)
        actions = tuple(slot.action for slot in reply.slots)
        expected = tuple(slot.p_response for slot in reply.slots if slot.p_response is not None)
        return Decided(reply.decision_id, actions, expected, bool(reply.degraded))

    async def record(self, events: list[Event], *, over_grpc: bool) -> None:
        """Report events; raises `NotTaken` with the first reason when one is not taken."""
        if over_grpc:
            message = pb.RecordRequest(events=[_event(event) for event in events])
            try:
                answer = await self._record(message, metadata=self._metadata, timeout=TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                raise NotTaken(f"gRPC {error.code().name}: {error.details()}") from error
            results = [_Result(result.status, result.problem.detail) for result in answer.results]
        else:
            results = msgspec.json.decode(await self._call("POST", "/v1/events", events), type=list[_Result])
        for result in results:
            if result.status == "rejected":
                raise NotTaken(result.detail)

    async def _call(self, method: str, path: str, body: Any = None) -> bytes:
        client = await self._idle.get()
        try:
            answer = await client.request(method, path, content=_encode(body) if body is not None else None)
        except httpx.HTTPError as error:
            raise Unavailable(f"{method} {path.partition('?')[0]}: {error!r}") from error
        finally:
            self._idle.put_nowait(client)
        if answer.is_error:
            raise NotTaken(f"HTTP {answer.status_code}: {answer.text[:200]}")
        return answer.content


def _event(event: Event) -> Any:
    return pb.Event(
        event_id=event.event_id,
        type=event.type,
        decision_id=event.decision_id,
        slot=event.slot,
        customer_id=event.customer_id,
        by=event.by,
        reason=event.reason,
        properties={name: _value(value) for name, value in event.properties.items()},
    )


def _value(value: Value) -> Any:
    if isinstance(value, bool):
        return pb.Value(flag=value)
    return pb.Value(text=value) if isinstance(value, str) else pb.Value(number=value)
