"""Traces of decisions by OpenTelemetry, for installations that ask for them; nothing of it is loaded otherwise.

A span is made when a decision is done, from the stop watch that every decision has anyway: nothing is added while it is
made. It continues the caller's trace when the call brings a W3C `traceparent`. Spans carry ids and numbers, never the
customer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from nbx.api.front import AsgiApp, AsgiScope, Receive, Send
from nbx.clock import Clock
from nbx.decision.stages import Stages
from nbx.errors import SetupError
from nbx.experience.entries import DecisionEntry

_WANTED = frozenset({b"traceparent", b"tracestate"})


class Tracing:
    """Sends spans to a collector, in the background and in batches.

    Parameters
    ----------
    endpoint
        Base URL of an OTLP/HTTP collector, e.g. `http://127.0.0.1:4318`.
    clock
        Tells when.

    Raises
    ------
    SetupError
        OpenTelemetry is not installed.
    """

    def __init__(self, endpoint: str, clock: Clock) -> None:
        try:
            from opentelemetry import context, propagate, trace
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise SetupError(
                f"otel_endpoint is set, but OpenTelemetry is not installed ({error}): pip install 'nbx[otel]', or "
                "leave NBX_OTEL_ENDPOINT empty"
            ) from error
        self._clock = clock
        self._context, self._extract = context, propagate.extract
        self._within = trace.set_span_in_context
        self._provider = TracerProvider(resource=Resource.create({"service.name": "nbx"}))
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("nbx")

    def observe(self, entry: DecisionEntry, stages: Stages) -> None:
        """Make the spans of a decision that was committed or answered degraded."""
        at_ns = self._clock.now_ms() * 1_000_000 - sum(stages.ns.values())
        span = self._tracer.start_span("nbx.decide", context=self._context.get_current(), start_time=at_ns)
        span.set_attributes({
            "nbx.decision_id": entry.decision_id,
            "nbx.placement": entry.request.placement,
            "nbx.release": entry.release,
            "nbx.snapshot": entry.snapshot,
            "nbx.candidates": len(entry.actions),
            "nbx.actions": [slot.action for slot in entry.slots if slot.action],
            "nbx.degraded": list(entry.degraded),
            "nbx.attempts": stages.attempts,
        })  # fmt: skip
        inside = self._within(span)
        for stage, ns in stages.ns.items():
            part = self._tracer.start_span(f"nbx.decide.{stage}", context=inside, start_time=at_ns)
            at_ns += ns
            part.end(end_time=at_ns)
        span.end(end_time=at_ns)

    def wrap(self, app: AsgiApp) -> AsgiApp:
        """Return the app with the caller's trace as context of each request."""

        async def traced(scope: AsgiScope, receive: Receive, send: Send) -> None:
            headers = scope.get("headers", ())
            carrier = {name.decode(): value.decode("latin-1") for name, value in headers if name in _WANTED}
            if not carrier:
                await app(scope, receive, send)
                return
            token = self._context.attach(self._extract(carrier))
            try:
                await app(scope, receive, send)
            finally:
                self._context.detach(token)

        return traced

    def interceptor(self) -> grpc.aio.ServerInterceptor:
        """Return what does the same for gRPC: each call runs in a task, and so in a context, of its own."""
        return _Interceptor(lambda carrier: self._context.attach(self._extract(carrier)))

    def close(self) -> None:
        """Send what waits; takes no longer than the exporter's time-out."""
        self._provider.shutdown()


class _Interceptor(grpc.aio.ServerInterceptor):
    def __init__(self, attach: Callable[[dict[str, str]], object]) -> None:
        self._attach = attach

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        metadata = details.invocation_metadata or ()
        carrier = {key: value for key, value in metadata if key.encode() in _WANTED and isinstance(value, str)}
        if carrier:
            self._attach(carrier)
        return await continuation(details)
