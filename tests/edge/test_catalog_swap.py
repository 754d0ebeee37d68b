"""Releases change under load: nobody waits, nothing is mixed, and what was published stays as it was."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.service import CATALOG, OFFERS, Running, catalog_with

if TYPE_CHECKING:
    from collections.abc import Iterator

RATE = 200
LAST_S = 5.0
SWAPS = (200, 480, 760)
"""Decisions at which another release is published."""
SWAPPED_S = 1.0
LARGE = 500
"""Actions: to read and check them takes half a second, ten deadlines."""


def publish(service: Running, catalog: str, **query: Any) -> httpx.Response:
    return service.http.post("/v1/catalog/releases", content=catalog, params=query)


def offers_of(number: int) -> list[str]:
    return [f"{name}_{number}" for name in sorted(OFFERS)]


@pytest.fixture
def original(service: Running) -> Iterator[None]:
    """Put the shared service's catalog in force again."""
    yield
    assert publish(service, CATALOG).status_code == 201
    wait_for(service, service.http.get("/health/ready").json()["release"])


def wait_for(service: Running, release: int) -> float:
    """Wait until every worker decides with a release; returns seconds."""
    with service.workers() as clients:
        began = time.monotonic()
        for client in clients.values():
            while service.decide("swap", "web", client, mode="preview")["release"] < release:
                assert time.monotonic() - began < SWAPPED_S, f"a worker is not on release {release}"
    return time.monotonic() - began


@pytest.mark.usefixtures("original")
def test_publishing_under_load_drops_and_mixes_nothing(service: Running) -> None:
    of_release: dict[int, set[str]] = {}
    start = service.http.get("/health/ready").json()["release"]
    of_release[start] = set(OFFERS)
    body = {"placement": "web", "slots": 3, "exclude": ["help"], "explain": "full"}

    def swap(number: int) -> None:
        published = publish(service, catalog_with(offers_of(number)))
        assert published.status_code == 201, published.text
        release = published.json()["release"]
        of_release[release] = set(offers_of(number))
        wait_for(service, release)

    async def load() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=16)
        async with httpx.AsyncClient(
            base_url=service.url, headers=service.headers(), limits=limits, timeout=30.0
        ) as client:
            loop = asyncio.get_running_loop()
            began, calls, swaps = loop.time(), [], []
            for number in range(int(RATE * LAST_S)):
                await asyncio.sleep(max(0.0, began + number / RATE - loop.time()))
                request = {**body, "customer_id": f"swap-{number}"}
                calls.append(asyncio.create_task(client.post("/v1/decisions", json=request)))
                if number in SWAPS:
                    swaps.append(asyncio.create_task(asyncio.to_thread(swap, SWAPS.index(number))))
            await asyncio.gather(*swaps)
            return await asyncio.gather(*calls)

    answers = asyncio.run(load())
    assert [answer.text for answer in answers if answer.status_code != 200] == []
    seen = set()
    for answer in answers:
        reply = answer.json()
        assert reply["degraded"] == []
        known = of_release[reply["release"]]
        seen.add(reply["release"])
        assert {slot["action"] for slot in reply["slots"] if slot.get("action")} <= known
        assert {candidate["action"] for candidate in reply["explanation"]["candidates"]} == known
    assert seen == set(of_release), "every release was decided with"


@pytest.mark.usefixtures("original")
def test_a_large_catalog_is_published_beside_the_decisions(service: Running) -> None:
    large = catalog_with([f"offer_{number}" for number in range(LARGE)])

    def publishing() -> float:
        began = time.monotonic()
        assert publish(service, large).status_code == 201
        return time.monotonic() - began

    async def load() -> tuple[float, list[float]]:
        async with httpx.AsyncClient(base_url=service.url, headers=service.headers(), timeout=30.0) as client:

            async def decide(number: int) -> float:
                began = time.monotonic()
                request = {"customer_id": f"large-{number}", "placement": "quick"}
                answer = await client.post("/v1/decisions", json=request)
                assert (answer.status_code, answer.json()["degraded"]) == (200, []), answer.text
                return time.monotonic() - began

            calls: list[asyncio.Task[float]] = []
            published = asyncio.create_task(asyncio.to_thread(publishing))
            while not published.done():
                calls.append(asyncio.create_task(decide(len(calls))))
                await asyncio.sleep(1 / RATE)
            return await published, await asyncio.gather(*calls)

    took_s, waits = asyncio.run(load())
    wait_for(service, service.http.get("/health/ready").json()["release"])
    assert max(waits) < took_s / 2, "a worker that reads the catalog answers nobody meanwhile"


@pytest.mark.usefixtures("original")
def test_a_stale_base_is_refused(service: Running) -> None:
    current = service.http.get("/health/ready").json()["release"]
    refused = publish(service, catalog_with(offers_of(9)), base=current - 1)
    assert refused.status_code == 409
    assert (refused.json()["code"], refused.json()["field"]) == ("release_stale", "base")
    assert publish(service, catalog_with(offers_of(9)), base=current).json()["release"] == current + 1
    assert publish(service, CATALOG, base=current).json()["code"] == "release_stale"


@pytest.mark.usefixtures("original")
def test_a_release_never_changes_and_is_shared_by_all(service: Running) -> None:
    def read(number: int) -> bytes:
        return service.http.get(f"/v1/catalog/releases/{number}").content

    first = read(1)
    number = publish(service, catalog_with(offers_of(5)), note="other").json()["release"]
    second = read(number)
    assert publish(service, CATALOG).json()["release"] == number + 1
    assert (read(1), read(number)) == (first, second)
    assert b"alpha_5" in second
    assert b"alpha_5" not in first


def test_a_faulty_catalog_is_not_published(service: Running) -> None:
    before = service.http.get("/health/ready").json()["release"]
    refused = publish(service, CATALOG.replace("placements: [web]", "placements: [nowhere]"))
    assert refused.status_code == 422
    assert service.http.get("/health/ready").json()["release"] == before
