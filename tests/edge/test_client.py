"""The Python client and a real service: through a proxy that loses, delays and halves answers, and over a restart."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import TYPE_CHECKING, Any, get_args

import pytest

from nbx.client import AsyncClient, Client, DecideRequest, Event, Refused, Retry, Unavailable
from nbx.client.patience import DeadlineExceeded
from nbx.errors import SetupError
from tests.flaky_proxy import Fault, FlakyProxy, shuffled
from tests.service import Running, decisions_in, event_ids_in, eventually, eventually_async, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOSSES: tuple[Fault, ...] = tuple(fault for fault in get_args(Fault) if fault not in ("none", "slow", "stall", "halt"))
STORM = 150
"""Customers that decide and answer while a third of all calls is disturbed."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("client")) as started:
        yield started


@pytest.fixture
def proxy(service: Running) -> Iterator[FlakyProxy]:
    with FlakyProxy(service.settings.port) as flaky:
        yield flaky


class Asks:
    """Both clients behind one face: tests say what is asked, not how it is waited for."""

    def __init__(self, client: Client | AsyncClient) -> None:
        self._client = client
        self._runner = asyncio.Runner()

    def __getattr__(self, name: str) -> Any:
        def ask(*args: Any, **named: Any) -> Any:
            answer = getattr(self._client, name)(*args, **named)
            return self._runner.run(_waited(answer)) if asyncio.iscoroutine(answer) else answer

        return ask

    def end(self) -> None:
        self.__getattr__("close")()
        self._runner.close()


async def _waited(answer: Any) -> Any:
    return await answer


@pytest.fixture(params=[Client, AsyncClient])
def make(request: pytest.FixtureRequest, service: Running) -> Iterator[Callable[..., Asks]]:
    """Makes a client of one of the two kinds, of a URL and with options."""
    made: list[Asks] = []

    def make(url: str, retry: Retry, deadline_s: float = 20.0) -> Asks:
        made.append(Asks(request.param(url, service.key, deadline_s=deadline_s, retry=retry, seed=3)))
        return made[-1]

    yield make
    for asks in made:
        asks.end()


@pytest.fixture
def nbx(make: Callable[..., Asks], proxy: FlakyProxy) -> Asks:
    return make(proxy.url, Retry(attempts=12, first_s=0.01, most_s=0.1))


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """Of a customer that no other test has."""
    return f"client-{request.node.name}"[-100:].replace("[", "-").strip("]")


def shown(nbx: Asks, name: str) -> tuple[str, Any]:
    """Decide for new customers until one is shown something."""
    for number in range(200):
        reply = nbx.decide(f"{name}-{number}", "web", exclude=["help"])
        if reply.slots[0].action:
            return f"{name}-{number}", reply
    raise AssertionError("200 customers and always silence")


def test_everything_can_be_asked(service: Running, nbx: Asks, name: str) -> None:
    customer, reply = shown(nbx, name)
    assert nbx.seen(reply).status == "accepted"
    result = nbx.accepted(reply.decision_id, value=12.5, event_id=f"{name}-yes")
    assert (result.event_id, result.outcome) == (f"{name}-yes", "accepted")
    assert nbx.accepted(reply, value=12.5, event_id=f"{name}-yes").status == "duplicate"
    nbx.change_profile(customer, {"age": 50.0})
    view = Event(event_id="", type="page_view", customer_id=customer)
    seen = nbx.interact([view, view], DecideRequest(customer_id=customer, placement="web", explain="reasons"))
    assert [result.status for result in seen.events] == ["accepted", "accepted"]
    report = nbx.call("GET", f"/v1/customers/{customer}", events=0)
    assert (report["profile"], report["features"]["visits"]) == ({"age": 50.0}, 2)
    good, bad = nbx.decide_many([DecideRequest(customer_id=customer, placement=where) for where in ("web", "nowhere")])
    assert good.reply.decision_id
    assert bad.problem.field == "placement"
    (done, wrong) = nbx.record([view, Event(event_id="", type="seen", decision_id="f" * 26)])
    assert (done.status, wrong.status, wrong.field) == ("accepted", "rejected", "events[1].decision_id")
    assert b"nbx_decisions_total" in nbx.request("GET", "/metrics")
    assert len(decisions_in(service.entries_of(customer))) == 3


@pytest.mark.parametrize("type", ["delivered", "declined", "dismissed", "converted", "complained", "failed"])
def test_each_report_is_the_event_of_its_name(service: Running, nbx: Asks, name: str, type: str) -> None:  # noqa: A002
    customer, reply = shown(nbx, name)
    getattr(nbx, type)(reply, 0, reason="because", text="said so")
    (entry,) = [entry for entry in service.entries_of(customer) if hasattr(entry, "event")]
    assert (entry.event.type, entry.event.by) == (type, "customer")
    assert (entry.event.reason, entry.event.text) == ("because", "said so")


@pytest.mark.parametrize("type", ["skipped", "unsuitable", "no_time"])
def test_what_an_agent_does_is_reported_as_such(service: Running, nbx: Asks, name: str, type: str) -> None:  # noqa: A002
    reply = next(r for n in range(200) if (r := nbx.decide(f"{name}-{n}", "desk")).slots[0].action)
    assert getattr(nbx, type)(reply).status == "accepted"


def test_a_wrong_call_is_refused_at_once_with_its_field(proxy: FlakyProxy, nbx: Asks, name: str) -> None:
    proxy.will()
    with pytest.raises(Refused) as caught:
        nbx.decide(name, "web", slots=99)
    assert caught.value.field == "slots"
    with pytest.raises(Refused) as caught:
        nbx.seen("f" * 26)
    assert caught.value.field == "events[0].decision_id"
    assert len(proxy.requests) == 2


@pytest.mark.parametrize("fault", LOSSES)
def test_an_answer_that_was_lost_is_had_and_nothing_is_done_twice(
    service: Running, proxy: FlakyProxy, nbx: Asks, name: str, fault: Fault
) -> None:
    customer, _ = shown(nbx, name)
    before = len(decisions_in(service.entries_of(customer)))
    proxy.will(fault, fault)
    reply = nbx.decide(customer, "web", slots=3)
    assert len(proxy.requests) == 3
    proxy.will(fault, fault)
    result = nbx.record([Event(event_id="", type="page_view", customer_id=customer)])[0]
    assert result.status == ("accepted" if fault in ("drop", "busy") else "duplicate")
    entries = service.entries_of(customer)
    assert [entry.decision_id for entry in decisions_in(entries)][before:] == [reply.decision_id]
    assert event_ids_in(entries) == [result.event_id]


def test_a_storm_repeats_nothing_and_loses_nothing(service: Running, proxy: FlakyProxy, nbx: Asks, name: str) -> None:
    proxy.will(*shuffled(LOSSES, 0.35, STORM * 6, seed=11))
    replies, told = {}, {}
    for number in range(STORM):
        customer = f"{name}-{number}"
        reply = replies[customer] = nbx.decide(customer, "web", exclude=["help"])
        told[customer] = [nbx.record([Event(event_id="", type="page_view", customer_id=customer)])[0].event_id]
        if reply.slots[0].action:
            told[customer].append(nbx.declined(reply).event_id)
    entries = [entry for entry in service.entries() if entry.customer_id in replies]
    decided = {entry.decision_id: entry.customer_id for entry in decisions_in(entries)}
    assert len(decisions_in(entries)) == STORM
    assert decided == {reply.decision_id: customer for customer, reply in replies.items()}
    ids = event_ids_in(entries)
    assert sorted(ids) == sorted(event_id for events in told.values() for event_id in events)
    assert len(proxy.requests) > len(ids) + STORM + 20, "hardly anything was disturbed"


def test_calls_outlast_a_killed_process(service: Running, make: Callable[..., Asks], name: str) -> None:
    patient = make(service.url, Retry(attempts=400, first_s=0.01, most_s=0.2), deadline_s=60.0)
    worker = service.pids()["api-0"]
    decided = {}
    for number in range(60):
        if number == 20:
            os.kill(worker, signal.SIGKILL)
        customer = f"{name}-{number}"
        reply = decided[customer] = patient.decide(customer, "web")
        assert patient.record([Event(event_id="", type="page_view", customer_id=customer)])[0].status != "rejected"
        assert reply.degraded == ()
    assert service.pids()["api-0"] != worker, "it was never restarted"
    entries = [entry for entry in service.entries() if entry.customer_id in decided]
    assert sorted(entry.decision_id for entry in decisions_in(entries)) == sorted(
        r.decision_id for r in decided.values()
    )
    assert len(event_ids_in(entries)) == len(set(event_ids_in(entries))) == 60


@pytest.mark.parametrize("fault", ["stall", "slow"])
def test_the_deadline_holds(proxy: FlakyProxy, nbx: Asks, name: str, fault: Fault) -> None:
    nbx.decide(name, "web")
    proxy.will(*[fault] * 50)
    for deadline_s in (0.05, 0.15):
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            nbx.decide(name, "web", deadline_s=deadline_s)
        assert deadline_s * 0.9 < time.monotonic() - began < deadline_s + 0.25
    proxy.will("none")
    assert nbx.decide(name, "web").decision_id


def test_what_an_answer_took_to_begin_is_not_given_again_for_the_rest(proxy: FlakyProxy, nbx: Asks, name: str) -> None:
    nbx.decide(name, "web")
    proxy.slow_s = 0.6
    proxy.will("halt")
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        nbx.decide(name, "web", deadline_s=0.8)
    assert 0.8 * 0.9 < time.monotonic() - began < 0.8 + 0.35


def test_a_slow_attempt_is_given_up_for_another(
    service: Running, proxy: FlakyProxy, make: Callable[..., Asks], name: str
) -> None:
    brisk = make(proxy.url, Retry(attempt_s=0.3, first_s=0.01))
    proxy.will("stall")
    began = time.monotonic()
    reply = brisk.decide(name, "web")
    assert 0.3 <= time.monotonic() - began < 2.0
    assert [entry.decision_id for entry in decisions_in(service.entries_of(name))] == [reply.decision_id]


def test_a_busy_service_is_left_alone_as_long_as_it_says(proxy: FlakyProxy, nbx: Asks, name: str) -> None:
    proxy.retry_after = "1"
    proxy.will("busy")
    began = time.monotonic()
    nbx.decide(name, "web")
    assert time.monotonic() - began >= 1.0
    proxy.will("busy")
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        nbx.decide(name, "web", deadline_s=0.9)
    assert time.monotonic() - began < 0.5, "waiting would have been in vain"


def test_nobody_there_is_told_with_the_url(make: Callable[..., Asks]) -> None:
    with pytest.raises(Unavailable, match=r"no answer from http://127\.0\.0\.1:9: "):
        make("http://127.0.0.1:9", Retry(first_s=0.01)).decide("anna", "web")


@pytest.mark.parametrize("url", ["", "localhost:8080", "ftp://x", "http://x:port"])
def test_a_url_that_is_none_is_refused_before_anything_is_sent(make: Callable[..., Asks], url: str) -> None:
    with pytest.raises(SetupError) as caught:
        make(url, Retry())
    assert caught.value.field == "url"


def test_connections_are_kept_and_closed_in_the_end(service: Running, proxy: FlakyProxy, name: str) -> None:
    with Client(proxy.url, service.key) as nbx:
        for number in range(10):
            nbx.decide(f"{name}-{number}", "web")
        assert proxy.open == 1
    eventually(lambda: proxy.open == 0, 5.0, "all connections are closed")


def test_a_cancelled_call_leaves_nothing_open(service: Running, proxy: FlakyProxy, name: str) -> None:
    async def run() -> None:
        async with AsyncClient(proxy.url, service.key, connections=4) as nbx:
            for _ in range(3):  # more than there are connections, so that a lost one would be missed
                proxy.will("stall", "stall", "stall", "stall")
                calls = [asyncio.create_task(nbx.decide(f"{name}-{number}", "web")) for number in range(8)]
                await eventually_async(lambda: len(proxy.requests) == 4, 10.0, "four are being asked, four wait")
                for call in calls:
                    call.cancel()
                done = await asyncio.gather(*calls, return_exceptions=True)
                assert all(isinstance(each, asyncio.CancelledError) for each in done)
                await eventually_async(lambda: proxy.open == 0, 5.0, "what was asked is closed")
            assert (await nbx.decide(name, "web")).decision_id
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())
    eventually(lambda: proxy.open == 0, 5.0, "all connections are closed")
