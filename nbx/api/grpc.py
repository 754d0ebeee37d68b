"""The gRPC face: translates messages, nothing more; the data plane behind it is that of HTTP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from time import perf_counter_ns
from typing import Any, NoReturn, cast, get_args

import grpc
import msgspec
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

from nbx.api.auth import KeyRing, Scope
from nbx.api.errors import problem, status_of
from nbx.api.messages import Problem
from nbx.api.plane import DataPlane
from nbx.api.turns import Turns
from nbx.audit.metrics import ERRORS
from nbx.decision.messages import DecideReply, DecideRequest, Explain, Mode, SlotReply
from nbx.errors import Invalid, NbxError, TooLarge
from nbx.experience.entries import Event
from nbx.experience.results import EventResult
from nbx.features.schema import Value
from nbx.limits import BATCH, BODY_BYTES
from nbx.settings import Settings
from nbx.v1 import nbx_pb2 as pb

SERVICES = ("nbx.v1.DecisionService", "nbx.v1.EventService")
STREAM_WINDOW = 64
"""Decisions of one stream under way at a time, from reading until the reply is sent; beyond it, reading waits."""
_log = logging.getLogger(__name__)
_MODES, _EXPLAINS = get_args(Mode), get_args(Explain)
_encode = msgspec.json.Encoder().encode
Context = grpc.aio.ServicerContext[Any, Any]


class Grpc:
    """The servicer of both services.

    Parameters
    ----------
    plane
        Answers every call.
    keys
        Says who may call, by the `authorization` metadata.
    """

    def __init__(self, plane: DataPlane, keys: KeyRing) -> None:
        self._plane = plane
        self._keys = keys
        self._turns = Turns(asyncio.get_running_loop())

    async def decide(self, request: Any, context: Context) -> Any:
        """`DecisionService.Decide`."""
        return await self._answer(context, "decide", self._decide, request)

    async def decide_batch(self, request: Any, context: Context) -> Any:
        """`DecisionService.DecideBatch`."""
        return await self._answer(context, "decide", self._decide_batch, request)

    async def decide_stream(self, _: object, context: Context) -> None:
        """`DecisionService.DecideStream`: up to `STREAM_WINDOW` in flight; replies as they are ready."""
        authorization = await self._admitted(context, "decide")
        done: asyncio.Queue[Any] = asyncio.Queue()
        gate = asyncio.Semaphore(STREAM_WINDOW)
        running: set[asyncio.Task[None]] = set()

        async def one(request: Any) -> None:
            came_ns = perf_counter_ns()
            await self._turns.enter()
            try:
                done.put_nowait(await self._result(request, came_ns))
            finally:
                self._turns.leave()

        async def read() -> None:
            try:
                while (request := await context.read()) is not grpc.aio.EOF:
                    self._keys.check(authorization, "decide")
                    await gate.acquire()
                    task = asyncio.create_task(one(request))
                    running.add(task)
                    task.add_done_callback(running.discard)
                await asyncio.gather(*running)
            finally:
                done.put_nowait(None)

        reader = asyncio.create_task(read())
        try:
            while (result := await done.get()) is not None:
                await context.write(result)
                gate.release()
            await reader
        except NbxError as error:
            await _abort(context, error)
        finally:
            for task in (reader, *running):
                task.cancel()

    async def record(self, request: Any, context: Context) -> Any:
        """`EventService.Record`."""
        return await self._answer(context, "events", self._record, request)

    async def record_stream(self, requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        """`EventService.RecordStream`: one reply per message, in order."""
        await self._admitted(context, "events")
        async for request in requests:
            yield await self._answer(context, "events", self._record, request)

    async def _answer(self, context: Context, scope: Scope, work: Callable[[Any], Awaitable[Any]], request: Any) -> Any:
        """Check the key, do the work, and turn errors into a status with details."""
        try:
            self._check(context, scope)
            return await work(request)
        except NbxError as error:
            await _abort(context, error)
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except Exception:  # noqa: BLE001 - no traceback may reach a caller
            _log.exception("unexpected error in a gRPC call")
            await _abort(context, NbxError("something went wrong here; it is in the service's log"))

    async def _admitted(self, context: Context, scope: Scope) -> str | None:
        """Check the key of a stream; returns the `authorization` it came in."""
        try:
            return self._check(context, scope)
        except NbxError as error:
            await _abort(context, error)

    def _check(self, context: Context, scope: Scope) -> str | None:
        authorization = None if self._keys.is_open else _authorization(context)
        self._keys.check(authorization, scope)
        return authorization

    async def _decide(self, request: Any) -> Any:
        wanted, came_ns = _request(request), perf_counter_ns()
        await self._turns.enter()
        try:
            reply = await self._plane.decisions.decide(wanted, came_ns)
        finally:
            self._turns.leave()
        return reply_message(pb.DecideReply(), reply)

    async def _decide_batch(self, request: Any) -> Any:
        _parsed(request)
        if not request.requests:
            raise Invalid("requests is empty", field="requests")
        if len(request.requests) > BATCH:
            raise TooLarge(
                f"{len(request.requests)} requests in one call, at most {BATCH} are allowed", field="requests"
            )
        return pb.DecideBatchReply(results=await asyncio.gather(*(self._result(r) for r in request.requests)))

    async def _result(self, request: Any, came_ns: int = 0) -> Any:
        item = await self._plane.decide_one(_or_error(request), came_ns)
        result = pb.DecideResult()
        if request is not None and request.correlation:
            result.correlation = request.correlation
        if item.reply is not None:
            reply_message(result.reply, item.reply)
        elif item.problem is not None:
            result.problem.CopyFrom(_problem(item.problem))
        return result

    async def _record(self, request: Any) -> Any:
        _parsed(request)
        if not request.events:
            raise Invalid("events is empty", field="events")
        if len(request.events) > BATCH:
            raise TooLarge(f"{len(request.events)} events in one call, at most {BATCH} are allowed", field="events")
        results = await self._plane.record_many([_event(event) for event in request.events])
        return pb.RecordReply(results=[_event_result(result) for result in results])


async def start_grpc(
    settings: Settings,
    plane: DataPlane,
    keys: KeyRing,
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
) -> grpc.aio.Server:
    """Start the server of an api process; workers share the port."""
    limit = [("grpc.max_receive_message_length", BODY_BYTES), ("grpc.so_reuseport", 1)]
    server = grpc.aio.server(options=limit, interceptors=interceptors)
    face = Grpc(plane, keys)
    server.add_generic_rpc_handlers((_decision_handlers(face), _event_handlers(face)))
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    for name in ("", *SERVICES):
        await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
    reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"{host}:{settings.grpc_port}"
    if settings.tls_cert is not None and settings.tls_key is not None:
        pair = (settings.tls_key.read_bytes(), settings.tls_cert.read_bytes())
        server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
    else:
        server.add_insecure_port(address)
    await server.start()
    return server


def _decision_handlers(face: Grpc) -> grpc.GenericRpcHandler:
    return grpc.method_handlers_generic_handler(
        SERVICES[0],
        {
            "Decide": _handler(grpc.unary_unary_rpc_method_handler, face.decide, pb.DecideRequest, pb.DecideReply),
            "DecideBatch": _handler(
                grpc.unary_unary_rpc_method_handler, face.decide_batch, pb.DecideBatchRequest, pb.DecideBatchReply
            ),
            "DecideStream": _handler(
                grpc.stream_stream_rpc_method_handler, face.decide_stream, pb.DecideRequest, pb.DecideResult
            ),
        },
    )


def _event_handlers(face: Grpc) -> grpc.GenericRpcHandler:
    return grpc.method_handlers_generic_handler(
        SERVICES[1],
        {
            "Record": _handler(grpc.unary_unary_rpc_method_handler, face.record, pb.RecordRequest, pb.RecordReply),
            "RecordStream": _handler(
                grpc.stream_stream_rpc_method_handler, face.record_stream, pb.RecordRequest, pb.RecordReply
            ),
        },
    )


def _handler(kind: Callable[..., Any], method: Any, request: Any, answer: Any) -> Any:
    def parse(packed: bytes) -> Any:
        try:
            return request.FromString(packed)
        except DecodeError:  # raised from here it would be answered as UNKNOWN, or end a stream without a word
            return None

    return kind(method, request_deserializer=parse, response_serializer=answer.SerializeToString)


def _parsed(request: Any) -> Any:
    if request is None:
        raise Invalid("the message cannot be read as protobuf of its type", code="message_malformed")
    return request


def _authorization(context: Context) -> str | None:
    for name, value in context.invocation_metadata() or ():
        if name == "authorization":
            return str(value)
    return None


async def _abort(context: Context, error: NbxError) -> NoReturn:
    ERRORS.labels(error.code).inc()
    described = problem(error)
    details = []
    info = any_pb2.Any()
    info.Pack(error_details_pb2.ErrorInfo(reason=described.code, domain="nbx"))
    details.append(info)
    if described.field:
        bad = any_pb2.Any()
        violation = error_details_pb2.BadRequest.FieldViolation(field=described.field, description=described.detail)
        bad.Pack(error_details_pb2.BadRequest(field_violations=[violation]))
        details.append(bad)
    code = code_pb2.Code.Value(status_of(error).grpc.name)
    rich = status_pb2.Status(code=code, message=described.detail, details=details)
    status = rpc_status.to_status(rich)
    await context.abort(status.code, status.details, status.trailing_metadata)


def _or_error(request: Any) -> DecideRequest | NbxError:
    try:
        return _request(request)
    except NbxError as error:
        return error


def _request(request: Any) -> DecideRequest:
    _parsed(request)
    mode, explain = request.mode or "live", request.explain or "none"
    if mode not in _MODES or explain not in _EXPLAINS:
        field, value, allowed = ("explain", explain, _EXPLAINS) if mode in _MODES else ("mode", mode, _MODES)
        raise Invalid(
            f"{field} is {value!r}; it must be one of {', '.join(allowed)}", field=field, code="field_invalid"
        )
    return DecideRequest(
        customer_id=request.customer_id,
        placement=request.placement,
        slots=request.slots or 1,
        context=_values(request.context, "context"),
        exclude=tuple(request.exclude),
        request_id=request.request_id,
        mode=cast("Mode", mode),
        explain=cast("Explain", explain),
        deadline_ms=request.deadline_ms,
    )


def _event(event: Any) -> Event | EventResult:
    try:
        properties = _values(event.properties, "properties")
    except Invalid as error:
        return EventResult(
            event.event_id, "rejected", code=error.code, detail=error.message, field=f"events[0].{error.field}"
        )
    return Event(
        event_id=event.event_id,
        type=event.type,
        decision_id=event.decision_id,
        slot=event.slot,
        customer_id=event.customer_id,
        by=event.by or "customer",
        cause=event.cause,
        reason=event.reason,
        value=event.value if event.HasField("value") else None,
        sentiment=event.sentiment if event.HasField("sentiment") else None,
        effort=event.effort if event.HasField("effort") else None,
        properties=properties,
        at=event.at_ms or None,
        text=event.text,
    )


def _values(values: Any, field: str) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for name in values:  # by key: `items()` of a map field is twice as slow
        value = values[name]
        kind = value.WhichOneof("kind")
        if kind is None:
            raise Invalid(f"{field}.{name} has no value", field=f"{field}.{name}", code="field_invalid")
        found[name] = getattr(value, kind)
    return found


def reply_message(answer: Any, reply: DecideReply) -> Any:
    """Write a reply into an empty message, and return that; constructors that name every field take twice as long."""
    answer.decision_id = reply.decision_id
    for slot in reply.slots:
        _fill_slot(answer.slots.add(), slot)
    answer.holdout = reply.holdout
    answer.degraded.extend(reply.degraded)
    answer.release = reply.release
    answer.snapshot = reply.snapshot
    answer.took_ms = reply.took_ms
    if reply.explanation is not None:
        answer.explanation_json = _encode(reply.explanation)
    for thread in reply.continues:
        answer.continues.add(
            kind=thread.kind,
            name=thread.name,
            channel=thread.channel,
            opened_at_ms=thread.opened_at,
            last_at_ms=thread.last_at,
            last=thread.last,
            due_at_ms=thread.due_at,
        )
    return answer


def _fill_slot(answer: Any, slot: SlotReply) -> None:
    answer.slot = slot.slot
    answer.action = slot.action
    answer.treatment = slot.treatment
    if slot.content is not None:
        answer.content_json = _encode(slot.content)
    answer.gives.extend(slot.gives)
    answer.asks.extend(slot.asks)
    answer.p_response = slot.p_response or 0.0
    answer.propensity = slot.propensity or 0.0
    answer.expires_at_ms = slot.expires_at
    answer.none = slot.none


def _problem(described: Problem) -> Any:
    return pb.Problem(code=described.code, detail=described.detail, field=described.field)


def _event_result(result: EventResult) -> Any:
    fault = pb.Problem(code=result.code, detail=result.detail, field=result.field) if result.code else None
    return pb.EventResult(event_id=result.event_id, status=result.status, problem=fault, outcome=result.outcome)
