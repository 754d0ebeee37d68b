"""The catalog's routes: check, test, diff, drafts, releases, rollback."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import MediaType, Request, Response, Router, get, post
from litestar.status_codes import HTTP_200_OK, HTTP_201_CREATED

from nbx.api.access import caller, scope_guard
from nbx.api.schemas import CatalogCheck, PublishReply
from nbx.api.wiring import Services
from nbx.catalog.lint import lint_catalog
from nbx.catalog.model import Catalog
from nbx.catalog.parse import parse_catalog
from nbx.catalog.plan import Plan
from nbx.catalog.releases import load_release, publish
from nbx.errors import Invalid


def catalog_routes(services: Services) -> Router:
    """Return the routes under `/v1/catalog`."""

    @post("/check", opt={"scope": "catalog"}, status_code=HTTP_200_OK, summary="Check a catalog (YAML or JSON)")
    async def check(request: Request[Any, Any, Any]) -> CatalogCheck:
        catalog = await _read_catalog(request)
        return CatalogCheck(
            catalog=catalog.name,
            actions=len(catalog.actions),
            placements=len(catalog.placements),
            features=len(catalog.features),
            columns=len(Plan(catalog, 0).layout.columns),
            warnings=tuple(str(finding) for finding in lint_catalog(catalog)),
        )

    @post("/releases", opt={"scope": "catalog"}, status_code=HTTP_201_CREATED, summary="Publish a catalog")
    async def publish_release(request: Request[Any, Any, Any], note: str = "", base: int | None = None) -> PublishReply:
        catalog = await _read_catalog(request)
        release = await publish(
            services.admin,
            catalog,
            author=caller(request),
            note=note,
            at_ms=services.clock.now_ms(),
            base=base,
        )
        await services.refresh()
        return PublishReply(
            release=release.number,
            catalog=catalog.name,
            author=release.author,
            note=note,
            at_ms=release.at_ms,
            warnings=tuple(str(finding) for finding in lint_catalog(catalog)),
        )

    @get("/releases/{number:int}", opt={"scope": "catalog"}, summary="A release")
    async def release(number: int) -> Response[bytes]:
        return Response(msgspec.json.encode(await load_release(services.admin, number)), media_type=MediaType.JSON)

    return Router("/v1/catalog", route_handlers=[check, publish_release, release], guards=[scope_guard(services)])


async def _read_catalog(request: Request[Any, Any, Any]) -> Catalog:
    body = await request.body()
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise Invalid(f"the catalog is not UTF-8: {error}", field="body") from None
    return parse_catalog(text, source="catalog")
