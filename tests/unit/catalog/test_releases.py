"""Releases, drafts and the admin trail on real servers: all of a change or nothing of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from msgspec import structs
from redis.asyncio import Redis

from nbx.api.auth import create_key, revoke_key
from nbx.catalog import releases
from nbx.catalog.drafts import (
    Approval,
    Check,
    Draft,
    approve_draft,
    create_draft,
    delete_draft,
    digest,
    draft_text,
    list_drafts,
    load_draft,
)
from nbx.catalog.model import Catalog, Holdout
from nbx.catalog.releases import (
    HISTORY_SENTENCES,
    Release,
    Source,
    current_number,
    decode_release,
    difference,
    history,
    load_release,
    packed_release,
    publish,
    release_text,
    rollback,
)
from nbx.errors import Conflict, Forbidden, NbxError, Unknown
from nbx.features.keys import CATALOG_CURRENT, CATALOG_DRAFTS, CATALOG_HISTORY, draft_key, draft_text_key, release_key
from nbx.features.trail import Author, changes
from nbx.limits import DRAFT_KEPT_MS, DRAFTS
from tests.redis_server import SERVERS, RedisServer
from tests.worlds import CATALOG, small_plan

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

ANNA, BEN = Author("aaaaaaaa", "anna"), Author("bbbbbbbb", "ben")
SMALL = small_plan().catalog
QUIETER = structs.replace(SMALL, holdout=Holdout(silent=0.02))
TEXT = f"# as written\n{CATALOG}"
NOW_MS = 1_800_000_000_000


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with RedisServer(request.param) as running:
        yield running


def run(server: RedisServer, story: Callable[[Redis], Awaitable[None]]) -> None:
    async def scene() -> None:
        async with Redis(unix_socket_path=server.socket_path) as redis:
            await redis.flushall()
            await story(redis)

    asyncio.run(scene())


async def dump(redis: Redis) -> dict[object, object]:
    """Every key as it is."""
    return {key: await redis.dump(key) for key in sorted(await redis.keys())}


async def refused(redis: Redis, call: Awaitable[Any], kind: type[NbxError], code: str) -> NbxError:
    """See a call refused, and nothing written by it."""
    before = await dump(redis)
    with pytest.raises(kind) as raised:
        await call
    assert raised.value.code == code
    assert await dump(redis) == before, "a refused change writes nothing"
    return raised.value


async def put(redis: Redis, catalog: Catalog = SMALL, **more: Any) -> Release:
    return await publish(redis, catalog, **{"author": str(ANNA), "note": "n", "at_ms": NOW_MS, **more})


async def drafted(redis: Redis, text: str = TEXT, **more: Any) -> Draft:
    made = {"author": ANNA, "note": "n", "base": None, "at_ms": NOW_MS, **more}
    return await create_draft(redis, text, QUIETER, Check(warnings=("w",)), **made)


def test_a_release_says_where_it_came_from_and_what_it_changed(server: RedisServer) -> None:
    async def story(redis: Redis) -> None:
        first = await put(redis, source=Source(text=TEXT))
        second = await put(redis, QUIETER, note="less", base=1, at_ms=NOW_MS + 1)
        assert first.diff == ("catalog: new, small, with 5 actions, 2 groups, 2 placements",)
        assert (second.number, second.base, second.diff) == (2, 1, ("holdout: silent 0 % → 2 %",))
        assert [await load_release(redis, number) for number in (1, 2)] == [first, second]
        assert await release_text(redis, 1) == TEXT
        assert await current_number(redis) == 2
        heads = await history(redis, 10)
        assert [(head.number, head.note, head.at_ms, head.diff) for head in heads] == [
            (2, "less", NOW_MS + 1, second.diff),
            (1, "n", NOW_MS, first.diff),
        ]
        assert [head.number for head in await history(redis, 1)] == [2]
        assert [head.number for head in await history(redis, 5, before=2)] == [1]
        assert await history(redis, 5, before=1) == []
        assert [(each.what, each.who, each.details["release"]) for each in await changes(redis, 9)] == [
            ("published", "anna (aaaaaaaa)", 2),
            ("published", "anna (aaaaaaaa)", 1),
        ]
        await refused(redis, load_release(redis, 3), Unknown, "release_unknown")
        await refused(redis, release_text(redis, 3), Unknown, "release_unknown")
        await refused(redis, release_text(redis, 2), Unknown, "release_text_unknown")

    run(server, story)


def test_what_changes_nothing_is_published_and_says_so(server: RedisServer) -> None:
    async def story(redis: Redis) -> None:
        await put(redis)
        again = await put(redis, source=Source(text=TEXT))
        assert (again.number, again.diff) == (2, ())

    run(server, story)


def test_a_release_of_before_is_read_and_told(server: RedisServer) -> None:
    async def story(redis: Redis) -> None:
        old = {"number": 1, "catalog": SMALL, "author": "a (1)", "note": "old", "at_ms": 5}
        await redis.set(release_key(1), msgspec.json.encode(old))
        await redis.set(CATALOG_CURRENT, 1)
        release = await load_release(redis, 1)
        assert (release.catalog, release.base, release.diff, release.rollback_of) == (SMALL, 0, (), 0)
        assert (await put(redis, QUIETER)).diff == ("holdout: silent 0 % → 2 %",)
        assert [(head.number, head.note) for head in await history(redis, 9)] == [(2, "n"), (1, "old")]

    run(server, story)


def test_a_stale_base_and_a_lost_draft_are_refused(server: RedisServer) -> None:
    async def story(redis: Redis) -> None:
        await put(redis)
        error = await refused(redis, put(redis, base=0), Conflict, "release_stale")
        assert error.field == "base"
        await refused(redis, put(redis, source=Source(draft="0" * 16)), Unknown, "draft_unknown")

    run(server, story)


def test_of_publishers_at_one_moment_one_wins(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(redis: Redis) -> None:
        all_have_read = asyncio.Barrier(8)

        async def after_all_have_read(packed: bytes | str | None, catalog: Catalog) -> tuple[str, ...]:
            await all_have_read.wait()
            return await difference(packed, catalog)

        monkeypatch.setattr(releases, "difference", after_all_have_read)
        results = await asyncio.gather(*(put(redis, note=f"{i}") for i in range(8)), return_exceptions=True)
        (won,) = [result for result in results if isinstance(result, Release)]
        assert all(isinstance(result, Conflict) for result in results if result is not won)
        assert await current_number(redis) == 1
        assert await load_release(redis, 1) == won
        assert len(await changes(redis, 100)) == 1, "who did not win left no trace"

    run(server, story)


def test_a_draft_deleted_at_the_same_moment_is_not_published(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(redis: Redis) -> None:
        draft = await drafted(redis)

        async def meanwhile(packed: bytes | str | None, catalog: Catalog) -> tuple[str, ...]:
            await delete_draft(redis, draft.id, by=BEN, at_ms=7)
            return await difference(packed, catalog)

        monkeypatch.setattr(releases, "difference", meanwhile)
        with pytest.raises(Conflict):
            await put(redis, QUIETER, source=Source(text=TEXT, draft=draft.id))
        assert await current_number(redis) == 0
        assert [change.what for change in await changes(redis, 9)] == ["draft_deleted", "draft_created"]

    run(server, story)


def test_rolling_back_publishes_the_old_catalog_and_text(server: RedisServer) -> None:
    async def story(redis: Redis) -> None:
        await put(redis, source=Source(text=TEXT))
        await put(redis, QUIETER)
        first = await packed_release(redis, 1)
        back = await rollback(redis, 1, author=str(BEN), note="too quiet", at_ms=9)
        assert (back.number, back.base, back.rollback_of, back.catalog) == (3, 2, 1, SMALL)
        assert back.diff == ("holdout: silent 2 % → 0 %",)
        assert await release_text(redis, 3) == TEXT
        assert await packed_release(redis, 1) == first
        (change, *_) = await changes(redis, 9)
        assert (change.what, change.who, change.details["rollback_of"]) == ("rolled_back", "ben (bbbbbbbb)", 1)
        await refused(redis, rollback(redis, 7, author="", note="", at_ms=9), Unknown, "release_unknown")
        await refused(redis, rollback(redis, 1, author="", note="", at_ms=9, base=2), Conflict, "release_stale")

    run(server, story)


def test_history_keeps_a_long_difference_short(server: RedisServer) -> None:
    async def story(redis: Redis) -> None:
        action = SMALL.actions[0]
        many = tuple(structs.replace(action, name=f"a{i}") for i in range(HISTORY_SENTENCES + 1))
        await put(redis)
        release = await put(redis, structs.replace(SMALL, actions=(*SMALL.actions, *many)))
        assert len(release.diff) == HISTORY_SENTENCES + 1
        told = (await history(redis, 1))[0].diff
        assert told == (*release.diff[:HISTORY_SENTENCES], "and 1 more")

    run(server, story)


def test_a_draft_keeps_what_was_written_and_what_it_changes(server: RedisServer) -> None:
    async def story(redis: Redis) -> None:
        await put(redis)
        draft = await drafted(redis, note="quieter")
        assert (draft.base, draft.diff, draft.check.warnings) == (1, ("holdout: silent 0 % → 2 %",), ("w",))
        assert (draft.author, draft.at_ms, draft.sha256) == (ANNA, NOW_MS, digest(TEXT))
        assert await load_draft(redis, draft.id) == draft
        assert await draft_text(redis, draft.id) == TEXT
        later = await drafted(redis, text="other", at_ms=NOW_MS + 1)
        assert await list_drafts(redis) == [later, draft]
        for key in (draft_key(draft.id), draft_text_key(draft.id)):
            assert 0 < await redis.pttl(key) <= DRAFT_KEPT_MS
        (change, *_) = await changes(redis, 1)
        assert (change.what, change.details["draft"]) == ("draft_created", later.id)
        await refused(redis, drafted(redis, base=0), Conflict, "release_stale")
        await refused(redis, load_draft(redis, "x"), Unknown, "draft_unknown")
        await refused(redis, draft_text(redis, "x"), Unknown, "draft_unknown")

    run(server, story)


def test_an_approval_is_somebody_elses_and_of_one_text(server: RedisServer) -> None:
    async def story(redis: Redis) -> None:
        draft = await drafted(redis)
        assert draft.approved_by(TEXT) == ""
        approve = {"by": BEN, "at_ms": 7}
        await refused(redis, approve_draft(redis, draft.id, by=ANNA, at_ms=7), Forbidden, "approval_own")
        await refused(redis, approve_draft(redis, "x", by=BEN, at_ms=7), Unknown, "draft_unknown")
        other = approve_draft(redis, draft.id, sha256=digest("other"), **approve)  # type: ignore[arg-type]
        await refused(redis, other, Conflict, "draft_differs")
        approved = await approve_draft(redis, draft.id, by=BEN, at_ms=7, sha256=digest(TEXT))
        assert approved.approvals == (Approval(by=BEN, at_ms=7, sha256=draft.sha256),)
        assert approved.approved_by(TEXT) == "ben (bbbbbbbb)"
        assert approved.approved_by(TEXT + " ") == "", "of this text, and of no other"
        assert 0 < await redis.pttl(draft_key(draft.id)) <= DRAFT_KEPT_MS, "it does not live longer for it"
        before = await dump(redis)
        assert await approve_draft(redis, draft.id, by=BEN, at_ms=8) == approved
        assert await dump(redis) == before
        assert [each.what for each in await changes(redis, 9)] == ["draft_approved", "draft_created"]

    run(server, story)


def test_a_key_of_the_author_approves_nothing(server: RedisServer) -> None:
    async def story(redis: Redis) -> None:
        draft = await drafted(redis)
        own = Approval(by=structs.replace(ANNA, name="other"), at_ms=1, sha256=draft.sha256)
        assert structs.replace(draft, approvals=(own,)).approved_by(TEXT) == ""

    run(server, story)


def test_publishing_a_draft_ends_it_and_names_everybody(server: RedisServer) -> None:
    async def story(redis: Redis) -> None:
        draft = await drafted(redis)
        source = Source(text=TEXT, draft=draft.id, publisher="cleo (cccccccc)", approved_by="ben (bbbbbbbb)")
        release = await put(redis, QUIETER, source=source)
        assert (release.author, release.approved_by) == ("anna (aaaaaaaa)", "ben (bbbbbbbb)")
        assert await redis.zcard(CATALOG_DRAFTS) == 0
        assert not [key for key in await redis.keys() if b"draft:" in key or b"draft_text:" in key]
        (change, *_) = await changes(redis, 9)
        assert change.who == "cleo (cccccccc)"
        assert change.details == {
            "release": 1,
            "catalog": "small",
            "note": "n",
            "draft": draft.id,
            "approved_by": "ben (bbbbbbbb)",
            "author": "anna (aaaaaaaa)",
        }
        await refused(redis, put(redis, QUIETER, source=source), Unknown, "draft_unknown")

    run(server, story)


def test_a_deleted_draft_is_gone(server: RedisServer) -> None:
    async def story(redis: Redis) -> None:
        draft = await drafted(redis)
        await delete_draft(redis, draft.id, by=BEN, at_ms=7)
        assert await redis.zcard(CATALOG_DRAFTS) == 0
        await refused(redis, draft_text(redis, draft.id), Unknown, "draft_unknown")
        await refused(redis, delete_draft(redis, draft.id, by=BEN, at_ms=8), Unknown, "draft_unknown")
        (change, *_) = await changes(redis, 9)
        assert (change.what, change.who, change.details["author"]) == (
            "draft_deleted",
            "ben (bbbbbbbb)",
            "anna (aaaaaaaa)",
        )

    run(server, story)


def test_the_oldest_draft_makes_room(server: RedisServer) -> None:
    async def story(redis: Redis) -> None:
        made = [await drafted(redis, text=f"{i}", at_ms=NOW_MS + i) for i in range(DRAFTS + 2)]
        kept = await list_drafts(redis)
        assert kept == made[:1:-1]
        assert len(kept) == DRAFTS
        await refused(redis, draft_text(redis, made[0].id), Unknown, "draft_unknown")
        (change, *_) = await changes(redis, 1)
        assert change.details["dropped"] == made[1].id
        late = await drafted(redis, at_ms=NOW_MS + DRAFT_KEPT_MS + 5000)
        assert [draft.id for draft in await list_drafts(redis)] == [late.id], "those too old are not listed"

    run(server, story)


def test_keys_are_in_the_trail(server: RedisServer) -> None:
    async def story(redis: Redis) -> None:
        _, record = await create_key(redis, "shop", ["decide"], 7, by="nbx up")
        await revoke_key(redis, record.id, 8)
        await revoke_key(redis, record.id, 9)
        details = {"key": record.id, "name": "shop", "scopes": "decide"}
        assert [(each.at_ms, each.who, each.what, each.details) for each in await changes(redis, 9)] == [
            (8, "operator", "key_revoked", details),
            (7, "nbx up", "key_created", details),
        ]

    run(server, story)


def test_a_missing_line_of_history_is_read_from_the_release(server: RedisServer) -> None:
    async def story(redis: Redis) -> None:
        release = await put(redis)
        await redis.delete(CATALOG_HISTORY)
        (head,) = await history(redis, 5)
        assert (head.number, head.diff) == (1, release.diff)
        assert decode_release(await packed_release(redis, 1)) == release

    run(server, story)
