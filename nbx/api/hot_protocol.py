"""Uvicorn's HTTP protocol with a short way for the hot calls: no ASGI messages between the parser and the answer.

ASGI makes of a request a scope, a cycle with an event, two messages and three awaits; the hot calls need
their body and one header. A call is hot when it is an HTTP/1.1 POST to one of their paths without a query, from no page
(`origin`), with nothing in its headers that asks for more than an answer. Everything else, a request behind an
unanswered one on the same connection too, goes uvicorn's own way, through the same front: same answers, same errors.

What an idle connection costs: one timer while it is open instead of one per answer.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from nbx.audit.metrics import ERRORS
from nbx.limits import BODY_BYTES

if TYPE_CHECKING:
    from nbx.api.front import Front, Hot

_LONG_WAY = frozenset({b"origin", b"expect", b"upgrade"})
"""Headers that ask for more than an answer."""


class _Call:
    """A hot call; towards uvicorn's protocol it is the cycle in hand."""

    __slots__ = ("authorization", "body", "disconnected", "hot", "keep_alive", "response_complete", "whole")

    def __init__(self, hot: Hot, authorization: bytes | None, *, keep_alive: bool) -> None:
        self.hot = hot
        self.authorization = authorization
        self.keep_alive = keep_alive
        self.body = b""
        self.whole = False
        """All of the body is here, or more than is taken."""
        self.disconnected = False
        self.response_complete = False

    @property
    def message_event(self) -> _Call:
        """What uvicorn wakes when the connection is lost: nobody waits here."""
        return self

    def set(self) -> None:
        """Wake nobody."""


class HotProtocol(HttpToolsProtocol):
    """One connection.

    Parameters
    ----------
    front
        Answers the hot calls; the same that `uvicorn.Config` has as its app.
    **kwargs
        As uvicorn gives them.
    """

    def __init__(self, front: Front, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._front = front
        self._hot = front.hot_by_url
        self._idle: asyncio.TimerHandle | None = None
        self._answered_s = math.inf
        self._call: _Call | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection; a body that did not end is counted as the error it is."""
        if self._idle is not None:
            self._idle.cancel()
        if self._call is not None and not self._call.whole:
            ERRORS.labels("body_incomplete").inc()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Begin a request; what uvicorn's way needs is made when it is taken."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._answered_s = math.inf

    def on_headers_complete(self) -> None:
        """Take the short way, or uvicorn's."""
        hot = self._hot.get(self.url)
        if hot is None or not self._is_plain():
            self._call = None
            url, headers, expects = self.url, self.headers, self.expect_100_continue
            super().on_message_begin()
            self.url, self.expect_100_continue = url, expects
            self.headers.extend(headers)
            super().on_headers_complete()
            return
        authorization = None
        for name, value in self.headers:
            if name == b"authorization":
                authorization = value
        self._call = _Call(hot, authorization, keep_alive=self.parser.should_keep_alive())
        self.cycle = self._call  # type: ignore[assignment] # as much of a cycle as the protocol looks at

    def _is_plain(self) -> bool:
        parser, before = self.parser, self.cycle
        return (
            parser.get_method() == b"POST"
            and parser.get_http_version() == "1.1"
            and (before is None or before.response_complete)
            and all(name not in _LONG_WAY for name, _ in self.headers)
        )

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body."""
        call = self._call
        if call is None:
            super().on_body(body)
        elif not call.whole:
            call.body = call.body + body if call.body else body
            if len(call.body) > BODY_BYTES:  # it is refused at once, and the rest read and dropped
                self._begin(call)

    def on_message_complete(self) -> None:
        """Answer."""
        call = self._call
        if call is None:
            super().on_message_complete()
        elif not call.whole:
            self._begin(call)

    def _begin(self, call: _Call) -> None:
        call.whole = True
        self.tasks.add(self.loop.create_task(self._answer(call)))

    async def _answer(self, call: _Call) -> None:
        try:
            status, kind, body = await self._front.answer(call.hot, call.authorization, call.body)
            if self.flow.write_paused and not call.disconnected:
                await self.flow.drain()
            if call.disconnected:
                return
            end = b"\r\n\r\n" if call.keep_alive else b"\r\nconnection: close\r\n\r\n"
            length = b"\r\ncontent-length: %d" % len(body)
            self.transport.write(b"".join((STATUS_LINE[status], b"content-type: ", kind, length, end, body)))
            call.response_complete = True
            self.server_state.total_requests += 1
            if call.keep_alive:
                self._await_next()
            else:
                self.transport.close()
        finally:
            self.tasks.discard(asyncio.current_task())

    def _await_next(self) -> None:
        """Take the next request up; without one the connection is closed in time."""
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
            return
        self._answered_s = self.loop.time()
        if self._idle is None:
            self._idle = self.loop.call_later(self.timeout_keep_alive, self._look_idle)

    def _look_idle(self) -> None:
        """Close the connection when nothing has begun since the last answer for so long; else look again then."""
        self._idle = None
        left_s = self._answered_s + self.timeout_keep_alive - self.loop.time()
        if left_s <= 0.0:
            self.timeout_keep_alive_handler()
        elif left_s < math.inf:
            self._idle = self.loop.call_later(left_s, self._look_idle)
