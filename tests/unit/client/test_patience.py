"""When a call is tried again: the policy driven by a clock of its own, without a socket."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import pytest

from nbx.client import DecideReply, Event, Refused, Retry, Unavailable, calls
from nbx.client.calls import Caller
from nbx.client.patience import Answer, DeadlineExceeded, Lost, Send, Steps, Wait
from nbx.decision.messages import DecideRequest

if TYPE_CHECKING:
    from collections.abc import Callable

GOOD = Answer(200, "", msgspec.json.encode(DecideReply(decision_id="d", slots=())))
GONE = Lost(httpx.ConnectError("refused"), in_time=True)


class World:
    """Answers what is sent by a script; the last answer is repeated. Each attempt takes `takes_s` seconds."""

    def __init__(self, *answers: Answer | Lost, takes_s: float = 0.0) -> None:
        self.now_s = 0.0
        self.sent: list[Send] = []
        self.waits: list[float] = []
        self._answers = list(answers)
        self._takes_s = takes_s

    def caller(self, *, seed: str = "7:", deadline_s: float = 5.0, **retry: Any) -> Caller:
        return Caller("http://nbx", Retry(**retry), deadline_s, seed, monotonic=lambda: self.now_s)

    def run(self, steps: Steps[Any]) -> Any:
        come: Answer | Lost | None = None
        while True:
            try:
                step = steps.send(come)
            except StopIteration as end:
                return end.value
            if isinstance(step, Wait):
                self.waits.append(step.seconds)
                self.now_s += step.seconds
                come = None
            else:
                self.sent.append(step)
                took_s = min(self._takes_s, step.timeout_s)
                self.now_s += took_s
                come = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
                if took_s < self._takes_s:
                    come = Lost(TimeoutError(), in_time=False)


def bodies(world: World) -> list[Any]:
    return [msgspec.json.decode(send.body or b"") for send in world.sent]


@pytest.mark.parametrize("answer", [GONE, *(Answer(status, "", b"later") for status in (429, 502, 503, 504))])
def test_what_may_succeed_later_is_asked_again_with_the_same_id(answer: Answer | Lost) -> None:
    world = World(answer, answer, GOOD)
    reply = world.run(calls.decide(world.caller(), "anna", "web"))
    assert reply.decision_id == "d"
    first, *others = bodies(world)
    assert first["request_id"]
    assert others == [first, first]
    assert len(world.waits) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 413, 422, 500])
def test_what_is_wrong_is_asked_once(status: int) -> None:
    problem = {"detail": "slots must be positive", "code": "field_invalid", "field": "slots"}
    world = World(Answer(status, "1", msgspec.json.encode(problem)))
    with pytest.raises(Refused, match="slots must be positive") as caught:
        world.run(calls.decide(world.caller(), "anna", "web"))
    assert (caught.value.code, caught.value.field) == ("field_invalid", "slots")
    assert len(world.sent) == 1


def test_two_calls_have_two_ids_and_a_given_id_is_kept() -> None:
    world = World(GOOD)
    caller = world.caller()
    for request_id in ("", "", "mine"):
        world.run(calls.decide(caller, "anna", "web", request_id=request_id))
    one, two, three = (body["request_id"] for body in bodies(world))
    assert one != two
    assert three == "mine"


def test_pauses_are_spread_over_what_doubles_up_to_a_bound() -> None:
    seen: list[list[float]] = [[] for _ in range(5)]
    for number in range(400):
        world = World(GONE)
        with pytest.raises(Unavailable, match="no answer from http://nbx"):
            world.run(calls.decide(world.caller(seed=f"{number}:", deadline_s=99.0, first_s=0.1, most_s=0.5), "a", "b"))
        assert len(world.sent) == 6
        for at, pause_s in zip(seen, world.waits, strict=True):
            at.append(pause_s)
    for at, longest_s in zip(seen, (0.1, 0.2, 0.4, 0.5, 0.5), strict=True):
        assert 0.0 <= min(at) < longest_s * 0.02
        assert longest_s * 0.98 < max(at) < longest_s
        assert abs(sum(at) / 400 - longest_s / 2) < 4 * longest_s / math.sqrt(12 * 400), "not uniform"


def test_pauses_follow_from_the_seed() -> None:
    def waits(seed: str) -> list[float]:
        world = World(GONE)
        with pytest.raises(Unavailable):
            world.run(calls.decide(world.caller(seed=seed), "a", "b"))
        return world.waits

    assert waits("1:") == waits("1:") != waits("2:")


def test_a_service_that_says_when_is_not_asked_before() -> None:
    world = World(Answer(503, "3", b""), GOOD)
    world.run(calls.decide(world.caller(), "anna", "web"))
    assert world.waits == [3.0]


def test_a_date_says_when_too() -> None:
    world = World(Answer(429, "Fri, 31 Dec 9999 23:59:59 GMT", b""), GOOD)
    with pytest.raises(DeadlineExceeded):
        world.run(calls.decide(world.caller(), "anna", "web"))
    for past_or_odd in ("Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2015 07:28:00", "soon", "-3"):
        world = World(Answer(429, past_or_odd, b""), GOOD)
        world.run(calls.decide(world.caller(), "anna", "web"))
        assert world.waits[0] < 0.05


def test_a_pause_beyond_the_deadline_is_not_waited_for() -> None:
    world = World(Answer(503, "6", b"later"), GOOD)
    with pytest.raises(DeadlineExceeded) as caught:
        world.run(calls.decide(world.caller(deadline_s=5.0), "anna", "web"))
    assert world.now_s == 0.0
    assert "later" in str(caught.value.__cause__)


def test_attempts_share_one_deadline_and_the_service_is_told_what_is_left() -> None:
    world = World(GOOD, takes_s=0.4)
    world._answers = [GONE, GOOD]
    world.run(calls.decide(world.caller(), "anna", "web", deadline_s=1.0))
    first, second = world.sent
    assert first.timeout_s == 1.0
    assert second.timeout_s == pytest.approx(0.6 - world.waits[0])
    assert [body["deadline_ms"] for body in bodies(world)] == [900, int(second.timeout_s * 900)]


def test_an_answer_that_does_not_come_ends_the_call_at_its_deadline() -> None:
    world = World(GOOD, takes_s=math.inf)
    with pytest.raises(DeadlineExceeded, match="not done within 2 s"):
        world.run(calls.decide(world.caller(deadline_s=2.0), "anna", "web"))
    assert (world.now_s, len(world.sent)) == (2.0, 1)


def test_an_attempt_may_be_shorter_than_the_call() -> None:
    world = World(GOOD, takes_s=1.0)
    with pytest.raises(DeadlineExceeded):
        world.run(calls.decide(world.caller(attempt_s=0.5), "anna", "web", deadline_s=2.0))
    assert len(world.sent) > 2
    assert world.now_s <= 2.0
    assert bodies(world)[0]["deadline_ms"] == 450


def test_without_a_deadline_of_its_own_the_service_keeps_its_default() -> None:
    world = World(GOOD)
    world.run(calls.decide(world.caller(), "anna", "web"))
    assert bodies(world)[0]["deadline_ms"] == 0


@pytest.mark.parametrize(("method", "asked"), [("GET", 6), ("POST", 1), ("DELETE", 1), ("PUT", 1)])
def test_of_other_calls_only_those_that_read_are_asked_again(method: str, asked: int) -> None:
    world = World(GONE)
    with pytest.raises(Unavailable):
        world.run(calls.call(world.caller(), method, "/v1/catalog/history"))
    assert len(world.sent) == asked


def _results(*rows: dict[str, str]) -> Answer:
    return Answer(200, "", msgspec.json.encode(list(rows)))


def test_of_many_events_only_those_not_taken_for_the_moment_are_sent_again() -> None:
    busy = {"event_id": "b", "status": "rejected", "code": "state_contended", "detail": "busy", "field": "events[1]"}
    wrong = {"event_id": "c", "status": "rejected", "code": "field_invalid", "detail": "x", "field": "events[2].type"}
    done = {"event_id": "a", "status": "accepted"}
    wrong_again = wrong | {"event_id": "b", "field": "events[0].type"}
    world = World(_results(done, busy, wrong), _results(busy | {"field": "events[0]"}), _results(wrong_again))
    events = [Event(event_id=name, type="seen", decision_id="d") for name in "abc"]
    results = world.run(calls.record(world.caller(), events))
    assert [[row["event_id"] for row in body] for body in bodies(world)] == [["a", "b", "c"], ["b"], ["b"]]
    assert [result.status for result in results] == ["accepted", "rejected", "rejected"]
    assert [result.field for result in results] == ["", "events[1].type", "events[2].type"]


def test_events_nobody_can_take_are_told_one_by_one_in_the_end() -> None:
    busy = {"event_id": "a", "status": "rejected", "code": "unavailable", "detail": "away", "field": "events[0]"}
    world = World(_results(busy))
    (result,) = world.run(calls.record(world.caller(attempts=3), [Event(event_id="a", type="seen", decision_id="d")]))
    assert (result.code, len(world.sent)) == ("unavailable", 3)
    world = World(_results(busy))
    with pytest.raises(Unavailable, match="away"):
        world.run(calls.seen(world.caller(attempts=3), "d"))


def test_of_many_decisions_only_those_not_made_for_the_moment_are_asked_again() -> None:
    problem = {"type": "t", "title": "t", "detail": "away", "code": "unavailable"}
    reply = {"reply": msgspec.to_builtins(DecideReply(decision_id="d", slots=()))}
    refused = {"problem": problem | {"status": 404}}
    first = Answer(200, "", msgspec.json.encode([reply, {"problem": problem | {"status": 503}}, refused]))
    world = World(first, Answer(200, "", msgspec.json.encode([reply])))
    requests = [DecideRequest(customer_id=name, placement="web") for name in "abc"]
    items = world.run(calls.decide_many(world.caller(), requests))
    assert [[row["customer_id"] for row in body] for body in bodies(world)] == [["a", "b", "c"], ["b"]]
    assert bodies(world)[1][0]["request_id"] == bodies(world)[0][1]["request_id"]
    assert [item.reply is not None for item in items] == [True, True, False]


@pytest.mark.parametrize("ask", [lambda caller: calls.record(caller, []), lambda caller: calls.decide_many(caller, [])])
def test_nothing_asked_is_nothing_sent(ask: Callable[[Caller], Steps[Any]]) -> None:
    world = World(GOOD)
    assert world.run(ask(world.caller())) == []
    assert world.sent == []


@pytest.mark.parametrize("body", [b"<html>", b"\xff", b'{"decision_id": 1}'])
def test_an_answer_of_somebody_else_is_refused(body: bytes) -> None:
    world = World(Answer(200, "", body))
    with pytest.raises(Refused, match="is the URL right"):
        world.run(calls.decide(world.caller(), "anna", "web"))
    world = World(Answer(404, "", body))
    with pytest.raises(Refused):
        world.run(calls.decide(world.caller(), "anna", "web"))


def test_the_client_comes_without_what_only_a_service_needs() -> None:
    heavy = "{'numpy', 'numba', 'scipy', 'river', 'pyarrow', 'redis', 'grpc', 'litestar', 'uvicorn'}"
    code = f"import sys, nbx.client; sys.exit(' '.join({heavy} & sys.modules.keys()) or None)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"imported: {done.stderr}"
