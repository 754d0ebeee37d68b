"""HTTP/1.1 over many connections: raw sockets and httptools, one call at a time on each connection.

httpx would spend several times the CPU per request: what is to be measured is the service, and both may share a
machine.
A call that finds every connection busy waits for the next free one; its time runs from when it was due.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import time
from collections import deque
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httptools
import msgspec
from msgspec import Struct

from nbx.errors import Unavailable
from nbx.loadtest.traffic import Request
from nbx.loadtest.wire import Done, Pending, Reply, nobody

CONNECT_S = 5.0
"""Seconds a connection may take to be made."""
AGAIN_S = 0.2
"""Seconds between two attempts to connect anew."""
PATHS = {
    "decide": "/v1/decisions",
    "batch": "/v1/decisions:batch",
    "events": "/v1/events",
    "interaction": "/v1/interactions",
}
_encode = msgspec.json.Encoder().encode


class _Slot(Struct):
    action: str = ""


class _Decided(Struct):
    decision_id: str
    slots: list[_Slot]
    degraded: list[str] = []


class _Problem(Struct):
    code: str = ""


class _Item(Struct):
    reply: _Decided | None = None
    problem: _Problem | None = None


class _Result(Struct):
    status: str
    code: str = ""


class _Interaction(Struct):
    events: list[_Result]
    decision: _Decided


_decoders: dict[str, Any] = {
    "decide": msgspec.json.Decoder(_Decided).decode,
    "batch": msgspec.json.Decoder(list[_Item]).decode,
    "events": msgspec.json.Decoder(list[_Result]).decode,
    "interaction": msgspec.json.Decoder(_Interaction).decode,
}


class HttpWire:
    """Calls over HTTP.

    Parameters
    ----------
    url
        Of the service.
    key
        API key; empty: none is sent.
    connections
        Most at a time.
    certificate
        PEM file to trust besides the system's; for https.
    """

    def __init__(self, url: str, key: str, connections: int, certificate: Path | None = None) -> None:
        parts = urlsplit(url)
        self._url = url
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = ssl.create_default_context(cafile=certificate) if parts.scheme == "https" else None
        auth = f"authorization: Bearer {key}\r\n" if key else ""
        self._heads = {
            kind: f"POST {path} HTTP/1.1\r\nhost: {parts.netloc}\r\n{auth}content-type: application/json\r\n"
            "content-length: ".encode()
            for kind, path in PATHS.items()
        }
        self._wanted = connections
        self._free: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._waiting: deque[Pending] = deque()
        self._connecting: set[asyncio.Task[None]] = set()
        self._closed = False
        self._refused = ""
        self._done: Done = nobody

    async def open(self, done: Done) -> None:
        """Connect; `Unavailable` when nobody answers there."""
        self._done = done
        try:
            await asyncio.gather(*(self._connect() for _ in range(self._wanted)))
        except (OSError, TimeoutError) as error:
            await self.close()
            reason = os.strerror(error.errno) if error.errno else str(error) or type(error).__name__
            raise Unavailable(f"{self._url} cannot be connected to: {reason}; is `nbx up` running?") from error

    def send(self, pending: Pending) -> None:
        """Send on a free connection, or wait for one."""
        while self._free:
            connection = self._free.pop()
            if not connection.lost:
                connection.send(pending, self._written(pending.request))
                return
        if not self._open and self._refused:
            self._done(pending, Reply(self._refused, ok=False))
            return
        self._waiting.append(pending)

    def give_up(self, pending: Pending) -> None:
        """Close the connection it is on, or take it out of the queue."""
        pending.done = True
        if pending.carrier is not None:
            pending.carrier.abort()

    async def close(self) -> None:
        """Close all connections."""
        self._closed = True
        for task in self._connecting:
            task.cancel()
        for connection in list(self._open):
            connection.abort()
        await asyncio.sleep(0)

    def _written(self, request: Request) -> bytes:
        body: Any
        match request.kind:
            case "decide":
                body = request.asks[0]
            case "batch":
                body = request.asks
            case "events":
                body = request.tells
            case "interaction":
                body = {"events": request.tells, "decision": request.asks[0]}
        encoded = _encode(body)
        return b"%b%d\r\n\r\n%b" % (self._heads[request.kind], len(encoded), encoded)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_S):
            await loop.create_connection(lambda: _Connection(self), self._host, self._port, ssl=self._tls)

    async def _reconnect(self) -> None:
        while not self._closed:
            try:
                await self._connect()
            except (OSError, TimeoutError) as error:
                self._refused = f"no connection ({type(error).__name__})"
                if not self._open:
                    while self._waiting:
                        waiting = self._waiting.popleft()
                        if not waiting.done:
                            self._done(waiting, Reply(self._refused, ok=False))
                await asyncio.sleep(AGAIN_S)
            else:
                return

    def joined(self, connection: _Connection) -> None:
        """Take a new connection."""
        self._refused = ""
        self._open.add(connection)
        self.idle(connection)

    def idle(self, connection: _Connection) -> None:
        """Give a free connection the next call, if one waits."""
        while self._waiting:
            pending = self._waiting.popleft()
            if not pending.done:
                connection.send(pending, self._written(pending.request))
                return
        self._free.append(connection)

    def left(self, connection: _Connection) -> None:
        """Replace a connection that is gone."""
        self._open.discard(connection)
        with contextlib.suppress(ValueError):
            self._free.remove(connection)
        if not self._closed:
            task = asyncio.ensure_future(self._reconnect())
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    def answered(self, pending: Pending, status: int, body: bytes) -> None:
        """Read an answer."""
        self._done(pending, reply_of(pending.request, status, body))

    def failed(self, pending: Pending, words: str) -> None:
        """Tell of a call that got no answer."""
        if not pending.done:
            self._done(pending, Reply(words, ok=False))


class _Connection(asyncio.Protocol):
    """One connection, one call at a time."""

    def __init__(self, wire: HttpWire) -> None:
        self._wire = wire
        self._pending: Pending | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._transport: Any = None
        self.lost = False

    def send(self, pending: Pending, message: bytes) -> None:
        self._pending = pending
        pending.carrier = self
        pending.sent_ns = time.perf_counter_ns()
        self._transport.write(message)

    def abort(self) -> None:
        self.lost = True
        self._transport.abort()

    # of asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._wire.joined(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's
        self.lost = True
        pending, self._pending = self._pending, None
        self._wire.left(self)
        if pending is not None:
            self._wire.failed(pending, "connection lost")

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            pending, self._pending = self._pending, None
            self.abort()
            if pending is not None:
                self._wire.failed(pending, "not HTTP")

    # of httptools

    def on_body(self, part: bytes) -> None:
        self._body.append(part)

    def on_message_complete(self) -> None:
        pending, self._pending = self._pending, None
        status, body = self._parser.get_status_code(), b"".join(self._body)
        self._body.clear()
        if not self._parser.should_keep_alive():
            self.abort()
        if pending is not None and not pending.done:
            pending.carrier = None
            self._wire.answered(pending, status, body)
        if not self.lost:
            self._wire.idle(self)


def reply_of(request: Request, status: int, body: bytes) -> Reply:
    """Read the answer to a call.

    Examples
    --------
    >>> reply_of(Request("events"), 200, b'[{"status": "rejected", "code": "unknown"}]')
    Reply(status='200, event unknown', ok=False, degraded=False, decision_id='', slot=-1)
    """
    if not 200 <= status < 300:
        return Reply(str(status), ok=False)
    try:
        read = _decoders[request.kind](body)
    except msgspec.DecodeError:
        return Reply(f"{status} unreadable", ok=False)
    match request.kind:
        case "decide":
            return _decided(read, str(status))
        case "interaction":
            return _rejected(status, read.events) or _decided(read.decision, str(status))
        case "batch":
            for item in read:
                if item.reply is None:
                    return Reply(f"{status}, item {item.problem.code if item.problem else 'empty'}", ok=False)
            return Reply(str(status), ok=True, degraded=any(item.reply.degraded for item in read))
        case _:
            return _rejected(status, read) or Reply(str(status), ok=True)


def _rejected(status: int, results: list[_Result]) -> Reply | None:
    codes = [result.code for result in results if result.status == "rejected"]
    return Reply(f"{status}, event {codes[0]}", ok=False) if codes else None


def _decided(read: _Decided, status: str) -> Reply:
    slot = next((number for number, slot in enumerate(read.slots) if slot.action), -1)
    return Reply(status, ok=True, degraded=bool(read.degraded), decision_id=read.decision_id, slot=slot)
