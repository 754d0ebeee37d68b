"""Budgets over real workers: killed and held up in the middle, what is given out is the total, no more and no less."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest

from nbx.experience.entries import DecisionEntry
from nbx.features.keys import partition_keys
from tests.service import Running, decisions_in, eventually, eventually_async, running

if TYPE_CHECKING:
    from collections.abc import Iterator

UNITS, CAKES = 800, 60
CLIENTS = 12
WITHIN_S = 60.0
CATALOG = f"""
catalog: budgets
placements:
  web: {{channel: web, impressions: reported, slots: 2}}
groups:
  gifts: {{}}
actions:
  voucher: {{group: gifts, class: mandatory, treatments: {{t: {{placements: [web]}}}}}}
  cake: {{group: gifts, class: mandatory, cost: 2.5, treatments: {{t: {{placements: [web]}}}}}}
budgets:
  vouchers: {{actions: [voucher], units: {UNITS}, per: 3650d}}
  cakes: {{actions: [cake], money: {CAKES * 2.5}, per: 3650d}}
"""


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.nightly)])
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("shop"), CATALOG, workers=request.param) as service:
        yield service


class Crowd:
    """Clients that ask over and over, and what they were given."""

    def __init__(self, service: Running) -> None:
        self.service = service
        self.given: Counter[str] = Counter()
        self.empty = 0
        """Answers without anything since something was given."""
        self.stopping = False

    async def ask(self, client: httpx.AsyncClient, number: int) -> None:
        turn = 0
        while not self.stopping:
            turn += 1
            body = {"customer_id": f"c{number}-{turn % 40}", "placement": "web", "slots": 1 + turn % 2}
            with contextlib.suppress(httpx.HTTPError):
                answer = await client.post("/v1/decisions", json=body)
                reply: dict[str, Any] = answer.json() if answer.status_code == 200 else {"degraded": ["refused"]}
                if not reply["degraded"]:
                    got = [slot["action"] for slot in reply["slots"] if slot.get("action")]
                    self.given.update(got)
                    self.empty = 0 if got else self.empty + 1
            if self.empty:
                await asyncio.sleep(0.05)

    async def crowd_in(self, stories: list[tuple[str, str]]) -> None:
        limits = httpx.Limits(max_connections=2 * CLIENTS, max_keepalive_connections=0)  # every worker is met
        headers = self.service.headers()
        async with httpx.AsyncClient(base_url=self.service.url, headers=headers, limits=limits, timeout=2.0) as client:
            clients = [asyncio.create_task(self.ask(client, number)) for number in range(CLIENTS)]
            try:
                for what, name in stories:
                    await self.progress(UNITS // 10)
                    await asyncio.to_thread(happen, self.service, what, name)
                await eventually_async(self.is_spent, WITHIN_S, "all is given out")
            finally:
                self.stopping = True
                await asyncio.gather(*clients)

    async def progress(self, count: int) -> None:
        goal = self.given.total() + count
        await eventually_async(lambda: self.given.total() >= goal, WITHIN_S, "gifts are given out")

    def is_spent(self) -> bool:
        """Look into the log once nobody has got anything for a while."""
        if self.empty < 5 * CLIENTS:
            return False
        self.empty = 1
        return given_out(self.service).total() == UNITS + CAKES


def happen(service: Running, what: str, name: str) -> None:
    pid = service.pids()[name]
    match what:
        case "kill":
            os.kill(pid, signal.SIGKILL)
            eventually(lambda: service.pids()[name] != pid, WITHIN_S, f"{name} was started again")
        case "pause":
            os.kill(pid, signal.SIGSTOP)
        case "resume":
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def decisions(service: Running) -> list[DecisionEntry]:
    return decisions_in(service.entries())


def given_out(service: Running) -> Counter[str]:
    return Counter(slot.action for entry in decisions(service) for slot in entry.slots if slot.action)


def books(service: Running) -> list[dict[bytes, bytes]]:
    return [service.redis.hgetall(key) for key in service.redis.scan_iter("nbx:budget:*")]


@pytest.mark.timeout(300)  # many processes start, and some again
def test_killed_and_held_up_workers_neither_exceed_nor_waste_a_budget(shop: Running) -> None:
    crowd = Crowd(shop)
    *others, sleeper = (f"api-{number}" for number in range(shop.settings.workers))
    stories = [("pause", sleeper), *(("kill", name) for name in others), ("resume", sleeper)]
    try:
        asyncio.run(crowd.crowd_in(stories))
    finally:
        happen(shop, "resume", sleeper)
    entries = decisions(shop)
    logged = given_out(shop)
    assert logged == {"voucher": UNITS, "cake": CAKES}
    assert all(logged[action] >= count for action, count in crowd.given.items()), "answered and not logged"
    spent = Counter[str]()
    for entry in entries:
        for each in entry.spent:
            spent[each.resource] += each.amount
    assert spent == {"vouchers/units": UNITS, "cakes/money": CAKES * 25_000}
    leases = {each.lease for entry in entries for each in entry.spent}
    counted = sum(
        int((shop.redis.get(partition_keys(p).spending(lease)) or b"0").removeprefix(b"c"))
        for lease in leases
        for p in range(shop.settings.partitions)
    )
    assert counted == sum(spent.values())


def test_the_status_tells_what_is_spent_and_stopping_gives_everything_back(shop: Running) -> None:
    answer = shop.http.get("/v1/budgets")
    vouchers, cakes = answer.json()
    assert (vouchers["budget"], vouchers["resource"], vouchers["total"]) == ("vouchers", "units", UNITS)
    assert (vouchers["spent"], vouchers["held"]) == (UNITS, 0)
    assert (cakes["resource"], cakes["total"], cakes["spent"]) == ("money", CAKES * 2.5, CAKES * 2.5)
    assert vouchers["begins_ms"] < vouchers["ends_ms"]
    told = subprocess.run(
        [sys.executable, "-m", "nbx", "catalog", "budgets"], env=shop.environment, capture_output=True, check=True
    )
    assert f"vouchers: {UNITS} of {UNITS} units spent, 0 in workers' hands; until" in told.stdout.decode()
    key, _ = shop.new_key("decide")
    assert shop.http.get("/v1/budgets", headers=shop.headers(key)).status_code == httpx.codes.FORBIDDEN
    metrics = shop.http.get("/metrics").text
    (line,) = [
        text for text in metrics.splitlines() if text.startswith('nbx_budget_spent_total{resource="cakes/money"}')
    ]
    assert 0 < float(line.split()[-1]) <= CAKES * 2.5, "a killed worker may not have told all"
    pids = [pid for name, pid in shop.pids().items() if name.startswith("api-")]
    for pid in pids:
        os.kill(pid, signal.SIGTERM)
    psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], WITHIN_S)
    eventually(lambda: all(book.keys() == {b"granted"} for book in books(shop)), WITHIN_S, "no lease is left")
    assert {int(book[b"granted"]) for book in books(shop)} == {UNITS, CAKES * 25_000}
