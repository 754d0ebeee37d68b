from __future__ import annotations

import asyncio
import timeit
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec
import pytest
from redis.asyncio import Redis

from nbx.api import auth
from nbx.api.auth import SCOPES, KeyRecord, KeyRing, create_key, list_keys, open_ring, revoke_key
from nbx.errors import Forbidden, Invalid, NotReady, Unauthenticated, Unknown
from nbx.features import keys
from tests.redis_server import SERVERS, RedisServer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from nbx.api.auth import Scope

SECRET = "s" * 43
TOKEN = f"nbx_0123abcd_{SECRET}"


def record_of(*scopes: Scope, secret: str = SECRET, **changes: object) -> KeyRecord:
    record = KeyRecord(
        id="0123abcd", name="shop", scopes=scopes, sha256=sha256(secret.encode()).hexdigest(), created_ms=1
    )
    return msgspec.structs.replace(record, **changes)


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


def test_a_created_key_opens_what_it_was_made_for(server: RedisServer) -> None:
    async def story(redis: Redis) -> None:
        token, record = await create_key(redis, "shop", ["events", "decide"], 7)
        prefix, key_id, secret = token.split("_", 2)
        assert (prefix, key_id, len(secret)) == ("nbx", record.id, 43)
        assert len(key_id) == 8
        assert record.scopes == ("decide", "events")
        assert (record.created_ms, record.revoked_ms) == (7, None)
        assert await list_keys(redis) == [record]
        stored = await redis.hget(keys.KEYS, record.id)
        assert isinstance(stored, bytes)
        assert secret.encode() not in stored
        ring = KeyRing(await list_keys(redis))
        assert ring.check(f"Bearer {token}", "decide") == record
        with pytest.raises(Forbidden):
            ring.check(f"Bearer {token}", "audit")

    run(server, story)


def test_every_change_bumps_the_version(server: RedisServer) -> None:
    async def story(redis: Redis) -> None:
        _, record = await create_key(redis, "a", ["admin"], 1)
        assert await redis.get(keys.KEYS_VERSION) == b"1"
        await revoke_key(redis, record.id, 2)
        assert await redis.get(keys.KEYS_VERSION) == b"2"
        await create_key(redis, "b", ["admin"], 3)
        assert await redis.get(keys.KEYS_VERSION) == b"3"

    run(server, story)


def test_keys_are_listed_oldest_first(server: RedisServer) -> None:
    async def story(redis: Redis) -> None:
        assert await list_keys(redis) == []
        for created_ms in (5, 3, 9, 1):
            await create_key(redis, f"at {created_ms}", ["decide"], created_ms)
        assert [record.created_ms for record in await list_keys(redis)] == [1, 3, 5, 9]

    run(server, story)


def test_a_revoked_key_is_refused_and_keeps_its_first_time(server: RedisServer) -> None:
    async def story(redis: Redis) -> None:
        token, record = await create_key(redis, "shop", ["decide"], 1)
        ring = KeyRing(await list_keys(redis))
        assert ring.check(f"Bearer {token}", "decide")
        assert (await revoke_key(redis, record.id, 50)).revoked_ms == 50
        assert (await revoke_key(redis, record.id, 60)).revoked_ms == 50
        ring.replace(await list_keys(redis))
        with pytest.raises(Unauthenticated):
            ring.check(f"Bearer {token}", "decide")

    run(server, story)


def test_revoking_an_unknown_key_names_the_field(server: RedisServer) -> None:
    async def story(redis: Redis) -> None:
        with pytest.raises(Unknown) as refused:
            await revoke_key(redis, "ffffffff", 1)
        assert refused.value.field == "key_id"
        assert await redis.dbsize() == 0

    run(server, story)


@pytest.mark.parametrize(
    ("name", "scopes", "field"),
    [
        ("", ["decide"], "name"),
        ("x" * 65, ["decide"], "name"),
        ("a\nb", ["decide"], "name"),
        ("shop", [], "scopes"),
        ("shop", ["decide", "root"], "scopes[1]"),
        ("shop", ["Decide"], "scopes[0]"),
    ],
)
def test_wrong_keys_name_the_field_and_write_nothing(
    server: RedisServer, name: str, scopes: list[str], field: str
) -> None:
    async def story(redis: Redis) -> None:
        with pytest.raises(Invalid) as refused:
            await create_key(redis, name, scopes, 1)
        assert refused.value.field == field
        assert await redis.dbsize() == 0

    run(server, story)


def test_a_publishable_key_keeps_its_origins_and_opens_nothing_by_itself(server: RedisServer) -> None:
    async def story(redis: Redis) -> None:
        origins = ["https://Shop.example/", "http://localhost:8000", "https://shop.example:443", "http://[::1]:80"]
        token, record = await create_key(redis, "shop", ["web"], 7, origins=origins)
        assert record.origins == ("https://shop.example", "http://localhost:8000", "http://[::1]")
        assert record.is_publishable
        _, other = await create_key(redis, "desk", ["decide"], 8)
        assert not other.is_publishable
        ring = KeyRing(await list_keys(redis))
        assert ring.origins == set(record.origins)
        assert ring.holder(f"Bearer {token}") == record
        for scope in SCOPES:
            if scope != "web":
                with pytest.raises(Forbidden, match="publishable"):
                    ring.check(f"Bearer {token}", scope)
        await revoke_key(redis, record.id, 9)
        ring.replace(await list_keys(redis))
        assert ring.origins == set()

    run(server, story)


@pytest.mark.parametrize(
    ("scopes", "origins", "field"),
    [
        (["web", "events"], [], "scopes"),
        (["admin", "web"], [], "scopes"),
        (["decide"], ["https://shop.example"], "origins"),
        (["web"], ["https://shop.example"] * 101, "origins"),
        *[
            (["web"], ["https://shop.example", wrong], "origins[1]")
            for wrong in (
                "*",
                "null",
                "",
                "shop.example",
                "https://*.shop.example",
                "https://shop.example/path",
                "https://user@shop.example",
                "https://shop.example:123456",
                "ftp://shop.example",
                "https://",
                "https://shop.example\n",
                "https://" + "x" * 2000,
            )
        ],
    ],
)
def test_wrong_origins_name_the_field_and_write_nothing(
    server: RedisServer, scopes: list[str], origins: list[str], field: str
) -> None:
    async def story(redis: Redis) -> None:
        with pytest.raises(Invalid) as refused:
            await create_key(redis, "shop", scopes, 1, origins=origins)
        assert refused.value.field == field
        assert await redis.dbsize() == 0

    run(server, story)


def test_keys_stored_before_there_were_origins_are_read(server: RedisServer) -> None:
    async def story(redis: Redis) -> None:
        _, record = await create_key(redis, "shop", ["decide"], 7)
        packed = await redis.hget(keys.KEYS, record.id)
        assert packed is not None
        stored = msgspec.json.decode(packed)
        del stored["origins"]
        await redis.hset(keys.KEYS, record.id, msgspec.json.encode(stored))
        assert await list_keys(redis) == [record]

    run(server, story)


def test_a_taken_id_is_not_overwritten(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = iter(["aaaaaaaa", "aaaaaaaa", "bbbbbbbb"])
    monkeypatch.setattr("nbx.api.auth.secrets.token_hex", lambda _: next(ids))

    async def story(redis: Redis) -> None:
        made = [await create_key(redis, name, ["decide"], 1) for name in ("first", "second")]
        assert await list_keys(redis) == [record for _, record in made]
        ring = KeyRing(await list_keys(redis))
        assert [ring.check(f"Bearer {token}", "decide").name for token, _ in made] == ["first", "second"]

    run(server, story)


def test_the_header_may_be_text_or_bytes() -> None:
    ring = KeyRing([record_of("decide")])
    for header in (f"Bearer {TOKEN}", f"bearer {TOKEN}", f"BEARER   {TOKEN} ", f"Bearer {TOKEN}".encode()):
        for _ in range(2):  # verified, then remembered
            assert ring.check(header, "decide").id == "0123abcd"


def test_admin_implies_all_scopes_and_the_others_only_themselves() -> None:
    for held in SCOPES:
        ring = KeyRing([record_of(held)])
        for needed in SCOPES:
            if held in {needed, "admin"}:
                assert ring.check(f"Bearer {TOKEN}", needed)
            else:
                with pytest.raises(Forbidden, match=needed):
                    ring.check(f"Bearer {TOKEN}", needed)


WRONG: list[str | bytes] = [
    f"Bearer nbx_0123abcd_{'t' * 43}",
    f"Bearer nbx_0123abcd_{SECRET}s",
    f"Bearer nbx_0123abcd_{SECRET[:-1]}",
    f"Bearer nbx_0123abcf_{SECRET}",
    f"Bearer nbx_0123ABCD_{SECRET}",
    f"Bearer nbz_0123abcd_{SECRET}",
    f"Bearer {SECRET}",
    "Bearer nbx_0123abcd_",
    "Bearer nbx__",
    "Bearer ",
    f"Bearer nbx_0123abcd_{'é' * 43}",
    "Bearer nbx_\udcff_x",
    b"Bearer \xff\x00_\xfe_",
]


def test_no_key_is_refused_before_the_keys_are_read() -> None:
    ring, header = KeyRing(None), f"Bearer {TOKEN}"
    for ask in (lambda: ring.check(header, "decide"), lambda: ring.holder(header), ring.must_be_known):
        with pytest.raises(NotReady):
            ask()
    ring.replace([record_of("decide")])
    assert ring.check(header, "decide") == ring.holder(header)
    ring.replace([])
    with pytest.raises(Unauthenticated):
        ring.check(header, "decide")
    assert KeyRing(None, is_open=True).check(header, "decide")


@pytest.mark.parametrize("header", WRONG)
def test_refusals_read_alike(header: str | bytes) -> None:
    ring = KeyRing([record_of("admin")])
    with pytest.raises(Unauthenticated) as refused:
        ring.check(header, "decide")
    with pytest.raises(Unauthenticated) as of_nobody:
        KeyRing().check(header, "decide")
    with pytest.raises(Unauthenticated) as of_revoked:
        KeyRing([record_of("admin", revoked_ms=5)]).check(f"Bearer {TOKEN}", "decide")
    assert refused.value.message == of_nobody.value.message == of_revoked.value.message
    assert "s" * 20 not in refused.value.message


@pytest.mark.parametrize("header", [None, "", b"", TOKEN, f"Basic {TOKEN}", f"Bearer{TOKEN}"])
def test_without_a_bearer_header_the_way_in_is_told(header: str | bytes | None) -> None:
    with pytest.raises(Unauthenticated, match="Authorization: Bearer"):
        KeyRing([record_of("admin")]).check(header, "decide")


def test_a_record_whose_digest_is_of_a_shorter_secret_is_refused() -> None:
    short = "short"
    ring = KeyRing([record_of("decide", secret=short)])
    with pytest.raises(Unauthenticated):
        ring.check("Bearer nbx_0123abcd_short", "decide")


def test_replacing_forgets_what_was_verified() -> None:
    ring = KeyRing([record_of("decide")])
    assert ring.check(f"Bearer {TOKEN}", "decide").name == "shop"
    ring.replace([record_of("audit", name="renamed")])
    assert ring.check(f"Bearer {TOKEN}", "audit").name == "renamed"
    ring.replace([])
    with pytest.raises(Unauthenticated):
        ring.check(f"Bearer {TOKEN}", "audit")


def test_memory_is_bounded_and_holds_valid_headers_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "REMEMBERED", 8)
    ring = KeyRing([record_of("decide")])
    for spaces in range(1, 100):
        ring.check(f"Bearer{' ' * spaces}{TOKEN}", "decide")
        assert len(ring._verified) <= 8
    ring.replace([record_of("decide")])
    for header in WRONG:
        with pytest.raises(Unauthenticated):
            ring.check(header, "decide")
    assert not ring._verified


def test_the_open_ring_accepts_everything() -> None:
    ring = open_ring()
    assert ring.is_open
    for scope in SCOPES:
        assert ring.check(None, scope) == ring.check("Bearer nonsense", scope)
    ring.replace([record_of("decide")])
    assert ring.check(None, "admin").id == "open"


def test_a_remembered_header_costs_little() -> None:
    ring = KeyRing([record_of("decide", "events")])
    headers = [f"Bearer {TOKEN}".encode() for _ in range(100)]  # as a server makes them: equal, not the same

    def check_all() -> None:
        for header in headers:
            ring.check(header, "events")

    best = min(timeit.repeat(check_all, number=20, repeat=20)) / (20 * len(headers))
    assert best < 5e-6  # 0.15 µs where it was written; the room is for a busy machine
