"""The service a back-test talks to: one of its own, or a running one; the same HTTP calls either way.

A private service is `nbx up` under this process's own supervisor: a temporary data directory, free ports, the
catalog of the specification. It ends with the back-test, however that ends: Ctrl-C and SIGTERM stop it in order, and
when the back-test is killed the kernel tells it to stop. Its snapshots are published and picked up more often than by
default, since a log of two weeks is played in a minute: in rows, the model is still further behind than it would be in
life.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import httpx
import msgspec
from msgspec import Struct

from nbx.api.messages import BatchItem
from nbx.api.schemas import Ready
from nbx.catalog.model import Catalog
from nbx.client import Refused
from nbx.clock import SystemClock
from nbx.decision.messages import DecideReply, DecideRequest
from nbx.errors import SetupError, Unavailable
from nbx.experience.entries import Event
from nbx.experience.results import EventResult
from nbx.features.schema import Value
from nbx.limits import BATCH
from nbx.local_key import KEY_FILE
from nbx.runtime.supervise import Child, Supervisor
from nbx.settings import PREFIX, Settings, load_settings

START_S = 90.0
"""Seconds until a private service must be ready: compiling kernels for the first time takes most of a minute."""
LOOK_S = 0.1
TIMEOUT_S = 30.0
STOP_S = 45.0
"""Seconds a private service may take to stop: its own children get up to 30."""
LEARN_S = 30.0
"""Seconds in which the learner must take in what was sent."""
SNAPSHOT_MS = 50
POLL_MS = 20

_decode_batch = msgspec.json.Decoder(list[BatchItem]).decode
_decode_results = msgspec.json.Decoder(list[EventResult]).decode


class _Release(Struct):
    catalog: Catalog


class Service:
    """Calls of a back-test; close it, or use it as a context manager.

    Parameters
    ----------
    url
        Of the service.
    key
        With the scopes decide, events and audit, and catalog for `catalog`; empty: none is sent.
    """

    def __init__(self, url: str, key: str) -> None:
        headers = {"content-type": "application/json"}
        if key:
            headers["authorization"] = f"Bearer {key}"
        self.url = url
        self._http = httpx.AsyncClient(base_url=url, headers=headers, timeout=TIMEOUT_S, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def catalog(self) -> Catalog:
        """Return the catalog in force."""
        answer = await self._call("GET", "/health/ready", refuse=False)
        ready = msgspec.json.decode(answer, type=Ready)
        if not ready.ready:
            raise SetupError(f"--url {self.url}: not ready: {ready.reason}")
        answer = await self._call("GET", f"/v1/catalog/releases/{ready.release}")
        return msgspec.json.decode(answer, type=_Release).catalog

    async def decide(self, requests: Sequence[DecideRequest]) -> list[DecideReply]:
        """Decide for any number of requests; one reply each, in their order."""
        parts = [requests[k : k + BATCH] for k in range(0, len(requests), BATCH)]
        answers = await asyncio.gather(*(self._call("POST", "/v1/decisions:batch", part) for part in parts))
        replies = []
        for item in (item for answer in answers for item in _decode_batch(answer)):
            if item.reply is None:
                raise Refused(msgspec.to_builtins(item.problem))
            replies.append(item.reply)
        return replies

    async def record(self, events: Sequence[Event]) -> None:
        """Record any number of events; those of one customer stay in order when they come in pairs."""
        parts = [events[k : k + BATCH] for k in range(0, len(events), BATCH)]
        answers = await asyncio.gather(*(self._call("POST", "/v1/events", part) for part in parts))
        for result in (result for answer in answers for result in _decode_results(answer)):
            if result.status != "accepted":
                raise Refused(
                    msgspec.to_builtins(result) | {"detail": f"an event was {result.status}: {result.detail}"}
                )

    async def change_profile(self, customer_id: str, profile: dict[str, Value]) -> None:
        """Set declared features of a customer."""
        await self._call("PATCH", f"/v1/customers/{customer_id}", {"profile": profile})

    async def learned(self) -> int:
        """Return how many outcomes the learner has taken in; the console's numbers are half a second old, these not."""
        for line in (await self._call("GET", "/metrics")).splitlines():
            if line.startswith(b"nbx_learned_total "):
                return int(float(line.split()[1]))
        return 0

    async def until_learned(self, count: int) -> None:
        """Wait until the learner has taken in so many outcomes; `Unavailable` when it does not."""
        loop = asyncio.get_running_loop()
        began, pause_s = loop.time(), 0.01
        while await self.learned() < count:
            if loop.time() - began > LEARN_S:
                raise Unavailable(
                    f"the learner of {self.url} has not taken in what was sent within {LEARN_S:g} s; does it run?",
                    code="learner_late",
                )
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, 0.25)

    async def _call(self, method: str, path: str, body: Any = None, *, refuse: bool = True) -> bytes:
        content = None if body is None else msgspec.json.encode(body)
        try:
            answer = await self._http.request(method, path, content=content)
        except httpx.InvalidURL as error:
            raise SetupError(f"--url {self.url}: is no URL: {error}") from error
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise Unavailable(f"no answer from {self.url} to {method} {path}: {reason}") from error
        if answer.is_error and refuse:
            try:
                problem = msgspec.json.decode(answer.content, type=dict[str, Any])
            except msgspec.DecodeError:
                problem = {"detail": f"{method} {path}: HTTP {answer.status_code}: {answer.text[:200]}"}
            raise Refused(problem)
        return answer.content


@asynccontextmanager
async def private_service(catalog_text: str, directory: Path) -> AsyncIterator[Service]:
    """Run a service of our own while the context lasts.

    Parameters
    ----------
    catalog_text
        What it publishes.
    directory
        Exists and is empty; keeps its data and logs.

    Raises
    ------
    SetupError
        It could not start; `faults` are its last words.
    KeyboardInterrupt
        The process was told to stop meanwhile (SIGINT, SIGTERM); whatever runs in the context is cancelled.
    """
    catalog = directory / "catalog.yaml"
    catalog.write_text(catalog_text)
    settings = _settings(directory / "data")
    lines: list[str] = []
    child = Child(
        name="up",
        argv=(sys.executable, "-m", "nbx", "up", "--catalog", str(catalog)),
        environment=_environment(settings),
        ready=lambda _: _until_ready(settings),
        stop_timeout_s=STOP_S,
    )
    supervisor = Supervisor([[child]], directory / "logs", say=lines.append, clock=SystemClock())
    ready = asyncio.Event()

    async def on_ready() -> None:
        ready.set()

    running = asyncio.create_task(supervisor.run(on_ready))
    waiting = asyncio.create_task(ready.wait())
    user = asyncio.current_task()
    assert user is not None
    ends = ""

    def end(why: str) -> None:
        nonlocal ends
        if ends:
            supervisor.stop()  # it is stopping already: this kills
            return
        ends = why
        user.cancel()

    def ended(_: object) -> None:
        end("service")

    try:
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            if not any("cannot start" in line for line in lines):
                raise KeyboardInterrupt
            raise SetupError("the private service could not start", faults=tuple(lines[-20:]))
        running.add_done_callback(ended)
        # from here on a signal first ends the calls, then the service under them
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, end, "signal")
        key = (settings.data_dir / KEY_FILE).read_text().strip()
        async with Service(settings.url, key) as service:
            yield service
    except asyncio.CancelledError:
        if ends == "signal":
            raise KeyboardInterrupt from None
        if ends == "service":
            raise Unavailable("the private service has ended:\n  " + "\n  ".join(lines[-20:])) from None
        raise
    finally:
        ends = ends or "done"
        running.remove_done_callback(ended)
        waiting.cancel()
        if not running.done():
            supervisor.stop()
            await running


def _settings(data_dir: Path) -> Settings:
    """This machine's settings where they say how Redis is run, and nothing else of them."""
    own = load_settings(os.environ)
    ports = []
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        ports = [probe.getsockname()[1] for probe in (first, second)]
    return Settings(
        data_dir=data_dir,
        redis_binary=own.redis_binary,
        port=ports[0],
        grpc_port=ports[1],
        snapshot_interval_ms=SNAPSHOT_MS,
        poll_interval_ms=POLL_MS,
        log_level="warning",
    )


def _environment(settings: Settings) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return inherited | settings.environment()


async def _until_ready(settings: Settings) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with httpx.AsyncClient(base_url=settings.url, trust_env=False, timeout=2.0) as client:
        while loop.time() - began < START_S:
            try:
                if (await client.get("/health/ready")).status_code == httpx.codes.OK:
                    return
            except httpx.HTTPError:
                pass
            await asyncio.sleep(LOOK_S)
    raise Unavailable(f"not ready within {START_S:g} s")
