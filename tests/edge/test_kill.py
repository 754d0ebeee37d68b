"""kill -9 under load: what was acknowledged is there, once, and was learned once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import Counter
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import psutil
import pytest
from rich.console import Console

from nbx.audit.reading import Window
from nbx.runtime.replaying import replay_all
from tests.service import (
    Running,
    decisions_in,
    event_ids_in,
    eventually,
    eventually_async,
    evidence_in_log,
    evidence_learned,
    outcomes_of,
    running,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

CLIENTS = 8
PATIENCE_S = 20.0
"""How long a client repeats an event: longer than any restart."""
PROGRESS = 150
"""Events acknowledged between two kills."""
STORIES: tuple[tuple[str, ...], ...] = (
    (),
    ("delivered",),
    ("seen",),
    ("seen", "accepted"),
    ("seen", "declined", "accepted"),
    ("seen", "declined"),
    ("delivered", "seen", "dismissed"),
    ("seen", "converted"),
    ("declined",),
    ("seen", "failed"),
    ("delivered", "seen", "complained"),
)
"""Of six first answers, one comes without its exposure: it must count for nothing, and be too rare for an alarm."""
WELL_REPORTED = 40
"""Answers with their exposure, on each placement, before the storm: from then on one without is held back."""
WITHIN_S = 60.0
FORGOTTEN = 0.1
"""Observations of an action that a calibrated memory may have lost; one learned twice or never is 0.5 or more."""


class Ledger:
    """What the clients were promised."""

    def __init__(self) -> None:
        self.events: list[str] = []
        """Ids of events answered with accepted or duplicate."""
        self.decisions: list[str] = []
        """Ids of decisions answered and not degraded."""
        self.lost: list[str] = []
        """Decisions that were answered and then unknown."""
        self.stopping = False


async def customer_life(client: httpx.AsyncClient, ledger: Ledger, number: int) -> None:
    """Decide and report, over and over, repeating what was not acknowledged."""
    rng = np.random.default_rng(number)
    turn = 0
    while not ledger.stopping:
        turn += 1
        body = {"customer_id": f"kill-{number}-{turn % 50}", "placement": rng.choice(["quick", "web"]), "slots": 2}
        try:
            answer = await client.post("/v1/decisions", json=body)
            reply: dict[str, Any] = answer.json() if answer.status_code == 200 else {"degraded": ["refused"]}
        except httpx.HTTPError:
            await asyncio.sleep(0.05)
            continue
        if reply["degraded"]:
            await asyncio.sleep(0.01)
            continue
        ledger.decisions.append(reply["decision_id"])
        for slot in reply["slots"]:
            if slot.get("action"):
                for kind in STORIES[rng.integers(len(STORIES))]:
                    await tell(client, ledger, reply["decision_id"], slot["slot"], kind)


async def tell(client: httpx.AsyncClient, ledger: Ledger, decision_id: str, slot: int, kind: str) -> None:
    event_id = f"{decision_id}-{slot}-{kind}"
    event = {"event_id": event_id, "type": kind, "decision_id": decision_id, "slot": slot}
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_S):
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    answer = await client.post("/v1/events", json=[event])
                    if answer.status_code == 200:
                        (result,) = answer.json()
                        if result["status"] in ("accepted", "duplicate"):
                            ledger.events.append(event_id)
                            return
                        if result["code"] in ("decision_unknown", "decision_expired"):
                            ledger.lost.append(decision_id)
                            return
                await asyncio.sleep(0.05)


async def storm(service: Running, kills: Sequence[Sequence[str]]) -> Ledger:
    """Load the service and kill processes meanwhile; each entry of `kills` at once."""
    ledger = Ledger()
    limits = httpx.Limits(max_connections=2 * CLIENTS, max_keepalive_connections=0)  # a new worker is met at once
    async with httpx.AsyncClient(
        base_url=service.url, headers=service.headers(), limits=limits, timeout=10.0
    ) as client:
        clients = [asyncio.create_task(customer_life(client, ledger, number)) for number in range(CLIENTS)]
        try:
            for names in kills:
                await progress(ledger)
                await asyncio.to_thread(kill, service, names)
            await progress(ledger)
        finally:
            ledger.stopping = True
            await asyncio.gather(*clients)
    return ledger


def report_well(service: Running, placement: str) -> None:
    """Make it known to the learner that the channel reports exposures."""
    for number in range(WELL_REPORTED):
        _, reply = service.decide_shown(f"well-{number}", placement)
        for kind in ("seen", "accepted"):
            event_id = f"{reply['decision_id']}-{kind}"
            service.record({"event_id": event_id, "type": kind, "decision_id": reply["decision_id"], "slot": 0})


async def progress(ledger: Ledger) -> None:
    """Return when many more events were acknowledged."""
    goal = len(ledger.events) + PROGRESS
    await eventually_async(lambda: len(ledger.events) >= goal, WITHIN_S, "events are acknowledged")


def kill(service: Running, names: Sequence[str]) -> None:
    """SIGKILL children and wait until the supervisor has replaced them."""
    before = service.pids()
    for name in names:
        os.kill(before[name], signal.SIGKILL)

    def replaced() -> bool:
        now = service.pids()
        return all(now[name] != before[name] and psutil.pid_exists(now[name]) for name in names)

    eventually(replaced, WITHIN_S, f"{names} were started again")
    service.wait_ready()


def settle(service: Running) -> None:
    """Wait until no timer is due any more; then the log grows no further."""
    web_hours = 3_600_000

    def quiet() -> bool:
        seconds, _ = service.redis.time()
        horizon = int(seconds) * 1000 + web_hours
        keys = [f"nbx:{{p{partition}}}:t" for partition in range(service.settings.partitions)]
        return not any(service.redis.zcount(key, "-inf", horizon) for key in keys)

    eventually(quiet, WITHIN_S, "no timer is due")


def check_promises(service: Running, ledger: Ledger) -> None:
    """Compare what was promised with the log, and the log with what was learned."""
    settle(service)
    checkpoint = service.settled_checkpoint(WITHIN_S)
    entries = service.entries()
    logged = Counter(event_ids_in(entries))
    assert [event_id for event_id in ledger.events if event_id not in logged] == [], "acknowledged, not logged"
    assert ledger.lost == [], "decided, then unknown"
    assert {event_id: count for event_id, count in logged.items() if count > 1} == {}, "logged twice"
    decided = Counter(entry.decision_id for entry in decisions_in(entries))
    assert set(ledger.decisions) <= decided.keys()
    assert max(decided.values()) == 1
    found = outcomes_of(entries)
    for slot, outcomes in found.items():
        assert [outcome.revision for outcome in outcomes] == list(range(len(outcomes))), slot
        told = [outcome.outcome for outcome in outcomes]
        assert [outcome.previous for outcome in outcomes] == [None, *told[:-1]], slot
    assert checkpoint.learned == sum(len(outcomes) for outcomes in found.values())
    assert evidence_learned(checkpoint) == pytest.approx(evidence_in_log(entries, reported=True), abs=FORGOTTEN)
    assert evidence_in_log(entries) != pytest.approx(evidence_in_log(entries, reported=True)), "nothing was held back"
    assert sum(evidence_learned(checkpoint).values()) > PROGRESS / 4, "hardly anything was learned"
    check_replay(service)


def check_replay(service: Running) -> None:
    """Make decisions again from log and journal alone, whoever was killed meanwhile."""
    everything = Window(0, 10**13)
    quiet = Console(quiet=True)
    report = asyncio.run(replay_all(service.settings, everything, deep=True, sample=300, seed=1, console=quiet))
    assert report.different == {}, report.examples
    assert report.replayed == report.same == min(report.found, 300)
    assert report.replayed > PROGRESS / 4


@pytest.fixture(scope="module")
def doomed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    path: Path = tmp_path_factory.mktemp("doomed")
    with running(path, workers=2) as service:
        for placement in ("quick", "web"):
            report_well(service, placement)
        service.settled_checkpoint(WITHIN_S)
        yield service


def test_killing_each_kind_of_process_and_all_of_them_loses_and_repeats_nothing(doomed: Running) -> None:
    kills = [["learner"], ["api-0"], ["keeper"], ["redis"], ["learner", "redis"], [*doomed.pids()]]
    ledger = asyncio.run(storm(doomed, kills))
    check_promises(doomed, ledger)


def test_killing_the_whole_tree_and_starting_again_loses_and_repeats_nothing(doomed: Running) -> None:
    ledger = Ledger()

    async def load_until_killed() -> None:
        async with httpx.AsyncClient(base_url=doomed.url, headers=doomed.headers(), timeout=5.0) as client:
            clients = [asyncio.create_task(customer_life(client, ledger, 100 + number)) for number in range(CLIENTS)]
            try:
                await progress(ledger)
                await asyncio.to_thread(doomed.kill_tree)
            finally:
                ledger.stopping = True
                for each in clients:
                    each.cancel()
                await asyncio.wait(clients)

    before: dict[str, Any] = doomed.pids()
    asyncio.run(load_until_killed())
    assert not any(psutil.pid_exists(pid) for pid in before.values())
    doomed.start()
    check_promises(doomed, ledger)
