"""What the company owes a customer holds at once: on every channel, through every worker, under load."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from nbx.experience.entries import DecisionEntry, EventEntry, TimerEntry
from nbx.features.keys import partition_keys
from tests.service import Running, eventually, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

WORKERS, READERS, TURNS, REPLIES, GIVEN = 2, 16, 4, 25, 3
WITHIN_S = 60.0
CATALOG = """
catalog: owing
placements:
  web: {channel: web, impressions: reported, slots: 3, delivery: 2h, attention: 2h}
  desk: {channel: phone, impressions: implicit, slots: 3, attention: 2h}
groups: {cards: {topic: plastic}, loans: {}, help: {}}
actions:
  gold: {group: cards, value: 50, gives: [x], treatments: {t: {placements: [web, desk]}}}
  travel: {group: cards, value: 45, gives: [x], treatments: {t: {placements: [web, desk]}}}
  loan: {group: loans, value: 40, gives: [x], treatments: {t: {placements: [web, desk]}}}
  tips: {group: help, class: service, value: 9, treatments: {t: {placements: [web, desk]}}}
experience: {floor: -100000}
exploration: {floor: 0.3}
"""
PLASTIC = {"gold", "travel"}
OTHERS = ["loan", "tips"]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("owing"), CATALOG, workers=WORKERS) as started:
        yield started


def _given_card(service: Running, client: httpx.Client, customer: str) -> str:
    """Ask on the web until a card is given out; returns the decision."""
    for _ in range(200):
        reply = service.decide(customer, "web", client, exclude=OTHERS)
        if reply["slots"][0].get("action"):
            return str(reply["decision_id"])
    raise AssertionError("200 times silence")


def _complain(client: httpx.Client, decision_id: str, event_id: str) -> None:
    event = {"event_id": event_id, "type": "complained", "decision_id": decision_id, "text": "never again"}
    _acknowledged(client, event)


def _acknowledged(client: httpx.Client, event: dict[str, str]) -> None:
    """Say it until it is taken in, as too many may be changing the customer."""

    def taken_in() -> bool:
        answer = client.post("/v1/events", json=[event])
        if answer.is_error:
            assert answer.json()["code"] == "state_contended", answer.text
            return False
        (result,) = answer.json()
        assert result["status"] in ("accepted", "duplicate"), result
        return True

    eventually(taken_in, WITHIN_S, f"{event['type']} is taken in")


def test_a_complaint_holds_at_once_on_another_channel_and_worker_until_it_is_resolved(service: Running) -> None:
    after = set()
    with service.workers() as clients:
        one, other = clients.values()
        for number in range(40):
            customer, (tells, asks) = f"owed-{number}", (one, other) if number % 2 else (other, one)
            _complain(tells, _given_card(service, tells, customer), f"complaint-{number}")
            reply = service.decide(customer, "desk", asks, slots=3, explain="reasons")
            assert not PLASTIC & {slot.get("action") for slot in reply["slots"]}, customer
            assert {(name, "obligation_open") for name in PLASTIC} <= {
                (found[0], found[1]) for found in reply["explanation"]["removed"]
            }
            (thread,) = reply["continues"]
            assert (thread["kind"], thread["name"], thread["channel"], thread["last"]) == (
                "obligation",
                "plastic",
                "web",
                "complained",
            )
            assert service.decide(customer, "web", asks)["continues"] == []
            good = {"event_id": f"good-{number}", "type": "resolved", "customer_id": customer, "by": "agent"}
            _acknowledged(asks, good)
            reply = service.decide(customer, "desk", tells, slots=3, explain="reasons")
            assert not any(found[1] == "obligation_open" for found in reply["explanation"]["removed"])
            after |= {slot.get("action") for slot in reply["slots"]}
    assert after >= PLASTIC, "nothing came back"


def test_a_promise_past_due_is_broken_by_the_keeper_within_seconds_and_once(service: Running) -> None:
    said = {"what": "call", "due": "1s", "topic": "plastic"}
    service.record({"event_id": "call", "type": "promise", "customer_id": "promised", "properties": said})
    service.record({"event_id": "fee", "type": "promise", "customer_id": "kept", "properties": said})
    service.record({"event_id": "did", "type": "promise_kept", "customer_id": "kept", "properties": {"what": "call"}})

    def told(customer: str) -> list[tuple[str, ...]]:
        return [e.broken for e in service.entries_of(customer) if isinstance(e, TimerEntry) and e.kind == "promise"]

    eventually(lambda: told("promised"), WITHIN_S, "the promise is broken")
    reply = service.decide("promised", "desk", slots=3, explain="reasons")
    assert {found[0] for found in reply["explanation"]["removed"] if found[1] == "obligation_open"} == PLASTIC
    assert not PLASTIC & {slot.get("action") for slot in reply["slots"]}
    assert (told("promised"), told("kept")) == ([("call",)], [])
    partitions = range(service.settings.partitions)
    armed = [name for partition in partitions for name in service.redis.zrange(partition_keys(partition).timers, 0, -1)]
    assert not any(name.startswith(b"promise:") for name in armed), "a timer is left"


def test_sixteen_connections_get_nothing_promotional_of_what_was_complained_about(service: Running) -> None:
    """Between a complaint's acknowledgement and the word that all is good again nobody is given a card."""
    turn, replies, given = [0], [0], [0]
    over = threading.Event()

    def read(client: httpx.Client, number: int) -> list[str]:
        wrong = []
        while not over.is_set():
            before = turn[0]
            reply = service.decide("anna", ("web", "desk")[number % 2], client, slots=1 + number % 3)
            actions = PLASTIC & {slot.get("action") for slot in reply["slots"]}
            if before == turn[0] and not reply["degraded"]:
                replies[0] += 1
                given[0] += bool(actions)
                if before % 2 and actions:
                    wrong.append(f"turn {before}: {reply}")
        return wrong

    with contextlib.ExitStack() as opened, ThreadPoolExecutor(READERS) as pool:
        clients = [opened.enter_context(service.client()) for _ in range(READERS + 1)]
        decision_id = _given_card(service, clients[0], "anna")
        readers = [pool.submit(read, client, number) for number, client in enumerate(clients[1:])]
        try:
            for number in range(TURNS):
                _complain(clients[0], decision_id, f"anna-complains-{number}")  # again about the same
                _wait(turn, replies, REPLIES)
                turn[0] += 1  # not before: a card may be given out until all is said to be good
                good = {"event_id": f"anna-good-{number}", "type": "resolved", "customer_id": "anna"}
                _acknowledged(clients[0], good)
                _wait(turn, given, GIVEN, begun=True)
        finally:
            over.set()
        assert [words for reader in readers for words in reader.result()] == []
    owing, decided = False, 0
    for entry in service.entries_of("anna"):  # one partition: in the order of the commits
        if isinstance(entry, EventEntry):
            owing = {"complained": True, "resolved": False}.get(entry.event.type, owing)
        elif isinstance(entry, DecisionEntry) and owing and not entry.degraded:
            decided += 1
            assert not PLASTIC & {slot.action for slot in entry.slots}, entry
    assert decided >= TURNS * REPLIES / 2, "hardly anything was asked meanwhile"


def _wait(turn: list[int], counted: list[int], enough: int, *, begun: bool = False) -> None:
    """Let the next turn begin, unless it has, and so many more be counted in it."""
    turn[0] += not begun
    until = counted[0] + enough
    eventually(lambda: counted[0] >= until, 60.0, f"{enough} more are counted")
