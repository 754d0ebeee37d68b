"""Routes that ask the log: SQL over ready views, and the search for decisions; each asks a process of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Annotated, Any, cast

from litestar import Request, Response, Router, get, post
from litestar.params import Parameter
from litestar.status_codes import HTTP_200_OK
from msgspec import Struct

from nbx.api.access import scope_guard
from nbx.api.wiring import Services
from nbx.audit.decisions_found import Criteria, Found
from nbx.audit.query_answer import Answer, Bounds
from nbx.audit.reading import Window, window
from nbx.errors import Unavailable
from nbx.limits import BODY_BYTES, QUERY_ROWS
from nbx.runtime.querying import FOREVER_MS, QueryDesk


class QueryPost(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A question in SQL."""

    sql: str
    """One SELECT over the views, see docs/query.md."""
    since: str | int = ""
    """Rows written from then on: epoch milliseconds, RFC 3339, or a time ago (7d); empty: 30 days ago."""
    until: str | int = ""
    """Rows written before then, the same; empty: now."""
    limit: int = QUERY_ROWS
    """Rows of the answer at most."""
    skip_damaged: bool = False
    """Go on without segments of the archive that are damaged, and note it."""


def query_routes(services: Services) -> Router:
    """Return `POST /v1/audit/query`."""
    desk = QueryDesk(services.settings)

    @post(
        "/query", opt={"scope": "audit"}, status_code=HTTP_200_OK, summary="Ask the log in SQL, read-only and bounded"
    )
    async def query(request: Request[Any, Any, Any], data: QueryPost) -> Answer:
        now_ms = services.clock.now_ms()
        span = window(str(data.since), str(data.until), now_ms)
        bounds = Bounds(rows=data.limit).checked()
        asked = desk.sql(data.sql, span, now_ms, bounds, skip_damaged=data.skip_damaged)
        return cast("Answer", _as_json(await _while_connected(request, asked)))

    guards = [scope_guard(services)]
    return Router("/v1/audit", route_handlers=[query], guards=guards, request_max_body_size=BODY_BYTES)


def find_handler(services: Services) -> Any:
    """Return the handler of `GET /v1/decisions`."""
    desk = QueryDesk(services.settings)

    @get("/decisions", opt={"scope": "audit"}, summary="Find decisions, newest first")
    async def find(  # noqa: PLR0913, PLR0917 - one parameter per criterion
        request: Request[Any, Any, Any],
        customer: Annotated[str, Parameter(description="As it was known when it was decided")] = "",
        placement: str = "",
        action: Annotated[str, Parameter(description="That a slot holds; with `reason`, that was removed")] = "",
        reason: Annotated[str, Parameter(description="Why an action was removed")] = "",
        outcome: Annotated[str, Parameter(description="Of a slot")] = "",
        cause: Annotated[str, Parameter(description="Of the outcome")] = "",
        degraded: Annotated[bool, Parameter(description="Only degraded ones")] = False,
        holdout: Annotated[str, Parameter(description="silent, random or any")] = "",
        since: Annotated[str, Parameter(description="Epoch ms, RFC 3339, or a time ago (7d); default 30 days")] = "",
        until: Annotated[str, Parameter(description="The same; default now")] = "",
        limit: int = 20,
        skip_damaged: Annotated[bool, Parameter(description="Go on without damaged segments")] = False,
    ) -> Found:
        now_ms = services.clock.now_ms()
        made = window(since, until, now_ms)
        criteria = Criteria(
            customer=customer, placement=placement, action=action, reason=reason, outcome=outcome, cause=cause,
            degraded=degraded, holdout=holdout, since_ms=made.since_ms, until_ms=made.until_ms, limit=limit,
        ).checked()  # fmt: skip
        span = Window(made.since_ms, FOREVER_MS)
        asked = desk.find(criteria, span, now_ms, Bounds(), skip_damaged=skip_damaged)
        return cast("Found", _as_json(await _while_connected(request, asked)))

    return find


def _as_json(packed: bytes) -> Response[bytes]:
    """Pass on what a worker packed as it is: unpacked it would be many times as large."""
    return Response(packed, media_type="application/json")


async def _while_connected(request: Request[Any, Any, Any], work: Coroutine[Any, Any, bytes]) -> bytes:
    """Work for as long as the caller waits."""
    working, leaving = asyncio.create_task(work), asyncio.create_task(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            working.cancel()
            await asyncio.wait({working})
            raise Unavailable("nobody waits for the answer any more", code="caller_left")
        return await working
    finally:
        for task in (working, leaving):
            task.cancel()


async def _left(request: Request[Any, Any, Any]) -> None:
    """Return when the caller's connection is closed."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
