"""gRPC over a few channels: one call each (unary), or decisions and events on bidirectional streams."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from pathlib import Path
from typing import Any

import grpc
from grpc import aio

from nbx.errors import Unavailable
from nbx.features.schema import Value
from nbx.loadtest.traffic import Ask, Request, Tell
from nbx.loadtest.wire import Done, Pending, Reply, nobody
from nbx.v1 import nbx_pb2 as pb

CONNECT_S = 5.0
"""Seconds a channel may take to be ready."""
AGAIN_S = 0.2
"""Seconds before a broken stream is opened again."""
_OWN = (("grpc.use_local_subchannel_pool", 1),)
"""Channels with the same target would share one connection."""
_METHODS: dict[str, tuple[str, Any]] = {
    "decide": ("/nbx.v1.DecisionService/Decide", pb.DecideReply),
    "batch": ("/nbx.v1.DecisionService/DecideBatch", pb.DecideBatchReply),
    "events": ("/nbx.v1.EventService/Record", pb.RecordReply),
}


class GrpcWire:
    """Calls over gRPC.

    Parameters
    ----------
    target
        `host:port`.
    key
        API key; empty: none is sent.
    channels
        Connections; calls go round them.
    streams
        Whether decisions and events go on streams, one of each per channel; batches stay calls.
    certificate
        PEM file to trust: then the channels are secure.
    """

    def __init__(
        self, target: str, key: str, channels: int, *, streams: bool = False, certificate: Path | None = None
    ) -> None:
        self._target = target
        self._metadata = (("authorization", f"Bearer {key}"),) if key else ()
        self._wanted = channels
        self._streaming = streams
        self._certificate = certificate
        self._channels: list[aio.Channel] = []
        self._stubs: list[dict[str, Any]] = []
        self._streams: list[dict[str, _Stream]] = []
        self._turn = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._done: Done = nobody

    async def open(self, done: Done) -> None:
        """Connect; `Unavailable` when nobody answers there."""
        self._done = done
        for _ in range(self._wanted):
            channel = self._channel()
            self._channels.append(channel)
            self._stubs.append(
                {
                    kind: channel.unary_unary(
                        path, request_serializer=_serialized, response_deserializer=reply.FromString
                    )
                    for kind, (path, reply) in _METHODS.items()
                }
            )
        try:
            async with asyncio.timeout(CONNECT_S):
                await asyncio.gather(*(channel.channel_ready() for channel in self._channels))
        except TimeoutError as error:
            await self.close()
            raise Unavailable(
                f"no gRPC service answers on {self._target} within {CONNECT_S:g} s; is `nbx up` running?"
            ) from error
        if self._streaming:
            self._streams = [
                {kind: _Stream(self, channel, kind) for kind in ("decide", "events")} for channel in self._channels
            ]

    def _channel(self) -> aio.Channel:
        if self._certificate is None:
            return aio.insecure_channel(self._target, options=_OWN)
        trusted = grpc.ssl_channel_credentials(self._certificate.read_bytes())
        return aio.secure_channel(self._target, trusted, options=_OWN)

    def send(self, pending: Pending) -> None:
        """Send on the next channel."""
        self._turn = (self._turn + 1) % self._wanted
        kind = pending.request.kind
        if self._streaming and kind in self._streams[self._turn]:
            self._streams[self._turn][kind].send(pending)
            return
        task = asyncio.ensure_future(self._call(self._stubs[self._turn][kind], pending))
        pending.carrier = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def give_up(self, pending: Pending) -> None:
        """Cancel a call; what a stream still says of it is not heard."""
        pending.done = True
        if pending.carrier is not None:
            pending.carrier.cancel()

    async def close(self) -> None:
        """Close all channels."""
        waiting = [*self._tasks, *(stream.task for pair in self._streams for stream in pair.values())]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await asyncio.gather(*(channel.close() for channel in self._channels))

    def tell(self, pending: Pending, reply: Reply) -> None:
        """Pass on what came of a call, unless it was given up."""
        if not pending.done:
            self._done(pending, reply)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Sent with every call."""
        return self._metadata

    async def _call(self, stub: Any, pending: Pending) -> None:
        message = message_of(pending.request)
        pending.sent_ns = time.perf_counter_ns()
        try:
            answer = await stub(message, metadata=self._metadata)
        except aio.AioRpcError as error:
            reply = Reply(error.code().name, ok=False)
        else:
            reply = _READ[pending.request.kind](answer)
        self.tell(pending, reply)


class _Stream:
    """A bidirectional stream: writes in order; opened again when it breaks."""

    def __init__(self, wire: GrpcWire, channel: aio.Channel, kind: str) -> None:
        path, reply = (
            ("/nbx.v1.DecisionService/DecideStream", pb.DecideResult)
            if kind == "decide"
            else ("/nbx.v1.EventService/RecordStream", pb.RecordReply)
        )
        self._open = channel.stream_stream(path, request_serializer=_serialized, response_deserializer=reply.FromString)
        self._wire = wire
        self._kind = kind
        self._waiting: deque[Pending] = deque()
        self._more = asyncio.Event()
        self._by_name: dict[str, Pending] = {}
        self._in_order: deque[Pending] = deque()
        self.task = asyncio.ensure_future(self._run())

    def send(self, pending: Pending) -> None:
        """Write as soon as those before are written."""
        self._waiting.append(pending)
        self._more.set()

    async def _run(self) -> None:
        while True:
            call = self._open(metadata=self._wire.metadata)
            writing = asyncio.ensure_future(self._write(call))
            status = "stream ended"
            try:
                async for answer in call:
                    self._heard(answer)
            except aio.AioRpcError as error:
                status = error.code().name
            finally:
                writing.cancel()
                with contextlib.suppress(asyncio.CancelledError, aio.AioRpcError, asyncio.InvalidStateError):
                    await writing
                for lost in [*self._by_name.values(), *self._in_order]:
                    self._wire.tell(lost, Reply(status, ok=False))
                self._by_name.clear()
                self._in_order.clear()
            await asyncio.sleep(AGAIN_S)

    async def _write(self, call: Any) -> None:
        while True:
            while self._waiting:
                pending = self._waiting.popleft()
                if pending.done:
                    continue
                message = message_of(pending.request)
                if self._kind == "decide":
                    message.correlation = pending.request.asks[0].request_id
                    self._by_name[message.correlation] = pending
                else:
                    self._in_order.append(pending)
                pending.sent_ns = time.perf_counter_ns()
                await call.write(message)
            self._more.clear()
            await self._more.wait()

    def _heard(self, answer: Any) -> None:
        if self._kind == "events":
            self._wire.tell(self._in_order.popleft(), _READ["events"](answer))
            return
        pending = self._by_name.pop(answer.correlation, None)
        if pending is not None:
            problem = answer.WhichOneof("result") == "problem"
            reply = Reply(f"OK, item {answer.problem.code}", ok=False) if problem else _decided(answer.reply)
            self._wire.tell(pending, reply)


def message_of(request: Request) -> Any:
    """Write a call as its message."""
    if request.kind == "batch":
        return pb.DecideBatchRequest(requests=[_ask(ask) for ask in request.asks])
    if request.kind == "events":
        return pb.RecordRequest(events=[_tell(tell) for tell in request.tells])
    return _ask(request.asks[0])


def _ask(ask: Ask) -> Any:
    return pb.DecideRequest(
        customer_id=ask.customer_id,
        placement=ask.placement,
        slots=ask.slots,
        context={name: _value(value) for name, value in ask.context.items()},
        request_id=ask.request_id,
        explain=ask.explain,
    )


def _tell(tell: Tell) -> Any:
    return pb.Event(
        event_id=tell.event_id,
        type=tell.type,
        customer_id=tell.customer_id,
        decision_id=tell.decision_id,
        slot=tell.slot,
        by=tell.by,
        properties={name: _value(value) for name, value in tell.properties.items()},
    )


def _value(value: Value) -> Any:
    if isinstance(value, bool):
        return pb.Value(flag=value)
    return pb.Value(text=value) if isinstance(value, str) else pb.Value(number=value)


def _serialized(message: Any) -> bytes:
    packed: bytes = message.SerializeToString()
    return packed


def _decided(answer: Any) -> Reply:
    slot = next((number for number, slot in enumerate(answer.slots) if slot.action), -1)
    return Reply("OK", ok=True, degraded=bool(answer.degraded), decision_id=answer.decision_id, slot=slot)


def _batch(answer: Any) -> Reply:
    for result in answer.results:
        if result.WhichOneof("result") == "problem":
            return Reply(f"OK, item {result.problem.code}", ok=False)
    return Reply("OK", ok=True, degraded=any(result.reply.degraded for result in answer.results))


def _recorded(answer: Any) -> Reply:
    for result in answer.results:
        if result.status == "rejected":
            return Reply(f"OK, event {result.problem.code}", ok=False)
    return Reply("OK", ok=True)


_READ: dict[str, Any] = {"decide": _decided, "batch": _batch, "events": _recorded}
