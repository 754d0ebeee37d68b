"""Both faces of a running service continue the caller's trace."""

from __future__ import annotations

import threading
from pathlib import Path

import grpc
import pytest

from nbx.v1 import nbx_pb2 as pb
from tests.service import running
from tests.unit.api.test_tracing import PARENT, TRACE, Collector


@pytest.mark.nightly
def test_both_faces_continue_the_callers_trace(tmp_path: Path) -> None:
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever)
    thread.start()
    traceparent = f"00-{TRACE}-{PARENT}-01"
    try:
        with running(tmp_path, otel_endpoint=collector.url) as service:
            body = {"customer_id": "anna", "placement": "web"}
            answer = service.http.post("/v1/decisions", json=body, headers={"traceparent": traceparent})
            assert answer.status_code == 200
            with grpc.insecure_channel(service.grpc_target) as channel:
                decide = channel.unary_unary(
                    "/nbx.v1.DecisionService/Decide",
                    request_serializer=pb.DecideRequest.SerializeToString,
                    response_deserializer=pb.DecideReply.FromString,
                )
                metadata = (("authorization", f"Bearer {service.key}"), ("traceparent", traceparent))
                decide(pb.DecideRequest(customer_id="anna", placement="web"), metadata=metadata)
    finally:
        collector.server.shutdown()
        collector.server.server_close()
        thread.join()
    spans = [span for span in collector.spans if span.name == "nbx.decide"]
    assert [(span.trace_id.hex(), span.parent_span_id.hex()) for span in spans] == [(TRACE, PARENT)] * 2
