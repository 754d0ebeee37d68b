"""What goes wrong while the load runs: catalogs published, processes held, Redis paused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import redis
from redis.exceptions import RedisError

from nbx.client import Client, Retry
from nbx.errors import NbxError, SetupError
from nbx.loadtest.durations import written
from nbx.loadtest.local_service import LocalService, held
from nbx.loadtest.result import Happened
from nbx.loadtest.scenario import Disturbance, PauseRedis, Publish, Stop
from nbx.settings import Settings

PUBLISH_S = 30.0
"""Seconds a publication may take under load."""


class Disturbances:
    """Carries out the disturbances of a scenario.

    Parameters
    ----------
    planned
        Of the scenario.
    folder
        Of its file: catalogs are named relative to it.
    url, key
        Of the service, for publications.
    settings
        Of the service on this machine; asked only when something of it is to be held or paused.
    time_factor
        Every time and length is multiplied by it.

    Raises
    ------
    SetupError
        Something of it cannot be done: told before the load begins.
    """

    def __init__(
        self,
        planned: Sequence[Disturbance],
        folder: Path,
        *,
        url: str,
        key: str,
        settings: Settings,
        time_factor: float = 1.0,
    ) -> None:
        self._factor = time_factor
        self._client = Client(url, key, settings.tls_cert, deadline_s=PUBLISH_S, retry=Retry(attempts=1))
        self._local: LocalService | None = None
        self._catalogs: dict[str, bytes] = {}
        self._planned = planned
        self.happened: list[Happened] = []
        for number, disturbance in enumerate(planned):
            if isinstance(disturbance, Publish):
                self._catalogs[disturbance.catalog] = _bytes_of(folder / disturbance.catalog, number)
                continue
            self._local = self._local or LocalService(settings, url)
            if isinstance(disturbance, Stop):
                self._local.process(disturbance.process)
            else:
                self._local.redis_url()

    async def run(self, start_ns: int) -> None:
        """Do everything at its time; what was held goes on when this is cancelled."""
        async with asyncio.TaskGroup() as group:
            for disturbance in self._planned:
                group.create_task(self._one(disturbance, start_ns))

    def close(self) -> None:
        """Close the client."""
        self._client.close()

    async def _one(self, disturbance: Disturbance, start_ns: int) -> None:
        at_s = disturbance.at * self._factor
        await asyncio.sleep(at_s - (time.perf_counter_ns() - start_ns) / 1e9)
        match disturbance:
            case Publish():
                await self._publish(disturbance, start_ns)
            case Stop():
                await self._stop(disturbance, start_ns)
            case PauseRedis():
                await self._pause(disturbance, start_ns)

    async def _publish(self, publish: Publish, start_ns: int) -> None:
        text = self._catalogs[publish.catalog]
        for number in range(publish.times):
            if number:
                await asyncio.sleep(publish.every * self._factor)
            began_ns = time.perf_counter_ns()
            try:
                release = await asyncio.to_thread(self._call_publish, text, number)
                words = f"published release {release}"
            except NbxError as error:
                words = f"publishing failed: {error}"
            self._note(start_ns, began_ns, words)

    def _call_publish(self, text: bytes, number: int) -> int:
        published = self._client.call(
            "POST", "/v1/catalog/releases", content=text, note=f"load test, publication {number + 1}"
        )
        return int(published["release"])

    async def _stop(self, stop: Stop, start_ns: int) -> None:
        length_s = stop.lasts_s * self._factor
        began_ns = time.perf_counter_ns()
        assert self._local is not None
        try:
            with held(self._local.process(stop.process), length_s):
                await asyncio.sleep(length_s)
            words = f"{stop.process} held for {written(length_s)}"
        except NbxError as error:
            words = f"{stop.process} was not held: {error}"
        self._note(start_ns, began_ns, words)

    async def _pause(self, pause: PauseRedis, start_ns: int) -> None:
        length_s = pause.lasts_s * self._factor
        began_ns = time.perf_counter_ns()
        assert self._local is not None
        words = f"Redis paused for {written(length_s)}"
        try:
            await asyncio.to_thread(_pause, self._local.redis_url(), max(1, round(length_s * 1000)))
            await asyncio.sleep(length_s)
        except RedisError as error:
            words = f"Redis was not paused: {error}"
        self._note(start_ns, began_ns, words)

    def _note(self, start_ns: int, began_ns: int, words: str) -> None:
        now_ns = time.perf_counter_ns()
        self.happened.append(Happened(at_s=(began_ns - start_ns) / 1e9, until_s=(now_ns - start_ns) / 1e9, words=words))


def _pause(url: str, length_ms: int) -> None:
    with redis.Redis.from_url(url, socket_timeout=5.0) as client:
        client.execute_command("CLIENT", "PAUSE", length_ms)


def _bytes_of(file: Path, number: int) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise SetupError(f"disturbances[{number}].catalog: {file} cannot be read: {error.strerror}") from error
