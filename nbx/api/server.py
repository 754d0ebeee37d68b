"""An api process: both faces on one event loop, sharing their ports with the other workers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Iterator
from functools import partial

import uvicorn

from nbx.api.front import AsgiApp, Front
from nbx.api.grpc import start_grpc
from nbx.api.hot_protocol import HotProtocol
from nbx.api.http import make_app
from nbx.api.plane import DataPlane
from nbx.api.wiring import wire
from nbx.decision.warm_up import warm_up
from nbx.runtime.process import log, settle, stop_event
from nbx.settings import Settings

GRACE_S = 10
"""Seconds that requests in flight get to finish when the process is told to stop."""
KEEP_ALIVE_S = 75
BACKLOG = 2048
SWITCH_S = 0.0005
"""Seconds until a thread that reads or compiles a catalog lets the event loop go on. A decision waits for it some five
times, so with Python's 5 ms it would miss its deadline while something is published."""


class _Server(uvicorn.Server):
    """A server that leaves signals to us: stopping also ends gRPC and the background work, in order."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install nothing."""
        yield


async def serve(settings: Settings) -> int:
    """Run until stopped; returns the exit code."""
    stop = stop_event()
    warm_up()
    services = wire(settings)
    plane = DataPlane(services.decisions, services.events)
    front = Front(make_app(services, plane), plane, services.keys)
    tracing = services.tracing
    app: AsgiApp = front if tracing is None else tracing.wrap(front)
    config = uvicorn.Config(
        app,
        loop="none",
        http=partial(HotProtocol, front) if tracing is None else "httptools",  # type: ignore[arg-type] # it makes one
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
        backlog=BACKLOG,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
    )
    server = _Server(config)
    await services.start(stop)
    grpc_server = await start_grpc(settings, plane, services.keys, () if tracing is None else (tracing.interceptor(),))
    settle()
    sys.setswitchinterval(SWITCH_S)
    log.info("api ready on %s:%d, gRPC on %d", settings.host, settings.port, settings.grpc_port)
    serving = asyncio.create_task(server.serve(sockets=[_listen(settings)]))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stop.set()
    server.should_exit = True
    await asyncio.gather(serving, grpc_server.stop(GRACE_S))
    await services.close()
    if tracing is not None:
        await asyncio.to_thread(tracing.close)
    log.info("api stopped")
    return 0


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((settings.host, settings.port))
    listener.setblocking(False)
    return listener
