"""The open loop against a server on a real socket: what stalls, fails and hangs is seen as what it is."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import uvloop

from nbx.errors import Unavailable
from nbx.loadtest.arrivals import schedule
from nbx.loadtest.generator import Generator
from nbx.loadtest.histogram import Histogram
from nbx.loadtest.measuring import generator_report, part_of, series_of
from nbx.loadtest.records import Rows
from nbx.loadtest.result import Part
from nbx.loadtest.scenario import Limits, parse_scenario
from nbx.loadtest.traffic import Traffic
from nbx.loadtest.wire import nobody
from nbx.loadtest.wire_http import HttpWire
from tests.service import free_ports
from tests.unit.loadtest.http_server import DECISION, EVENTS, Server, answer, serving

Respond = Callable[[str, int], tuple[bytes, float | None]]
STALL_S = 1.0


def run(respond: Respond, mix: str, *, rate: float, length: str, connections: int = 16, timeout_s: float = 5.0) -> Rows:
    """Run a load against a server in the same loop; returns its rows."""
    text = f"{{scenario: x, arrivals: [{{shape: constant, rate: {rate}, for: {length}}}], mix: [{mix}], {FEEDBACK}}}"
    scenario = parse_scenario(text, "x")

    async def main() -> Rows:
        async with serving(respond) as url:
            generator = Generator(
                Traffic(scenario, schedule(scenario.arrivals, 1), "r"),
                HttpWire(url, "key", connections),
                timeout_s=timeout_s,
                feedback_entry=1,
            )
            await generator.run()
            assert generator.sent == generator.records.answered
            return generator.records.rows()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


FEEDBACK = "feedback: {f: {delivered: {after: {fixed: 20ms}}, seen: {after: {fixed: 30ms}}}}"
DECIDE = "{call: decide, placement: web}"


def whole(rows: Rows, length_s: float = 1.0) -> Part:
    return part_of(rows, "all", np.ones(len(rows.ok), bool), 0.0, length_s)


def statuses(rows: Rows) -> Counter[str]:
    return Counter(rows.statuses[status] for status in rows.status)


def test_every_call_is_sent_when_it_is_due() -> None:
    rows = run(lambda _path, _before: (answer(DECISION), 0), DECIDE, rate=400, length="500ms")
    np.testing.assert_array_equal(np.sort(rows.due_ns), np.arange(200) * 2_500_000)
    assert rows.ok.all()
    assert (rows.late_ns >= 0).all()
    assert (rows.sent_ns >= rows.due_ns).all()
    assert (rows.done_ns > rows.sent_ns).all()
    series = series_of(rows, 0.5)
    assert (series.interval_s, series.intended_rate[0]) == (0.5, 400.0)
    assert sum(series.achieved_rate) * 0.5 == 200
    assert sum(series.errors) == 0


def test_a_stall_is_in_the_percentiles_although_one_call_met_it() -> None:
    """One connection: while the server stalls for a second, those due meanwhile are never in flight, and still wait."""
    rows = run(
        lambda _path, before: (answer(DECISION), STALL_S if before == 100 else 0),
        DECIDE,
        rate=100,
        length="2500ms",
        connections=1,
    )
    assert rows.ok.all()
    latency = Histogram.of((rows.done_ns - rows.due_ns) // 1000)
    service = Histogram.of((rows.done_ns - rows.sent_ns) // 1000)
    assert service.share_above(500_000) <= 2 / 250  # what a closed loop would have told
    assert latency.share_above(500_000) >= 50 / 250
    assert latency.quantile_us(0.75) > 200_000
    assert latency.quantile_us(1.0) >= (STALL_S - 0.01) * 1e6  # timers are whole milliseconds
    assert (rows.late_ns < 500_000_000).all()  # and it was not the generator


def test_what_is_not_answered_in_time_counts_with_its_full_time() -> None:
    rows = run(
        lambda _path, before: (answer(DECISION), None if before % 4 == 0 else 0),
        DECIDE,
        rate=40,
        length="1s",
        timeout_s=0.4,
    )
    part = whole(rows)
    assert part.timeouts == part.errors == statuses(rows)["timeout"] >= 5
    assert part.ok + part.errors == 40
    assert part.latency.count == 40
    waited_ms = (rows.done_ns - rows.due_ns)[rows.timeout] / 1e6
    assert waited_ms.min() >= 400
    assert part.latency.max_ms >= 400


def test_a_failed_call_is_an_error_and_no_latency() -> None:
    replies = [
        answer(b"{}", b"503 Service Unavailable"),
        answer(b"not json"),
        b"",
        b"junk\r\n\r\n",
        answer(DECISION, head=b"connection: close\r\n"),
    ]
    rows = run(lambda _path, before: (replies[before % 5], 0), DECIDE, rate=100, length="500ms")
    counts = statuses(rows)
    assert counts == {"503": 10, "200 unreadable": 10, "connection lost": 10, "not HTTP": 10, "200": 10}
    part = whole(rows)
    assert (part.errors, part.ok, part.latency.count, part.timeouts) == (40, 10, 10, 0)
    assert part.statuses == counts


def test_degraded_answers_are_counted_apart() -> None:
    degraded = DECISION.replace(b'"degraded": []', b'"degraded": ["state_unavailable"]')
    rows = run(
        lambda _path, before: (answer(degraded if before % 2 else DECISION), 0), DECIDE, rate=400, length="250ms"
    )
    part = whole(rows)
    assert (part.ok, part.degraded, part.errors) == (100, 50, 0)
    assert part.degraded_share == 0.5


def test_rejected_events_are_errors() -> None:
    rejected = EVENTS.replace(b'"accepted"', b'"rejected", "code": "unknown"')
    events = "{call: events, events: [{type: page_view}]}"
    rows = run(lambda _path, _before: (answer(rejected), 0), events, rate=20, length="500ms")
    assert statuses(rows) == {"200, event unknown": 10}


def test_feedback_follows_at_its_delay() -> None:
    rows = run(
        lambda path, _before: (answer(EVENTS if path == "/v1/events" else DECISION), 0),
        "{call: decide, placement: web, feedback: f}",
        rate=20,
        length="1s",
    )
    decisions, feedback = rows.entry == 0, rows.entry == 1
    assert decisions.sum() == 20
    assert feedback.sum() >= 30  # two each, but those that fall after the end
    assert rows.ok.all()
    first_done = rows.done_ns[decisions].min()
    assert rows.due_ns[feedback].min() == first_done + 20_000_000
    assert rows.due_ns.max() < 1_000_000_000


def test_nobody_there_is_told_before_anything_is_sent() -> None:
    (port,) = free_ports(1)
    wire = HttpWire(f"http://127.0.0.1:{port}", "", 2)
    with pytest.raises(Unavailable, match=r"cannot be connected to: .*refused; is `nbx up` running\?"):
        asyncio.run(wire.open(nobody))


def test_a_server_that_goes_away_makes_errors_and_the_run_still_ends() -> None:
    scenario = parse_scenario(
        f"{{scenario: x, arrivals: [{{shape: constant, rate: 50, for: 1s}}], mix: [{DECIDE}]}}", "x"
    )

    async def main() -> Rows:
        left: list[asyncio.Server] = []

        def respond(path: str, before: int) -> tuple[bytes, float | None]:
            if before == 20:
                left[0].close()
            return (b"" if before >= 20 else answer(DECISION)), 0

        loop = asyncio.get_running_loop()
        count = [0]
        left.append(await loop.create_server(lambda: Server(respond, count), "127.0.0.1", 0))
        url = f"http://127.0.0.1:{left[0].sockets[0].getsockname()[1]}"
        traffic = Traffic(scenario, schedule(scenario.arrivals, 1), "r")
        generator = Generator(traffic, HttpWire(url, "", 4), timeout_s=2, feedback_entry=1)
        await generator.run()
        return generator.records.rows()

    rows = asyncio.run(main())
    counts = statuses(rows)
    assert (counts["200"], sum(counts.values())) == (20, 50)
    assert counts["connection lost"] >= 1
    assert counts["no connection (ConnectionRefusedError)"] >= 10


def test_a_busy_generator_says_so() -> None:
    late = Rows(
        entry=np.zeros(100, np.int64),
        due_ns=np.arange(100) * 1_000_000,
        late_ns=np.full(100, 50_000_000),
        sent_ns=np.arange(100) * 1_000_000 + 50_000_000,
        done_ns=np.arange(100) * 1_000_000 + 60_000_000,
        ok=np.ones(100, bool),
        degraded=np.zeros(100, bool),
        timeout=np.zeros(100, bool),
        status=np.zeros(100, np.int64),
        statuses=("200",),
    )
    told = generator_report(late, Limits(), busy=0.95, machine_busy=1.0)
    assert len(told.bottleneck) == 2
    assert "50.0 ms" in told.bottleneck[0] or "50 ms" in told.bottleneck[0]
    in_time = generator_report(late._replace(late_ns=np.full(100, 50_000)), Limits(), busy=0.2, machine_busy=1.0)
    assert in_time.bottleneck == []
