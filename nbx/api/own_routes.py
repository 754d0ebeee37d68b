"""The customer's own view: for keys, and for the customer itself behind a link, as JSON and as a small page.

The page is plain HTML with forms and has no script: it works wherever a form does. The link is the capability, so there
is no cookie that another site could use; nothing is cached, framed or told to other sites as a referrer.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs
from zoneinfo import ZoneInfo

import msgspec
from jinja2 import Environment, FunctionLoader, select_autoescape
from litestar import MediaType, Request, Response, Router, get, post
from litestar.status_codes import HTTP_200_OK, HTTP_204_NO_CONTENT
from msgspec import Struct

from nbx.api.access import scope_guard
from nbx.api.errors import UNREADABLE, from_decode, problem
from nbx.api.own_links import lifetime_ms, make_token, own_secret, read_token
from nbx.api.own_view import OwnControl, apply_control, read_own_view
from nbx.api.wiring import Services
from nbx.catalog.time_words import moment
from nbx.decision.own_view import OwnView
from nbx.decision.plain_words import spoken
from nbx.errors import Forbidden, Invalid, NbxError, Unknown
from nbx.features.schema import Value
from nbx.limits import BODY_BYTES, STOPPED_MS

_FOLDER = files("nbx.api").joinpath("own")
_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
_FORM = "application/x-www-form-urlencoded"
_decode_control = msgspec.json.Decoder(OwnControl).decode


class LinkRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What link is wanted."""

    lifetime: str = "1h"
    """A duration up to 30d."""


class LinkReply(Struct, frozen=True, kw_only=True):
    """A link for the customer itself; whoever has it sees the view and uses its controls."""

    path: str
    """To be put behind the service's public address."""
    expires_at: int
    """Epoch milliseconds."""


def own_routes(services: Services) -> list[Any]:
    """Return the handlers of the customer's own view."""
    return [
        Router(
            "/v1",
            route_handlers=_for_keys(services),
            guards=[scope_guard(services)],
            request_max_body_size=BODY_BYTES,
        ),
        Router("/me", route_handlers=_for_customers(services), request_max_body_size=BODY_BYTES),
        style,
    ]


@get("/own/own.css", include_in_schema=False)
async def style() -> Response[bytes]:
    """Serve the page's style."""
    content = _FOLDER.joinpath("own.css").read_bytes()
    return Response(content, media_type="text/css; charset=utf-8", headers=_HEADERS)


def _for_keys(services: Services) -> list[Any]:
    @get(
        "/customers/{customer_id:str}/experience",
        opt={"scope": "audit"},
        summary="The customer's own view: why, what is remembered, what own choices unlock, what can be stopped",
    )
    async def view(customer_id: str) -> OwnView:
        return await read_own_view(services, customer_id)

    @post(
        "/customers/{customer_id:str}/experience/controls",
        opt={"scope": "events"},
        status_code=HTTP_204_NO_CONTENT,
        summary="Stop, pause, resume, correct or consent, as the customer said",
    )
    async def control(customer_id: str, data: OwnControl) -> None:
        await apply_control(services, customer_id, data, "agent")

    @post(
        "/customers/{customer_id:str}/experience/link",
        opt={"scope": ("events", "admin")},
        status_code=HTTP_200_OK,
        summary="A signed link to the view for the customer itself",
    )
    async def link(customer_id: str, data: LinkRequest | None = None) -> LinkReply:
        wanted_ms = lifetime_ms(data.lifetime if data is not None else "")
        known = await read_own_view(services, customer_id)
        expires_ms = services.clock.now_ms() + wanted_ms
        token = make_token(await own_secret(services.admin), known.customer_id, expires_ms)
        return LinkReply(path=f"/me/{token}", expires_at=expires_ms)

    return [view, control, link]


def _for_customers(services: Services) -> list[Any]:
    environment = Environment(
        loader=FunctionLoader(lambda name: _FOLDER.joinpath(name).read_text()),
        autoescape=select_autoescape(["jinja"]),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(spoken=spoken, said=_said, stopped_ms=STOPPED_MS)

    async def whose(token: str) -> str:
        return read_token(await own_secret(services.admin), token, services.clock.now_ms())

    async def page_of(token: str, *, done: bool = False, error: NbxError | None = None) -> Response[str]:
        view = await read_own_view(services, await whose(token))
        zone = ZoneInfo(services.serving.plan().catalog.time_zone)
        html = environment.get_template("index.html.jinja").render(
            view=view,
            token=token,
            done=done,
            error=error.message if error is not None else "",
            when=lambda ms: moment(ms - ms % 60_000, zone),
        )
        status = problem(error).status if error is not None else HTTP_200_OK
        return Response(html, status_code=status, media_type=MediaType.HTML, headers=_HEADERS)

    @get("/{token:str}", media_type=MediaType.HTML, include_in_schema=False)
    async def page(request: Request[Any, Any, Any], token: str) -> Response[str]:
        try:
            return await page_of(token, done="done" in request.query_params)
        except (Forbidden, Unknown) as error:
            if "text/html" not in request.headers.get("accept", ""):
                raise
            html = environment.get_template("refused.html.jinja").render(words=error.message)
            return Response(html, status_code=problem(error).status, media_type=MediaType.HTML, headers=_HEADERS)

    @get("/{token:str}/experience", summary="The own view behind a customer's link")
    async def view(token: str) -> Response[OwnView]:
        return Response(await read_own_view(services, await whose(token)), headers=_HEADERS)

    @post("/{token:str}/controls", status_code=HTTP_200_OK, summary="Use the controls behind a customer's link")
    async def control(request: Request[Any, Any, Any], token: str) -> Response[Any]:
        customer_id, body = await whose(token), await request.body()
        if not request.headers.get("content-type", "").startswith(_FORM):
            try:
                said = _decode_control(body)
            except UNREADABLE as error:
                raise from_decode(error) from None
            await apply_control(services, customer_id, said, "customer")
            return Response(await read_own_view(services, customer_id), headers=_HEADERS)
        try:
            await apply_control(services, customer_id, _of_form(services, body), "customer")
        except Invalid as error:
            return await page_of(token, error=error)
        return Response(b"", status_code=303, headers={**_HEADERS, "location": f"/me/{token}?done"})

    return [page, view, control]


def _of_form(services: Services, body: bytes) -> OwnControl:
    """Read what a form of the page says."""
    try:
        fields = {name: values[-1] for name, values in parse_qs(body.decode(), max_num_fields=16).items()}
    except ValueError as error:
        raise Invalid(f"the form cannot be read: {error}", code="field_invalid") from None
    texts = ("action", "scope", "pause", "feature", "purpose")
    told: dict[str, Value] = {name: fields[name] for name in texts if name in fields}
    if "granted" in fields:
        told["granted"] = fields["granted"] == "true"
    if "value" in fields:
        told["value"] = _typed(services, fields.get("feature", ""), fields["value"])
    try:
        return msgspec.convert(told, OwnControl)
    except msgspec.ValidationError as error:
        raise from_decode(error) from None


def _typed(services: Services, name: str, text: str) -> Value:
    """Return what was typed as a value of a feature's type."""
    feature = services.serving.plan().profile_features.get(name)
    if feature is not None and feature.type == "boolean" and text in ("true", "false"):
        return text == "true"
    if feature is not None and feature.type == "number":
        try:
            return float(text)
        except ValueError:
            raise Invalid(f"{spoken(name)} must be a number, found {text[:40]!r}", field="value") from None
    return text


def _said(value: Value) -> str:
    """Return a value as people say it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,.2f}".rstrip("0").rstrip(".") if isinstance(value, int | float) else value or "not known"
