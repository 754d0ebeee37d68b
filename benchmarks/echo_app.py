"""The least a gRPC server can do: grpc.aio that returns what it was sent, unary and in a stream.

Run as `python -m benchmarks.echo_app PORT BYTES`; answers hold BYTES bytes.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import uvloop


async def serve(port: int, size: int) -> None:
    """Serve until the process ends."""
    answer = b"x" * size

    async def unary(request: bytes, context: Any) -> bytes:  # noqa: ARG001 - gRPC's
        return answer

    async def stream(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:  # noqa: ARG001 - gRPC's
        async for _ in requests:
            yield answer

    handlers: dict[str, Any] = {
        "Decide": grpc.unary_unary_rpc_method_handler(unary),
        "DecideStream": grpc.stream_stream_rpc_method_handler(stream),
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo", handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2])))
