"""The outermost ASGI callable: answers the few hot calls itself and hands every other request to the Litestar app.

A typed Litestar route costs about 30 µs per request, this about 3 ; the same calls exist there too,
for the schema and for whoever mounts the app without this front. Errors look the same on both ways.

What a page sends has an origin or its key in the address: only then `nbx.api.browser` is asked, so that other callers
pay for two comparisons.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import msgspec

from nbx.api.auth import KeyRing, Scope
from nbx.api.browser import VARY, BrowserDoor, Header
from nbx.api.errors import PROBLEM_TYPE, problem
from nbx.api.plane import DataPlane
from nbx.audit.metrics import ERRORS
from nbx.errors import Invalid, NbxError, TooLarge
from nbx.limits import BODY_BYTES

AsgiScope = Any
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
AsgiApp = Callable[[AsgiScope, Receive, Send], Awaitable[None]]

_log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode
_JSON = b"application/json"
_PROBLEM = PROBLEM_TYPE.encode()


class Hot(NamedTuple):
    """A hot call."""

    scope: Scope
    """What a key must allow."""
    call: Callable[[bytes], Awaitable[bytes]]


class Front:
    """The hot calls before an app.

    Parameters
    ----------
    app
        Gets every other request.
    plane
        Answers the hot calls.
    keys
        Says who may call.
    """

    def __init__(self, app: AsgiApp, plane: DataPlane, keys: KeyRing) -> None:
        self._app = app
        self._keys = keys
        self._door = BrowserDoor(plane, keys)
        self._hot = {
            "/v1/decisions": Hot("decide", plane.decide),
            "/v1/decisions:batch": Hot("decide", plane.decide_batch),
            "/v1/events": Hot("events", plane.record),
        }
        self.hot_by_url = {path.encode(): hot for path, hot in self._hot.items()}
        """The hot calls, by what stands in the first line of their request."""

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http" and (scope["method"] == "POST" or _is_preflight(scope)):
            hot = self._hot.get(scope["path"])
            if hot is not None:
                await self._answer(hot, scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def answer(self, hot: Hot, authorization: bytes | None, body: bytes) -> tuple[int, bytes, bytes]:
        """Answer a hot call that is from no page: status, content type and body."""
        try:
            self._keys.check(authorization, hot.scope)
            if len(body) > BODY_BYTES:
                return _refused(_too_large())
            return 200, _JSON, await hot.call(body)
        except NbxError as error:
            return _refused(error)
        except Exception:  # noqa: BLE001 - no traceback may reach a caller
            _log.exception("unexpected error in a hot call")
            return _refused(NbxError("something went wrong here; it is in the service's log"))

    async def _answer(self, hot: Hot, scope: AsgiScope, receive: Receive, send: Send) -> None:
        status, kind = 200, _JSON
        more: list[Header] | None = None
        try:
            authorization = origin = None
            for name, value in scope["headers"]:
                if name == b"authorization":
                    authorization = value
                elif name == b"origin":
                    origin = value
            if origin is None and not scope["query_string"]:
                self._keys.check(authorization, hot.scope)
                body = await hot.call(await _body(receive))
            else:
                more = [VARY]
                status, body = await self._to_page(hot, scope, receive, authorization, origin, more)
        except NbxError as error:
            status, kind, body = _refused(error)
        except Exception:  # noqa: BLE001 - no traceback may reach a caller
            _log.exception("unexpected error on %s", scope["path"])
            status, kind, body = _refused(NbxError("something went wrong here; it is in the service's log"))
        headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
        if more is not None:
            headers = [*headers, *more] if body else more
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _to_page(
        self,
        hot: Hot,
        scope: AsgiScope,
        receive: Receive,
        authorization: bytes | None,
        origin: bytes | None,
        more: list[Header],
    ) -> tuple[int, bytes]:
        """Answer what may come from a page; `more` gets the headers by which it may read the answer or the error."""
        if scope["method"] == "OPTIONS":
            more += self._door.preflight(scope["headers"])
            return 204, b""
        record = None
        try:
            record, call = self._door.admit(scope["path"], authorization, scope["query_string"], hot.scope)
        finally:
            if origin is not None:
                more += self._door.allow_origin(origin, record)
        if record.is_publishable:
            self._door.check_origin(record, origin, dict(scope["headers"]).get(b"host", b""))
        return 200, await (call or hot.call)(await _body(receive))


def _refused(error: NbxError) -> tuple[int, bytes, bytes]:
    described = problem(error)
    ERRORS.labels(described.code).inc()
    return described.status, _PROBLEM, _encode(described)


def _is_preflight(scope: AsgiScope) -> bool:
    return scope["method"] == "OPTIONS" and any(name == b"origin" for name, _ in scope["headers"])


async def _body(receive: Receive) -> bytes:
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body"):
        if len(body) > BODY_BYTES:
            raise _too_large()
        return body
    parts, size = [body], len(body)
    while message.get("more_body"):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Invalid("the body ended before its announced length", field="body", code="body_incomplete")
        part = message.get("body", b"")
        size += len(part)
        if size > BODY_BYTES:
            raise _too_large()
        parts.append(part)
    return b"".join(parts)


def _too_large() -> TooLarge:
    return TooLarge(f"the body has more than {BODY_BYTES} bytes", field="body")
