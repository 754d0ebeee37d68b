"""A gRPC client of a running service, without generated stubs: what any client on the wire can do."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

import grpc
from google.rpc import error_details_pb2, status_pb2

from nbx.limits import BODY_BYTES
from nbx.v1 import nbx_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from types import TracebackType

    from tests.service import Running

TIMEOUT_S = 30.0
DECISIONS = "/nbx.v1.DecisionService"
EVENTS = "/nbx.v1.EventService"


def _packed(message: Any) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()


class GrpcClient:
    """Calls of both services; messages may be raw bytes, to send what no library would."""

    def __init__(self, service: Running, key: str | None = None, *more: tuple[str, int]) -> None:
        # a channel of its own each time: channels of one process share connections otherwise
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", 4 * BODY_BYTES), *more]
        self.channel = grpc.aio.insecure_channel(service.grpc_target, options=options)
        headers = service.headers(key)
        self._metadata = tuple(headers.items())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.channel.close()

    async def decide(self, request: Any) -> Any:
        return await self._unary(f"{DECISIONS}/Decide", request, pb.DecideReply)

    async def decide_batch(self, request: Any) -> Any:
        return await self._unary(f"{DECISIONS}/DecideBatch", request, pb.DecideBatchReply)

    async def record(self, request: Any) -> Any:
        return await self._unary(f"{EVENTS}/Record", request, pb.RecordReply)

    async def decide_stream(self, requests: Iterable[Any] | None) -> list[Any]:
        return await self._stream(f"{DECISIONS}/DecideStream", requests, pb.DecideResult)

    async def record_stream(self, requests: Iterable[Any] | None) -> list[Any]:
        return await self._stream(f"{EVENTS}/RecordStream", requests, pb.RecordReply)

    async def _unary(self, method: str, request: Any, reply: Any) -> Any:
        call = self.channel.unary_unary(method, request_serializer=_packed, response_deserializer=reply.FromString)
        return await call(request, metadata=self._metadata, timeout=TIMEOUT_S)

    def stream_of(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """Open a DecideStream and give its results as they come."""
        method = f"{DECISIONS}/DecideStream"
        call: Any = self.channel.stream_stream(
            method, request_serializer=_packed, response_deserializer=pb.DecideResult.FromString
        )
        results: AsyncIterator[Any] = call(requests, metadata=self._metadata, timeout=TIMEOUT_S)
        return results

    async def _stream(self, method: str, requests: Iterable[Any] | None, reply: Any) -> list[Any]:
        """Send requests and collect the replies; None opens the stream and sends nothing.

        grpc.aio reports a write that meets the end of a refused call as INTERNAL, so a call that is to be refused must
        not write.
        """

        async def sent() -> AsyncIterator[Any]:
            if requests is None:
                await asyncio.Event().wait()
            for request in requests or ():
                yield request

        call = self.channel.stream_stream(method, request_serializer=_packed, response_deserializer=reply.FromString)
        return [answer async for answer in call(sent(), metadata=self._metadata, timeout=TIMEOUT_S)]


class Fault:
    """What a failed call said: status, code (ErrorInfo), field (BadRequest)."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self.status = error.code()
        self.words = error.details() or ""
        self.code = self.field = ""
        for name, value in error.trailing_metadata() or ():
            if name == "grpc-status-details-bin":
                for detail in status_pb2.Status.FromString(value).details:
                    self._read(detail)

    def _read(self, detail: Any) -> None:
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            assert info.domain == "nbx"
            self.code = info.reason
        if detail.Unpack(bad):
            (violation,) = bad.field_violations
            assert violation.description
            self.field = violation.field


def value(of: bool | float | str) -> Any:
    """Make a Value message."""
    if isinstance(of, bool):
        return pb.Value(flag=of)
    return pb.Value(text=of) if isinstance(of, str) else pb.Value(number=of)
