"""The console: one page, its script and style, and the numbers it polls."""

from __future__ import annotations

import ipaddress
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, select_autoescape
from litestar import MediaType, Request, Response, get
from litestar.connection import ASGIConnection

from nbx import __version__
from nbx.api.reports import live
from nbx.api.schemas import Live
from nbx.api.wiring import Services
from nbx.errors import Unauthenticated

FRESH_MS = 500
"""Milliseconds for which the console's numbers are given out again: any number of open pages costs like one."""
_FOLDER = files("nbx.api").joinpath("console")
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


def trusted_browser(connection: ASGIConnection[Any, Any, Any, Any], services: Services) -> bool:
    """Tell whether a request without a key comes from a browser on this machine.

    Only while the service listens on loopback alone, from a loopback address, and under a loopback name: a page
    elsewhere whose name was pointed at 127.0.0.1 sends its own name.
    """
    client = connection.client
    name = connection.headers.get("host", "").rsplit(":", 1)[0].strip("[]")
    return (
        connection.scope.get("method") == "GET"
        and "authorization" not in connection.headers
        and _loopback(services.settings.host)
        and client is not None
        and _loopback(client.host)
        and _loopback(name)
    )


def console_routes(services: Services) -> list[Any]:
    """Return the handlers of the console."""
    shown: Live | None = None
    environment = Environment(
        loader=FunctionLoader(lambda name: _FOLDER.joinpath(name).read_text()), autoescape=select_autoescape(["jinja"])
    )

    def check(request: Request[Any, Any, Any]) -> None:
        if not trusted_browser(request, services):
            services.keys.check(request.headers.get("authorization"), "audit")

    @get("/", media_type=MediaType.HTML, include_in_schema=False)
    async def page(request: Request[Any, Any, Any]) -> Response[str]:
        try:
            check(request)
        except Unauthenticated as error:
            raise Unauthenticated(
                f"{error.message}; without one, the console opens only on the machine itself"
            ) from None
        html = environment.get_template("index.html.jinja").render(version=__version__)
        return Response(html, media_type=MediaType.HTML, headers=_HEADERS)

    @get("/console/console.js", include_in_schema=False)
    async def script() -> Response[bytes]:
        return Response(
            _FOLDER.joinpath("console.js").read_bytes(), media_type="text/javascript; charset=utf-8", headers=_HEADERS
        )

    @get("/console/console.css", include_in_schema=False)
    async def style() -> Response[bytes]:
        return Response(
            _FOLDER.joinpath("console.css").read_bytes(), media_type="text/css; charset=utf-8", headers=_HEADERS
        )

    @get("/v1/console/live", summary="The console's numbers")
    async def numbers(request: Request[Any, Any, Any]) -> Live:
        nonlocal shown
        check(request)
        now_ms = services.clock.now_ms()
        if shown is None or now_ms - shown.now_ms > FRESH_MS:
            shown = await live(services)
        return shown

    return [page, script, style, numbers]


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
