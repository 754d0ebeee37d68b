"""The website client as a file: `GET /nbx.js`, for pages anywhere."""

from __future__ import annotations

import gzip
from hashlib import sha256
from importlib.resources import files
from typing import Any

from litestar import Request, Response, get

KEPT_S = 3600
"""Seconds for which browsers and caches use the file without asking: a fix is out within an hour."""


def web_routes() -> list[Any]:
    """Return the handler of the website client; the file is read once."""
    plain = files("nbx.api").joinpath("web", "nbx.js").read_bytes()
    packed = gzip.compress(plain, 9, mtime=0)
    tag = sha256(plain).hexdigest()[:32]
    headers = {
        "cache-control": f"public, max-age={KEPT_S}",
        "vary": "accept-encoding",
        # pages on other origins load it, also isolated ones and those that hold it to a hash
        "cross-origin-resource-policy": "cross-origin",
        "access-control-allow-origin": "*",
        "x-content-type-options": "nosniff",
    }

    @get("/nbx.js", include_in_schema=False)
    async def script(request: Request[Any, Any, Any]) -> Response[bytes]:
        packs = "gzip" in request.headers.get("accept-encoding", "")
        own = {**headers, "etag": f'"{tag}-gzip"' if packs else f'"{tag}"'}
        known = request.headers.get("if-none-match", "")
        if known == "*" or own["etag"] in (each.strip().removeprefix("W/") for each in known.split(",")):
            return Response(b"", status_code=304, headers=own, media_type="text/javascript")
        if packs:
            own["content-encoding"] = "gzip"
        return Response(packed if packs else plain, headers=own, media_type="text/javascript")

    return [script]
