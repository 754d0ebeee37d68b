"""Redis stopped, gone or not there yet: answers stay legal and in time, and are made good afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from redis.asyncio import Redis

from nbx.catalog.parse import parse_catalog
from nbx.catalog.releases import publish
from nbx.experience.entries import DecisionEntry, EventEntry
from tests.redis_server import RedisServer
from tests.service import (
    CATALOG,
    ROOT,
    START_S,
    Running,
    decisions_in,
    environment_of,
    event_ids_in,
    eventually,
    eventually_async,
    free_ports,
    running,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

DEADLINE_MS = 100
SLACK_MS = 400
"""For a client and a service on two busy cores."""
CLIENTS = 24
STOPS = 4
DURING = 120
"""Decisions answered while Redis stands still, each time."""


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("fragile"), deadline_ms=DEADLINE_MS) as service:
        yield service


@contextlib.contextmanager
def redis_stopped(service: Running) -> Iterator[None]:
    pid = service.pids()["redis"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def logged(service: Running, decision_id: str) -> bool:
    return service.http.get(f"/v1/decisions/{decision_id}").status_code == 200


def test_a_degraded_answer_is_legal_in_time_and_made_good(fragile: Running) -> None:
    customer = "degraded-one"
    fragile.decide(customer)
    replies = {}
    with redis_stopped(fragile):
        for placement in ("web", "quick", "desk"):
            for number in range(15):  # enough to open the breaker
                began = time.monotonic()
                reply = fragile.decide(f"{customer}-{placement}-{number}", placement, slots=2)
                assert (time.monotonic() - began) * 1000 < DEADLINE_MS + SLACK_MS
                assert reply["degraded"] == ["state_unavailable"]
                assert [slot["slot"] for slot in reply["slots"]] == [0, 1]
                assert reply["slots"][1] == {"slot": 1, "none": "state_unavailable"}
                expected = "help" if placement == "web" else None
                assert reply["slots"][0].get("action") == expected
                replies[reply["decision_id"]] = placement
        excluded = fragile.decide(customer, exclude=["help"])
        assert excluded["slots"] == [{"slot": 0, "none": "state_unavailable"}], "what the caller excludes is not shown"
        ready = fragile.http.get("/health/live")
        assert ready.status_code == 200
        refused = fragile.http.post("/v1/decisions", json={"customer_id": "x", "placement": "nowhere"})
        assert refused.status_code == 404, "a wrong request is told so, Redis or not"
        unheard = fragile.http.post("/v1/events", json=[{"event_id": "e", "type": "page_view", "customer_id": "x"}])
        assert unheard.status_code == 503
        assert unheard.json()["code"] in ("state_timeout", "state_unavailable")
    for decision_id in replies:
        eventually(lambda d=decision_id: logged(fragile, d), 15.0, "degraded decisions are logged")  # type: ignore[misc]
    entries = {entry.decision_id: entry for entry in decisions_in(fragile.entries())}
    assert all(entries[decision_id].degraded == ("state_unavailable",) for decision_id in replies)
    for decision_id, placement in replies.items():
        if placement == "web":
            event = {"event_id": f"after-{decision_id}", "type": "accepted", "decision_id": decision_id}
            assert fragile.record(event)[0].get("outcome") == "accepted"
            assert fragile.http.get(f"/v1/decisions/{decision_id}/replay").json()["same"] is True


def test_what_was_committed_unnoticed_is_withdrawn(fragile: Running) -> None:
    """Whoever was answered degraded was not shown what a commit that came through after all says."""
    answered: dict[str, bool] = {}
    count = {"degraded": 0}

    async def ask(client: httpx.AsyncClient, number: int, stop: asyncio.Event) -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            body = {"customer_id": f"unnoticed-{number}-{turn}", "placement": "web", "slots": 2}
            reply = (await client.post("/v1/decisions", json=body)).json()
            answered[reply["decision_id"]] = bool(reply["degraded"])
            count["degraded"] += bool(reply["degraded"])

    async def run() -> None:
        stop = asyncio.Event()
        async with httpx.AsyncClient(base_url=fragile.url, headers=fragile.headers(), timeout=30.0) as client:
            asking = [asyncio.create_task(ask(client, number, stop)) for number in range(CLIENTS)]
            for _ in range(STOPS):
                goal = len(answered) + DURING
                await eventually_async(lambda g=goal: len(answered) >= g, 30.0, "decisions go on")  # type: ignore[misc]
                goal = count["degraded"] + DURING
                with redis_stopped(fragile):
                    await eventually_async(
                        lambda g=goal: count["degraded"] >= g,  # type: ignore[misc]
                        30.0,
                        "decisions go on without Redis",
                    )
            stop.set()
            await asyncio.gather(*asking)

    asyncio.run(run())

    def withdrawn() -> tuple[bool, dict[str, DecisionEntry]]:
        entries = fragile.entries()
        decided = {entry.decision_id: entry for entry in decisions_in(entries)}
        seen = set(event_ids_in(entries))
        unnoticed = {
            decision_id: entry
            for decision_id, entry in decided.items()
            if entry.customer_id.startswith("unnoticed-") and decision_id not in answered
        }
        wanted = {
            f"withdrawn:{decision_id}:{number}"
            for decision_id, entry in unnoticed.items()
            for number, slot in enumerate(entry.slots)
            if slot.action
        }
        return wanted <= seen and answered.keys() <= decided.keys(), unnoticed

    eventually(lambda: withdrawn()[0], 20.0, "all answers are logged, all unnoticed commits withdrawn")
    entries = fragile.entries()
    for entry in entries:
        if isinstance(entry, EventEntry) and entry.event.event_id.startswith("withdrawn:"):
            assert entry.event.decision_id not in answered, "withdrawn, although its caller has it"
            (outcome,) = entry.outcomes
            assert (outcome.outcome, outcome.cause) == ("not_seen", "execution")
            assert outcome.response_weight == 0.0 or outcome.response is None, "nobody is charged"
    decided = {entry.decision_id: entry for entry in decisions_in(entries)}
    assert {d: bool(decided[d].degraded) for d in answered} == answered
    assert count["degraded"] >= STOPS * DURING


def test_an_api_process_waits_for_a_redis_that_comes_later(tmp_path: Any) -> None:
    port, grpc_port = free_ports(2)
    with RedisServer() as server:
        asyncio.run(_publish(server.url))
        server.kill()
        environment = environment_of(
            {
                "data_dir": tmp_path,
                "redis_url": server.url,
                "port": port,
                "grpc_port": grpc_port,
                "auth": "off",
                "deadline_ms": 2_000,
            }
        )
        log = tmp_path / "api.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "nbx", "api"], env=environment, cwd=ROOT, stdout=out, stderr=out
            )
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10.0) as client:
                eventually(lambda: status(client, "/health/live") == 200, START_S, "it lives")
                assert status(client, "/health/ready") == 503
                refused = client.post("/v1/decisions", json={"customer_id": "x", "placement": "web"})
                assert (refused.status_code, refused.json()["code"]) == (503, "release_missing")
                server.start()
                eventually(lambda: status(client, "/health/ready") == 200, 20.0, "it is ready")
                reply = client.post("/v1/decisions", json={"customer_id": "x", "placement": "web"}).json()
                assert reply["degraded"] == []
                server.kill()
                eventually(lambda: status(client, "/health/ready") == 503, 20.0, "it is not ready any more")
                assert status(client, "/health/live") == 200
                server.start()
                eventually(lambda: status(client, "/health/ready") == 200, 20.0, "it is ready again")
        finally:
            process.terminate()
            code = process.wait(30.0)
        assert code == 0
        assert "Traceback" not in log.read_text()


async def _publish(url: str) -> None:
    async with Redis.from_url(url) as redis:
        await publish(redis, parse_catalog(CATALOG, source="test"), author="test", note="", at_ms=1)


def status(client: httpx.Client, path: str) -> int:
    try:
        return client.get(path).status_code
    except httpx.HTTPError:
        return 0
