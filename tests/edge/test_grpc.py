"""The gRPC face of a running service with two workers, by a real client."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from nbx.api.grpc import STREAM_WINDOW
from nbx.v1 import nbx_pb2 as pb
from tests.edge.grpc_client import Fault, GrpcClient, value
from tests.service import WEB_ACTIONS, Running, decisions_in, event_ids_in, eventually_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

Status = grpc.StatusCode


def call(service: Running, work: Callable[[GrpcClient], Awaitable[Any]], key: str | None = None) -> Any:
    async def run() -> Any:
        async with GrpcClient(service, key) as client:
            return await work(client)

    return asyncio.run(run())


def refused(service: Running, work: Callable[[GrpcClient], Awaitable[Any]], key: str | None = None) -> Fault:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        call(service, work, key)
    return Fault(caught.value)


def asked(customer_id: str = "grpc", **more: Any) -> Any:
    return pb.DecideRequest(**{"customer_id": customer_id, "placement": "web", **more})


def test_decide(service: Running) -> None:
    reply = call(service, lambda c: c.decide(asked("grpc-decide", slots=3, context={"hour": value(9.0)})))
    assert [slot.slot for slot in reply.slots] == [0, 1, 2]
    assert {slot.action for slot in reply.slots if slot.action} <= WEB_ACTIONS
    assert all(0.0 < slot.propensity <= 1.0 for slot in reply.slots)
    (entry,) = decisions_in(service.entries_of("grpc-decide"))
    assert entry.decision_id == reply.decision_id
    assert entry.request.context == {"hour": 9.0}


def test_a_bad_row_of_a_batch_fails_alone(service: Running) -> None:
    rows = [asked(correlation="a"), asked(placement="nowhere", correlation="b"), asked(correlation="c")]
    reply = call(service, lambda c: c.decide_batch(pb.DecideBatchRequest(requests=rows)))
    assert [result.WhichOneof("result") for result in reply.results] == ["reply", "problem", "reply"]
    assert [result.correlation for result in reply.results] == ["a", "b", "c"]
    assert (reply.results[1].problem.code, reply.results[1].problem.field) == ("placement_unknown", "placement")


def test_a_stream_of_two_hundred_comes_back_whole(service: Running) -> None:
    requests = [
        asked(f"grpc-stream-{n}", correlation=str(n), placement="web" if n % 10 else "nowhere") for n in range(200)
    ]
    results = call(service, lambda c: c.decide_stream(requests))
    assert sorted(int(result.correlation) for result in results) == list(range(200))
    for result in results:
        bad = int(result.correlation) % 10 == 0
        assert result.WhichOneof("result") == ("problem" if bad else "reply")
    customers = {entry.decision_id: entry.customer_id for entry in decisions_in(service.entries())}
    for result in results:
        if result.WhichOneof("result") == "reply":
            assert customers[result.reply.decision_id] == f"grpc-stream-{result.correlation}"


def test_a_stream_whose_replies_nobody_reads_stops_deciding(service: Running) -> None:
    count = 160

    def decided() -> int:
        return sum(entry.customer_id.startswith("grpc-deaf-") for entry in decisions_in(service.entries()))

    async def converse() -> list[int]:
        sent, before = 0, -1

        async def requests() -> AsyncIterator[Any]:
            nonlocal sent
            for sent in range(count):
                yield asked(f"grpc-deaf-{sent}", correlation=str(sent), explain="full", slots=3)

        # without probing, a stream's window stays at 64 KB: what more is written has to wait for its reader
        async with GrpcClient(service, None, ("grpc.http2.bdp_probe", 0)) as client:
            results = client.stream_of(requests())
            await eventually_async(lambda: sent > 2 * STREAM_WINDOW, 30, "requests leave")
            while (now := await asyncio.to_thread(decided)) != before or not now:
                before = now
                await asyncio.sleep(0.2)
            assert now < count
            return [int(result.correlation) async for result in results]

    assert sorted(asyncio.run(converse())) == list(range(count))
    assert decided() == count


def test_record_and_its_stream(service: Running) -> None:
    def event(number: int, **more: Any) -> Any:
        return pb.Event(
            **{"event_id": f"ge-{number}", "type": "page_view", "customer_id": "grpc-events", "value": 1.0, **more}
        )

    reply = call(service, lambda c: c.record(pb.RecordRequest(events=[event(0), event(1, type="seen"), event(0)])))
    assert [result.status for result in reply.results] == ["accepted", "rejected", "duplicate"]
    assert reply.results[1].problem.field == "events[1].decision_id"
    messages = [pb.RecordRequest(events=[event(10 * n + k) for k in range(3)]) for n in range(1, 20)]
    replies = call(service, lambda c: c.record_stream(messages))
    assert [[result.event_id for result in reply.results] for reply in replies] == [
        [event.event_id for event in message.events] for message in messages
    ]
    assert len(event_ids_in(service.entries_of("grpc-events"))) == 1 + 3 * 19


BAD_DECISIONS: list[tuple[str, Any, Status, str, str]] = [
    ("empty", b"", Status.INVALID_ARGUMENT, "id_invalid", "customer_id"),
    ("no protobuf", b"\xff" * 40, Status.INVALID_ARGUMENT, "message_malformed", ""),
    ("no UTF-8", b"\x0a\x02\xff\xfe", Status.INVALID_ARGUMENT, "message_malformed", ""),
    ("nan", asked(context={"hour": value(math.nan)}), Status.INVALID_ARGUMENT, "not_finite", "context.hour"),
    ("inf", asked(context={"hour": value(-math.inf)}), Status.INVALID_ARGUMENT, "not_finite", "context.hour"),
    ("no value", asked(context={"hour": pb.Value()}), Status.INVALID_ARGUMENT, "field_invalid", "context.hour"),
    ("type", asked(context={"hour": value("x")}), Status.INVALID_ARGUMENT, "feature_type", "context.hour"),
    ("control", asked("a\nb"), Status.INVALID_ARGUMENT, "id_invalid", "customer_id"),
    ("long id", asked("a" * 129), Status.INVALID_ARGUMENT, "too_large", "customer_id"),
    ("placement", asked(placement="x"), Status.NOT_FOUND, "placement_unknown", "placement"),
    ("slots", asked(slots=2**32 - 1), Status.INVALID_ARGUMENT, "slots_out_of_range", "slots"),
    ("mode", asked(mode="x"), Status.INVALID_ARGUMENT, "field_invalid", "mode"),
    ("explain", asked(explain="x"), Status.INVALID_ARGUMENT, "field_invalid", "explain"),
]


@pytest.mark.parametrize("case", BAD_DECISIONS, ids=lambda case: case[0])
def test_a_bad_decision_request_names_code_and_field(service: Running, case: tuple[str, Any, Status, str, str]) -> None:
    _, message, status, code, field = case
    fault = refused(service, lambda c: c.decide(message))
    assert (fault.status, fault.code, fault.field) == (status, code, field)
    assert "Traceback" not in fault.words


def test_a_bad_call_of_events_is_refused_whole(service: Running) -> None:
    assert refused(service, lambda c: c.record(pb.RecordRequest())).field == "events"
    many = pb.RecordRequest(events=[pb.Event(event_id=str(n)) for n in range(101)])
    assert refused(service, lambda c: c.record(many)).code == "too_large"
    assert refused(service, lambda c: c.record(b"\xff\xff")).code == "message_malformed"
    batch = pb.DecideBatchRequest(requests=[asked()] * 101)
    assert refused(service, lambda c: c.decide_batch(batch)).code == "too_large"
    assert refused(service, lambda c: c.decide_batch(pb.DecideBatchRequest())).field == "requests"


def test_an_oversized_message_is_refused(service: Running) -> None:
    fault = refused(service, lambda c: c.decide(asked("a" * (2 << 20))))
    assert fault.status is Status.RESOURCE_EXHAUSTED


def test_an_unreadable_message_ends_no_stream_in_silence(service: Running) -> None:
    results = call(service, lambda c: c.decide_stream([asked(correlation="1"), b"\xff" * 9, asked(correlation="2")]))
    assert sorted(result.correlation for result in results) == ["", "1", "2"]
    (bad,) = [result for result in results if not result.correlation]
    assert bad.problem.code == "message_malformed"
    fault = refused(service, lambda c: c.record_stream([b"\xff" * 9]))
    assert (fault.status, fault.code) == (Status.INVALID_ARGUMENT, "message_malformed")


@pytest.mark.parametrize("key", ["", "nbx_00000000_" + "a" * 43, "x"])
def test_without_a_valid_key_nothing_opens(service: Running, key: str) -> None:
    calls: list[Callable[[GrpcClient], Awaitable[Any]]] = [
        lambda c: c.decide(asked()),
        lambda c: c.decide_batch(pb.DecideBatchRequest(requests=[asked()])),
        lambda c: c.decide_stream(None),
        lambda c: c.record(pb.RecordRequest()),
        lambda c: c.record_stream(None),
    ]
    for work in calls:
        fault = refused(service, work, key)
        assert (fault.status, fault.code) == (Status.UNAUTHENTICATED, "unauthenticated"), fault.words


def test_a_revoked_key_ends_a_stream_that_was_open(service: Running) -> None:
    text, key_id = service.new_key("decide")
    received = []

    async def converse(client: GrpcClient) -> None:
        more = asyncio.Event()

        async def sent() -> AsyncIterator[Any]:
            yield asked(correlation="before", mode="preview")
            await more.wait()
            yield asked(correlation="after", mode="preview")

        async for result in client.stream_of(sent()):
            received.append(result.correlation)
            await asyncio.to_thread(service.revoke, key_id, text, 1.0)
            more.set()

    fault = refused(service, converse, text)
    assert (fault.status, fault.code) == (Status.UNAUTHENTICATED, "unauthenticated")
    assert received == ["before"]


def test_streams_that_are_broken_off_leave_nothing_behind(service: Running) -> None:
    async def converse(client: GrpcClient) -> None:
        async def requests(name: str) -> AsyncIterator[Any]:
            for number in range(10_000):
                yield asked(f"grpc-broken-{name}", correlation=str(number), mode="preview")

        async def broken_off(name: str) -> None:
            results: Any = client.stream_of(requests(name))
            async for result in results:
                assert result.WhichOneof("result") == "reply"
                results.cancel()
                break
            assert await results.code() is Status.CANCELLED

        await asyncio.gather(*(broken_off(str(n)) for n in range(8)))
        rows = [asked("grpc-broken", correlation=str(n), mode="preview") for n in range(200)]
        results = await client.decide_stream(rows)
        assert sorted(int(result.correlation) for result in results) == list(range(200))
        assert (await client.decide(asked("grpc-broken", mode="preview"))).decision_id

    call(service, converse)


def test_an_unknown_method_is_unimplemented(service: Running) -> None:
    async def ask(client: GrpcClient) -> Any:
        channel: Any = client.channel
        return await channel.unary_unary("/nbx.v1.DecisionService/Nope")(b"")

    assert refused(service, ask).status is Status.UNIMPLEMENTED


@pytest.mark.parametrize("name", ["", "nbx.v1.DecisionService", "nbx.v1.EventService"])
def test_health(service: Running, name: str) -> None:
    async def ask(client: GrpcClient) -> Any:
        check: Any = client.channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=lambda m: m.SerializeToString(),
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        return await check(health_pb2.HealthCheckRequest(service=name))

    assert call(service, ask).status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_lists_the_services_and_their_messages(service: Running) -> None:
    async def ask(client: GrpcClient) -> list[Any]:
        async def sent() -> AsyncIterator[Any]:
            yield reflection_pb2.ServerReflectionRequest(list_services="")
            yield reflection_pb2.ServerReflectionRequest(file_containing_symbol="nbx.v1.DecisionService")

        info: Any = client.channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            request_serializer=lambda m: m.SerializeToString(),
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        return [answer async for answer in info(sent())]

    listed, described = call(service, ask)
    names = {found.name for found in listed.list_services_response.service}
    assert {"nbx.v1.DecisionService", "nbx.v1.EventService", "grpc.health.v1.Health"} <= names
    (proto,) = described.file_descriptor_response.file_descriptor_proto
    assert b"DecideStream" in proto
