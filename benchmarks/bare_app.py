"""The least a server can do: a bare ASGI function that reads the body and answers so many bytes.

Run as `python -m benchmarks.bare_app PORT BYTES`.
"""

from __future__ import annotations

import sys
from typing import Any

import uvicorn


def make_app(size: int) -> Any:
    """Return the application."""
    body = b'{"x":"' + b"x" * max(size - 8, 0) + b'"}'
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]

    async def app(scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG001 - ASGI's
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


if __name__ == "__main__":
    uvicorn.run(
        make_app(int(sys.argv[2])),
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_config=None,
        lifespan="off",
    )
