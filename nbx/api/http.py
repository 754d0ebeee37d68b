"""The Litestar app: every documented route. The hot ones are answered by `nbx.api.front` before they get here."""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated, Any

import msgspec
from litestar import Litestar, MediaType, Request, Response, get, patch, post
from litestar.exceptions import HTTPException
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.params import Parameter
from litestar.router import Router
from litestar.status_codes import HTTP_200_OK

from nbx import __version__
from nbx.api.access import caller, is_admin, scope_guard
from nbx.api.catalog_routes import catalog_routes
from nbx.api.console_routes import console_routes
from nbx.api.errors import PROBLEM_TYPE, UNREADABLE, from_decode, problem
from nbx.api.explain_routes import explain_handlers
from nbx.api.messages import BatchItem, Fault, InteractionReply, InteractionRequest, Problem, ProfilePatch
from nbx.api.own_routes import own_routes
from nbx.api.plane import DataPlane
from nbx.api.privacy_routes import note, privacy_handlers
from nbx.api.query_routes import find_handler, query_routes
from nbx.api.replay_routes import replay_handlers
from nbx.api.reports import (
    customer_report,
    decision_report,
    experience_report,
    failures_report,
    journeys_report,
    learning_report,
    policy_report,
)
from nbx.api.roi_routes import roi_handler
from nbx.api.schemas import (
    AliasPost,
    AliasReply,
    CustomerReport,
    DecisionReport,
    Ready,
)
from nbx.api.verify_routes import verify_routes
from nbx.api.web_routes import web_routes
from nbx.api.wiring import Services
from nbx.audit.budget_status import BudgetStatus, budget_status
from nbx.audit.experience_report import ExperienceReport
from nbx.audit.failures_report import FailuresReport
from nbx.audit.journeys import JourneysReport
from nbx.audit.learning import LearningReport
from nbx.audit.metrics import ERRORS, exposition
from nbx.audit.policy_report import PolicyReport
from nbx.catalog.parse import CatalogFaults
from nbx.decision.messages import DecideReply, DecideRequest
from nbx.errors import NbxError, NotReady
from nbx.experience.entries import Event
from nbx.experience.results import EventResult
from nbx.imports import absent
from nbx.limits import BODY_BYTES, CATALOG_BYTES

_log = logging.getLogger(__name__)
FAULTS_SHOWN = 1000
SINCE = Parameter(description="Epoch ms, RFC 3339, or a time ago (7d); default 30 days")
UNTIL = Parameter(description="The same; default now")
PLACEMENT = Parameter(description="Only decisions of this placement")


def make_app(services: Services, plane: DataPlane) -> Litestar:
    """Build the app around the services of a process."""
    with absent("attrs", "opentelemetry", "pydantic"):  # Litestar loads its support of what is installed
        return Litestar(
            route_handlers=[
                _decision_routes(services, plane),
                *catalog_routes(services),
                _report_routes(services),
                *_operations(services),
                *console_routes(services),
                *own_routes(services),
                *verify_routes(services),
                query_routes(services),
                *web_routes(),
            ],
            exception_handlers={NbxError: _on_error, HTTPException: _on_http_error, Exception: _on_surprise},
            openapi_config=OpenAPIConfig(
                title="nbx",
                version=__version__,
                path="/schema",
                render_plugins=[JsonRenderPlugin(path="/")],
            ),
            request_max_body_size=CATALOG_BYTES,
            logging_config=None,
        )


def _decision_routes(services: Services, plane: DataPlane) -> Router:
    store, partitions = services.store, services.settings.partitions

    @post("/decisions", opt={"scope": "decide"}, status_code=HTTP_200_OK, summary="Decide")
    async def decide(data: DecideRequest) -> DecideReply:
        return await plane.decisions.decide(data)

    @post("/decisions:batch", opt={"scope": "decide"}, status_code=HTTP_200_OK, summary="Decide for up to 100")
    async def decide_batch(data: list[DecideRequest]) -> list[BatchItem]:
        return await plane.decide_many(data)

    @post("/events", opt={"scope": "events"}, status_code=HTTP_200_OK, summary="Record up to 100 events")
    async def record(data: list[Event]) -> list[EventResult]:
        return await plane.record_many(data)

    @post("/interactions", opt={"scope": "decide"}, status_code=HTTP_200_OK, summary="Events, then one decision")
    async def interact(request: Request[Any, Any, Any], data: InteractionRequest) -> InteractionReply:
        if data.events:
            services.keys.check(request.headers.get("authorization"), "events")
        return await plane.interact(await request.body())  # `data` is for the schema: Litestar takes "1" for 1

    @get("/decisions/{decision_id:str}", opt={"scope": "audit"}, summary="A decision's record")
    async def decision(decision_id: str) -> DecisionReport:
        return await decision_report(services, decision_id)

    @get("/budgets", opt={"scope": "audit"}, summary="What is spent of each budget in the window that runs")
    async def budgets() -> list[BudgetStatus]:
        plan, now_ms = services.serving.plan(), services.clock.now_ms()
        return list(await budget_status(services.budgets, store, plan, partitions, now_ms))

    @get("/customers/{customer_id:str}", opt={"scope": "audit"}, summary="What is known about a customer")
    async def customer(
        customer_id: str, events: int = Parameter(default=20, ge=0, le=500, description="Timeline entries")
    ) -> CustomerReport:
        return await customer_report(services, customer_id, events)

    @patch("/customers/{customer_id:str}", opt={"scope": "events"}, status_code=204, summary="Change declared features")
    async def change(customer_id: str, data: ProfilePatch) -> None:
        await plane.events.change_profile(customer_id, data.profile)

    @post(
        "/customers/{customer_id:str}/aliases", opt={"scope": "events"}, status_code=HTTP_200_OK, summary="Merge an id"
    )
    async def merge(request: Request[Any, Any, Any], customer_id: str, data: AliasPost) -> AliasReply:
        merged = await plane.events.merging.merge(customer_id, data.alias, caller(request))
        if is_admin(request):  # a person who mends something; channels merge at every login
            await note(services, "customer_merged", caller(request), merged)
        return AliasReply(customer_id=merged, alias=data.alias)

    return Router(
        "/v1",
        route_handlers=[
            decide,
            decide_batch,
            record,
            interact,
            decision,
            *explain_handlers(services),
            *replay_handlers(services),
            budgets,
            customer,
            change,
            merge,
            *privacy_handlers(services),
            find_handler(services),
        ],
        guards=[scope_guard(services)],
        request_max_body_size=BODY_BYTES,
    )


def _report_routes(services: Services) -> Router:
    turn = asyncio.Lock()  # a report takes memory and a core: one at a time

    @get("/learning", opt={"scope": "audit"}, summary="Calibration, exploration, what taught and what did not")
    async def learning(since: str = "", until: str = "") -> LearningReport:
        async with turn:
            return await learning_report(services, since, until)

    @get("/policy", opt={"scope": "audit"}, summary="What a release would have done, estimated from the log")
    async def policy(
        release: int = Parameter(ge=1, description="The release asked about"),
        since: Annotated[str, SINCE] = "",
        until: Annotated[str, UNTIL] = "",
        placement: Annotated[str, PLACEMENT] = "",
        clip: float | None = Parameter(default=None, description="Bound on importance weights; default none"),
        young: bool = Parameter(default=False, description="Count decisions whose attention may still run"),
    ) -> PolicyReport:
        async with turn:
            return await policy_report(services, release, since, until, placement, clip, young)

    @get("/journeys", opt={"scope": "audit"}, summary="Where customers went, whether both sides met, and clusters")
    async def journeys(since: str = "", until: str = "") -> JourneysReport:
        async with turn:
            return await journeys_report(services, since, until)

    @get("/experience", opt={"scope": "audit"}, summary="What customers experienced, in points and money, and who did")
    async def experience(
        since: Annotated[str, SINCE] = "", until: Annotated[str, UNTIL] = "", placement: Annotated[str, PLACEMENT] = ""
    ) -> ExperienceReport:
        async with turn:
            return await experience_report(services, since, until, placement)

    @get("/failures", opt={"scope": "audit"}, summary="Negative experience by cause, where, at what cost, since when")
    async def failures(
        since: Annotated[str, SINCE] = "", until: Annotated[str, UNTIL] = "", placement: Annotated[str, PLACEMENT] = ""
    ) -> FailuresReport:
        async with turn:
            return await failures_report(services, since, until, placement)

    handlers = [learning, policy, journeys, experience, failures, roi_handler(services, turn)]
    return Router("/v1/reports", route_handlers=handlers, guards=[scope_guard(services)])


def _operations(services: Services) -> list[Any]:
    @get("/health/live", media_type=MediaType.TEXT, summary="The process runs")
    async def live() -> str:
        return "ok"

    @get("/health/ready", summary="Decisions can be made")
    async def ready() -> Response[Ready]:
        try:
            plan, model = services.serving.current()
        except NotReady as error:
            return Response(Ready(ready=False, reason=error.message), status_code=503)
        if not services.connection.connected:
            reason = "Redis is away: decisions are answered degraded"
            return Response(Ready(ready=False, release=plan.release, reason=reason), status_code=503)
        return Response(Ready(ready=True, release=plan.release, snapshot=model.version))

    @get("/metrics", media_type="text/plain; version=0.0.4", opt={"scope": "audit"}, guards=[scope_guard(services)])
    async def metrics() -> bytes:
        return exposition()

    return [live, ready, metrics]


def _respond(described: Problem) -> Response[bytes]:
    ERRORS.labels(described.code).inc()
    return Response(msgspec.json.encode(described), status_code=described.status, media_type=PROBLEM_TYPE)


def _on_error(_: Request[Any, Any, Any], error: NbxError) -> Response[bytes]:
    described = problem(error)
    if isinstance(error, CatalogFaults):
        faults = tuple(
            Fault(code=f.code, detail=f.message, field=f.path, line=f.line, column=f.column)
            for f in error.findings[:FAULTS_SHOWN]
        )
        described = msgspec.structs.replace(described, faults=faults)
    return _respond(described)


def _on_http_error(_: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    cause: BaseException | None = error
    while cause is not None:  # the codec's own complaint names the field; Litestar wraps it
        if isinstance(cause, UNREADABLE):
            fault = from_decode(cause)
            fault.field = fault.field.removeprefix("data").lstrip(".")
            return _respond(problem(fault))
        cause = cause.__cause__
    field, detail = "", error.detail
    extra = error.extra
    if isinstance(extra, list) and extra and isinstance(extra[0], dict):
        field, detail = str(extra[0].get("key", "")), str(extra[0].get("message", detail))
    codes = {400: "field_invalid", 404: "route_unknown", 405: "method_not_allowed", 413: "too_large"}
    return _respond(
        Problem(
            type=f"urn:nbx:problem:{codes.get(error.status_code, 'invalid')}",
            title="The request is wrong",
            status=error.status_code,
            detail=detail,
            code=codes.get(error.status_code, "invalid"),
            field=field,
        )
    )


def _on_surprise(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    if isinstance(error, UNREADABLE):
        return _respond(problem(from_decode(error)))
    _log.error("unexpected error on %s", request.url.path, exc_info=error)
    return _respond(problem(NbxError("something went wrong here; it is in the service's log")))
