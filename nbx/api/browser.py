"""What a browser may do with a publishable key, and from which pages.

A publishable key stands in a page's source, so everybody has it. It decides, live and unexplained, and tells what
happened, by the customer alone; the reply leaves out what is not for the customer: chances, and threads kept for
agents. The origin that browsers send with every POST has to be one of the key's, or the service's own. That keeps
other people's pages out; a program may send any origin, which is why the key can do so little.

The key may come as `?key=` too: `sendBeacon` sets no headers, and a call without the `Authorization` header needs no
preflight. Other keys are refused there, as addresses are logged everywhere.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from urllib.parse import parse_qs

import msgspec
from msgspec import structs

from nbx.api.auth import KeyRecord, KeyRing, Scope
from nbx.api.plane import DataPlane, decoded_events, decoded_request
from nbx.errors import Forbidden, Invalid
from nbx.experience.entries import Event
from nbx.experience.obligations import RESOLVED_EVENT
from nbx.experience.promises import BROKEN, KEPT, PROMISE
from nbx.experience.results import EventResult

Header = tuple[bytes, bytes]
PREFLIGHT_S = b"7200"
"""Seconds for which a browser may remember a preflight: the longest that Chromium does."""
VARY: Header = (b"vary", b"origin")
_PREFLIGHT = [
    (b"access-control-allow-methods", b"POST"),
    (b"access-control-allow-headers", b"authorization, content-type"),
    (b"access-control-max-age", PREFLIGHT_S),
]
COMPANY_WORDS = frozenset({PROMISE, KEPT, BROKEN, RESOLVED_EVENT})
"""Types of events that only the company can tell."""
_encode = msgspec.json.Encoder().encode


class BrowserDoor:
    """Lets pages in.

    Parameters
    ----------
    plane
        Answers.
    keys
        Says who may call.
    """

    def __init__(self, plane: DataPlane, keys: KeyRing) -> None:
        self._plane = plane
        self._keys = keys
        self._calls: dict[str, Callable[[bytes], Awaitable[bytes]]] = {
            "/v1/decisions": self._decide,
            "/v1/events": self._record,
        }

    def preflight(self, headers: Iterable[Header]) -> list[Header]:
        """Return the headers that answer a browser's question whether a page may call; raises `Forbidden`, `NotReady`.

        The question comes without a key: a page may call when any publishable key lets its origin in.
        """
        self._keys.must_be_known()
        origin = dict(headers).get(b"origin", b"")
        if origin.decode("latin-1") not in self._keys.origins:
            raise Forbidden(
                f"no publishable key lets pages of {origin[:200].decode('latin-1') or 'no origin'} in: "
                "nbx keys create NAME --scope web --origin …"
            )
        return [(b"access-control-allow-origin", origin), *_PREFLIGHT]

    def allow_origin(self, origin: bytes, record: KeyRecord | None) -> list[Header]:
        """Return the CORS headers of an answer.

        Parameters
        ----------
        origin
            As sent.
        record
            The key that came; None: no valid one, then a page that any key lets in may read why.
        """
        known = self._keys.origins if record is None else record.origins
        return [(b"access-control-allow-origin", origin)] if origin.decode("latin-1") in known else []

    def admit(
        self, path: str, authorization: bytes | None, query: bytes, scope: Scope
    ) -> tuple[KeyRecord, Callable[[bytes], Awaitable[bytes]] | None]:
        """Return the key of a call that a page made, and what answers it; None: as for everybody.

        Raises
        ------
        Unauthenticated
            No valid key came.
        Forbidden
            It may not do this, or came in the address and is not publishable.
        """
        in_address = _key_in(query) if authorization is None else None
        record = self._keys.holder(authorization if in_address is None else b"Bearer " + in_address)
        if in_address is not None and not record.is_publishable and not self._keys.is_open:
            raise Forbidden(
                f"the API key {record.id} is not publishable: send it in the header `Authorization: Bearer nbx_…`, "
                "never in an address, which is logged everywhere; this one should be revoked"
            )
        if not record.is_publishable:
            return self._keys.check(authorization, scope), None
        call = self._calls.get(path)
        if call is None:
            raise Forbidden(f"the publishable key {record.id} may only call {' and '.join(self._calls)}")
        return record, call

    def check_origin(self, record: KeyRecord, origin: bytes | None, host: bytes) -> None:
        """Raise `Forbidden` unless a publishable key may be used by pages of `origin`; `host` is the service's."""
        if origin is None:
            raise Forbidden(f"the publishable key {record.id} is for browsers, which send their page's origin")
        told = origin.decode("latin-1")
        if told in record.origins or (not record.origins and told.partition("://")[2] == host.decode("latin-1")):
            return
        raise Forbidden(
            f"the publishable key {record.id} is not for pages of {told[:200]}, only for those of "
            f"{', '.join(record.origins) or 'the same origin'}",
            code="origin_refused",
        )

    async def _decide(self, body: bytes) -> bytes:
        request = decoded_request(body)
        if request.mode != "live":
            raise Forbidden("a publishable key decides live: leave mode out", field="mode")
        if request.explain != "none":
            raise Forbidden("a publishable key gets no explanations: leave explain out", field="explain")
        reply = await self._plane.decisions.decide(request)
        slots = tuple([structs.replace(slot, p_response=None, propensity=None) for slot in reply.slots])
        return _encode(structs.replace(reply, slots=slots, continues=(), explanation=None, holdout=""))

    async def _record(self, body: bytes) -> bytes:
        events = [_by_customer(event, index) for index, event in enumerate(decoded_events(body))]
        return _encode(await self._plane.record_many(events))


def _by_customer(event: Event | EventResult, index: int) -> Event | EventResult:
    if isinstance(event, EventResult):
        return event
    if event.by != "customer":
        refused = Forbidden("a publishable key tells what customers do: leave by out", field=f"events[{index}].by")
    elif event.type in COMPANY_WORDS:
        refused = Forbidden(
            f"a publishable key tells what customers do: a server of yours has to tell `{event.type}`",
            field=f"events[{index}].type",
        )
    else:
        return event
    return EventResult(event.event_id, "rejected", code=refused.code, detail=refused.message, field=refused.field)


def _key_in(query: bytes) -> bytes | None:
    if b"key=" not in query:
        return None
    try:
        found = parse_qs(query, keep_blank_values=True, max_num_fields=8).get(b"key", [])
    except ValueError:
        found = []
    if len(found) > 1:
        raise Invalid("the address has several keys", field="key")
    return found[0] if found else None
