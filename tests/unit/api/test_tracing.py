"""Traces of decisions, received as a collector receives them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from nbx.api.tracing import Tracing
from nbx.clock import ManualClock
from nbx.decision.messages import DecideRequest
from nbx.decision.service import DecisionService
from nbx.decision.stages import STAGES
from tests.worlds import NOW_MS, PARTITIONS, Desk, run

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector:
    """An OTLP/HTTP collector on a port of this machine."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        spans = self.spans

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sent = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
                spans.extend(s for r in sent.resource_spans for scope in r.scope_spans for s in scope.spans)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def collector() -> Iterator[Collector]:
    found = Collector()
    thread = threading.Thread(target=found.server.serve_forever)
    thread.start()
    yield found
    found.server.shutdown()
    found.server.server_close()
    thread.join()


def decide(tracing: Tracing, headers: list[tuple[bytes, bytes]]) -> str:
    """Decide within a traced request; returns the decision's id."""
    desk = Desk()
    decisions = DecisionService(
        desk.store,
        desk,
        desk.clock,
        partitions=PARTITIONS,
        deadline_ms=1000,
        request_ttl_ms=1000,
        salt="test",
        observe=tracing.observe,
    )
    answered: list[str] = []

    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        reply = await decisions.decide(DecideRequest(customer_id="anna-7", placement="hero"))
        answered.append(reply.decision_id)

    async def nothing(_: Any = None) -> Any:
        return None

    async def call() -> None:
        await tracing.wrap(app)({"type": "http", "headers": headers}, nothing, nothing)

    run(call())
    return answered[0]


def test_a_decision_is_a_span_with_its_stages_in_the_callers_trace(collector: Collector) -> None:
    tracing = Tracing(collector.url, ManualClock(NOW_MS))
    decision_id = decide(tracing, [(b"traceparent", f"00-{TRACE}-{PARENT}-01".encode())])
    tracing.close()
    whole = next(span for span in collector.spans if span.name == "nbx.decide")
    parts = [span for span in collector.spans if span is not whole]
    assert (whole.trace_id.hex(), whole.parent_span_id.hex()) == (TRACE, PARENT)
    attributes = {each.key: each.value for each in whole.attributes}
    assert attributes["nbx.decision_id"].string_value == decision_id
    assert {span.name for span in parts} == {f"nbx.decide.{stage}" for stage in STAGES}
    assert {span.parent_span_id for span in parts} == {whole.span_id}
    length_ns = sum(span.end_time_unix_nano - span.start_time_unix_nano for span in parts)
    assert length_ns == whole.end_time_unix_nano - whole.start_time_unix_nano > 0
    assert b"anna-7" not in b"".join(span.SerializeToString() for span in collector.spans)


def test_without_a_callers_trace_a_decision_begins_one(collector: Collector) -> None:
    tracing = Tracing(collector.url, ManualClock(NOW_MS))
    decide(tracing, [(b"traceparent", f"00-{TRACE}-{PARENT}-01".encode())])
    decide(tracing, [])
    tracing.close()
    first, second = (span for span in collector.spans if span.name == "nbx.decide")
    assert second.trace_id != first.trace_id
    assert not second.parent_span_id
