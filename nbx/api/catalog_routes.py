"""The catalog's routes: check, test, diff, shadow, drafts, releases, rollback, and the admin trail.

Reading, checking and comparing catalogs takes long, so it is done beside the event loop, one catalog at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from litestar import MediaType, Request, Response, Router, delete, get, post
from litestar.params import Parameter
from litestar.status_codes import HTTP_200_OK, HTTP_201_CREATED

from nbx.api.access import READERS, author_of, scope_guard
from nbx.api.schemas import CatalogCheck, CatalogDiff, CatalogTest, PublishReply
from nbx.api.wiring import Services
from nbx.audit.shadow import LAST, ShadowQuestion, shadow
from nbx.audit.shadow_report import ShadowReport
from nbx.catalog.drafts import (
    Check,
    Draft,
    approve_draft,
    create_draft,
    delete_draft,
    draft_text,
    list_drafts,
    load_draft,
)
from nbx.catalog.plan import Plan
from nbx.catalog.releases import (
    Head,
    Release,
    Source,
    current_number,
    difference,
    history,
    load_release,
    packed_release,
    publish,
    release_text,
    rollback,
)
from nbx.decision.publishable import Checked, check_text
from nbx.errors import Forbidden, Invalid, TooLarge
from nbx.features.trail import Change, changes
from nbx.limits import NOTE_LENGTH, SHADOW_DECISIONS

T = TypeVar("T")
MOST = 1000
"""Releases or changes in one answer."""
_HOW = (
    "here two people publish: send it as a draft (`nbx catalog draft FILE`), have it approved with another API key "
    "(`nbx catalog approve ID`), then publish that (`nbx catalog publish --draft ID`)"
)


class Bench:
    """Where catalogs are read and compared: beside the event loop, one at a time, as each takes memory and a core."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def run(self, work: Callable[..., T], *arguments: Any) -> T:
        """Run work when it is its turn."""
        async with self._turn:
            return await asyncio.to_thread(work, *arguments)

    async def body(self, request: Request[Any, Any, Any]) -> Checked:
        """Check the catalog in a request's body."""
        body = await request.body()
        try:
            text = body.decode()
        except UnicodeDecodeError as error:
            raise Invalid(f"the catalog is not UTF-8: {error}", field="body") from None
        return await self.run(check_text, text)


def catalog_routes(services: Services) -> list[Router]:
    """Return the routes under `/v1/catalog`, and those of the admin trail."""
    bench, guard = Bench(), scope_guard(services)

    @get("/changes", opt={"scope": "audit"}, summary="Who changed what, newest first")
    async def trail(count: int = Parameter(default=100, ge=1, le=MOST)) -> list[Change]:
        return await changes(services.admin, count)

    handlers = [*_desk(services, bench), _shadow(services, bench), *_drafts(services, bench)]
    handlers += [*_releases(services, bench), *_history(services)]
    return [
        Router("/v1/catalog", route_handlers=handlers, guards=[guard]),
        Router("/v1/audit", route_handlers=[trail], guards=[guard]),
    ]


def _desk(services: Services, bench: Bench) -> list[Any]:
    """Handlers that look at a catalog and keep nothing of it."""

    @post("/check", opt={"scope": "catalog"}, status_code=HTTP_200_OK, summary="Check a catalog (YAML or JSON)")
    async def check(request: Request[Any, Any, Any]) -> CatalogCheck:
        checked = await bench.body(request)
        catalog = checked.catalog
        return CatalogCheck(
            catalog=catalog.name,
            actions=len(catalog.actions),
            placements=len(catalog.placements),
            features=len(catalog.features),
            columns=checked.columns,
            warnings=checked.warnings,
            examples=len(checked.examples),
            failing=checked.failing,
        )

    @post("/test", opt={"scope": "catalog"}, status_code=HTTP_200_OK, summary="Run the examples in a catalog")
    async def test(request: Request[Any, Any, Any]) -> CatalogTest:
        checked = await bench.body(request)
        return CatalogTest(passed=not checked.failing, examples=checked.examples)

    @post("/diff", opt={"scope": "catalog"}, status_code=HTTP_200_OK, summary="What a catalog would change, in words")
    async def compare(
        request: Request[Any, Any, Any],
        against: int | None = Parameter(default=None, ge=0, description="Release; default the one in force"),
    ) -> CatalogDiff:
        checked = await bench.body(request)
        number = await current_number(services.admin) if against is None else against
        packed = await packed_release(services.admin, number) if number else None
        return CatalogDiff(against=number, changes=await difference(packed, checked.catalog))

    return [check, test, compare]


def _shadow(services: Services, bench: Bench) -> Any:
    turn = asyncio.Lock()

    @post("/shadow", opt={"scope": "catalog"}, status_code=HTTP_200_OK, summary="What a catalog would have done lately")
    async def run_shadow(
        request: Request[Any, Any, Any],
        draft: str = Parameter(default="", description="Id of a draft, instead of a body"),
        last: int = Parameter(default=LAST, ge=1, le=SHADOW_DECISIONS, description="Latest decisions to replay"),
        placement: str = Parameter(default="", description="Default: all"),
        by: Annotated[list[str] | None, Parameter(description="Features whose values are segments")] = None,
    ) -> ShadowReport:
        if draft and await request.body():
            raise Invalid("a draft has its own text: send no body with it", field="draft")
        text = await draft_text(services.admin, draft) if draft else ""
        checked = await (bench.run(check_text, text) if draft else bench.body(request))
        plan = await bench.run(Plan, checked.catalog, 0)
        async with turn:  # one at a time: each takes a core and memory
            question = ShadowQuestion(
                now_ms=services.clock.now_ms(), last=last, placement=placement, by=tuple(by or ())
            )
            serving = services.serving
            return await shadow(
                services.store, services.settings.partitions, serving.plan_of, plan, serving.plan(), question
            )

    return run_shadow


def _drafts(services: Services, bench: Bench) -> list[Any]:
    @post("/drafts", opt={"scope": "catalog"}, status_code=HTTP_201_CREATED, summary="Keep a catalog as a draft")
    async def create(request: Request[Any, Any, Any], note: str = "", base: int | None = None) -> Draft:
        _check_note(note)
        checked = await bench.body(request)
        return await create_draft(
            services.admin,
            checked.text,
            checked.catalog,
            Check(warnings=checked.warnings, failing=checked.failing),
            author=author_of(request),
            note=note,
            base=base,
            at_ms=services.clock.now_ms(),
        )

    @get("/drafts", opt={"scope": READERS}, summary="Drafts, newest first")
    async def drafts() -> list[Draft]:
        return await list_drafts(services.admin)

    @get("/drafts/{draft_id:str}", opt={"scope": READERS}, summary="A draft: what it changes, who approved it")
    async def draft(draft_id: str) -> Draft:
        return await load_draft(services.admin, draft_id)

    @get("/drafts/{draft_id:str}/text", opt={"scope": READERS}, media_type=MediaType.TEXT, summary="A draft as written")
    async def text(draft_id: str) -> str:
        return await draft_text(services.admin, draft_id)

    @delete("/drafts/{draft_id:str}", opt={"scope": "catalog"}, status_code=204, summary="Delete a draft")
    async def remove(request: Request[Any, Any, Any], draft_id: str) -> None:
        await delete_draft(services.admin, draft_id, by=author_of(request), at_ms=services.clock.now_ms())

    @post(
        "/drafts/{draft_id:str}/approve",
        opt={"scope": "catalog"},
        status_code=HTTP_200_OK,
        summary="Approve a draft that was made with another key",
    )
    async def approve(
        request: Request[Any, Any, Any],
        draft_id: str,
        sha256: str = Parameter(default="", description="Of the text that was looked at"),
    ) -> Draft:
        now_ms = services.clock.now_ms()
        return await approve_draft(services.admin, draft_id, by=author_of(request), at_ms=now_ms, sha256=sha256)

    return [create, drafts, draft, text, remove, approve]


def _releases(services: Services, bench: Bench) -> list[Any]:
    """Handlers that put something in force."""
    redis, two = services.admin, services.settings.approval == "two"

    @post("/releases", opt={"scope": "catalog"}, status_code=HTTP_201_CREATED, summary="Publish a catalog or a draft")
    async def publish_release(
        request: Request[Any, Any, Any],
        note: str = "",
        base: int | None = None,
        draft: str = Parameter(default="", description="Id of a draft to publish, instead of a body"),
    ) -> PublishReply:
        _check_note(note)
        if draft:
            return await publish_draft(request, draft, note, base)
        if two:
            raise Forbidden(_HOW, code="approval_needed")
        checked = (await bench.body(request)).publishable()
        release = await publish(
            redis,
            checked.catalog,
            author=str(author_of(request)),
            note=note,
            at_ms=services.clock.now_ms(),
            base=base,
            source=Source(text=checked.text),
        )
        return await in_force(release, checked.warnings)

    async def publish_draft(
        request: Request[Any, Any, Any], draft_id: str, note: str, base: int | None
    ) -> PublishReply:
        if base is not None or await request.body():
            raise Invalid("a draft has its own text and base: send neither with it", field="draft")
        draft, text = await load_draft(redis, draft_id), await draft_text(redis, draft_id)
        approved_by = draft.approved_by(text)
        if two and not approved_by:
            raise Forbidden(f"draft {draft_id} is not approved: {_HOW}", code="approval_needed")
        checked = (await bench.run(check_text, text)).publishable()
        release = await publish(
            redis,
            checked.catalog,
            author=str(draft.author),
            note=note or draft.note,
            at_ms=services.clock.now_ms(),
            base=draft.base,
            source=Source(text=text, draft=draft_id, publisher=str(author_of(request)), approved_by=approved_by),
        )
        return await in_force(release, checked.warnings)

    @post(
        "/releases/{number:int}/rollback",
        opt={"scope": "catalog"},
        status_code=HTTP_201_CREATED,
        summary="Put an older release's catalog in force again, as a new release",
    )
    async def roll_back(
        request: Request[Any, Any, Any], number: int, note: str = "", base: int | None = None
    ) -> PublishReply:
        _check_note(note)
        await bench.run(Plan, (await load_release(redis, number)).catalog, 0)  # this version may refuse what it was
        author, now_ms = str(author_of(request)), services.clock.now_ms()
        return await in_force(await rollback(redis, number, author=author, note=note, at_ms=now_ms, base=base), ())

    async def in_force(release: Release, warnings: tuple[str, ...]) -> PublishReply:
        await services.refresh()
        return PublishReply(
            release=release.number,
            catalog=release.catalog.name,
            author=release.author,
            note=release.note,
            at_ms=release.at_ms,
            warnings=warnings,
            changes=release.diff,
            approved_by=release.approved_by,
            rollback_of=release.rollback_of,
        )

    return [publish_release, roll_back]


def _history(services: Services) -> list[Any]:
    redis = services.admin

    @get("/releases", opt={"scope": READERS}, summary="Releases, newest first: who, when, why, what changed")
    async def releases(
        count: int = Parameter(default=50, ge=1, le=MOST),
        before: int = Parameter(default=0, ge=0, description="Only releases of a lower number; 0: all"),
    ) -> list[Head]:
        return await history(redis, count, before)

    @get("/releases/{number:int}", opt={"scope": READERS}, summary="A release")
    async def release(number: int) -> Response[bytes]:
        packed = await packed_release(redis, number)
        return Response(packed if isinstance(packed, bytes) else packed.encode(), media_type=MediaType.JSON)

    @get("/releases/{number:int}/text", opt={"scope": READERS}, media_type=MediaType.TEXT, summary="As it was written")
    async def text(number: int) -> str:
        return await release_text(redis, number)

    @get("/releases/{number:int}/diff", opt={"scope": READERS}, summary="What a release changed, in words")
    async def compare(
        number: int,
        against: int | None = Parameter(default=None, ge=0, description="Release; default the one before; 0: none"),
    ) -> CatalogDiff:
        other = number - 1 if against is None else against
        after = await load_release(redis, number)
        packed = await packed_release(redis, other) if other else None
        return CatalogDiff(against=other, changes=await difference(packed, after.catalog))

    return [releases, release, text, compare]


def _check_note(note: str) -> None:
    if len(note) > NOTE_LENGTH:
        raise TooLarge(f"the note has {len(note)} characters, at most {NOTE_LENGTH} are allowed", field="note")
