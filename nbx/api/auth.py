"""API keys: made and revoked in Redis, checked in memory.

A key is `nbx_<8 hex id>_<43 characters of secret>`; the secret is 256 random bits, and only its SHA-256 is stored. A
slow, salted hash (argon2, bcrypt) protects what can be guessed; 256 random bits cannot, and a hundred milliseconds per
check would only help whoever wants the service down.

Checking costs one dictionary look-up: a header that was verified once is remembered until the set of keys changes. Only
valid headers are remembered, so strangers cannot fill the memory. The look-up compares by Python's keyed hash first,
which an attacker's timing cannot climb digit by digit; the verification behind it hashes and uses `compare_digest`,
also when no such id exists. Every refusal reads alike: unknown id, wrong secret, revoked.

A *publishable* key has the scope `web` and no other: it stands in a page's source, so it opens only what
`nbx.api.browser` lets a browser do, and only pages of its origins.

Not here: polling `keys.KEYS_VERSION` and calling `replace` (the process does), rate limits, TLS.
"""

from __future__ import annotations

import re
import secrets
from hashlib import sha256
from hmac import compare_digest
from typing import TYPE_CHECKING, Literal, get_args

import msgspec
from msgspec import Struct
from redis.exceptions import WatchError

from nbx.errors import Forbidden, Invalid, NotReady, TooLarge, Unauthenticated, Unknown
from nbx.features import keys
from nbx.features.trail import Change, append
from nbx.limits import NAME_LENGTH, ORIGINS, TEXT_LENGTH

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from redis.asyncio import Redis

Scope = Literal["decide", "events", "catalog", "audit", "admin", "web"]
"""What a key may do; `admin` implies all others, `web` goes with none."""

SCOPES: tuple[Scope, ...] = get_args(Scope)
OPERATOR = "operator"
"""Who works on Redis directly, with `nbx keys`."""
REMEMBERED = 1024
"""Verified headers kept: more clients than that per worker just verify again, at about 1.5 µs."""

_SECRET_BYTES = 32
_SECRET_LENGTH = 43
_ID_LENGTH = 8
_NO_DIGEST = "0" * 64
_ORIGIN = re.compile(r"(?P<scheme>https?)://(?:[a-z0-9_.-]+|\[[0-9a-f:.]+\])(?P<port>:\d{1,5})?")
_REFUSED = "the API key is not valid: it is unknown, misspelt or revoked"
_MISSING = "an API key is needed: send the header `Authorization: Bearer nbx_…`"


class KeyRecord(Struct, frozen=True, kw_only=True):
    """What is stored of an API key; the secret itself is not."""

    id: str
    """8 hex digits, part of the key's text: fit for logs."""
    name: str
    """Whose it is, as told at creation."""
    scopes: tuple[Scope, ...]
    sha256: str
    """Hex digest of the secret."""
    created_ms: int
    revoked_ms: int | None = None
    """Milliseconds since the epoch, or None while in force."""
    origins: tuple[str, ...] = ()
    """Whose pages may use a publishable key, as browsers send it; empty: pages of the service's own origin."""

    @property
    def is_publishable(self) -> bool:
        """It may stand in a page's source."""
        return self.scopes == ("web",)

    @property
    def is_anyone(self) -> bool:
        """It stands for whoever calls while authentication is off."""
        return self.sha256 == _NO_DIGEST


_decoder = msgspec.json.Decoder(KeyRecord)
_ANYONE = KeyRecord(id="open", name="authentication is off", scopes=("admin",), sha256=_NO_DIGEST, created_ms=0)


async def create_key(
    redis: Redis, name: str, scopes: Sequence[str], now_ms: int, by: str = OPERATOR, origins: Sequence[str] = ()
) -> tuple[str, KeyRecord]:
    """Make and store a key.

    Parameters
    ----------
    redis
        Any redis-py client of the store.
    name
        Whose key it is, 1…`limits.NAME_LENGTH` printable characters.
    scopes
        Names from `SCOPES`, at least one; repeated names count once.
    now_ms
        Time of creation.
    by
        Who makes it, for the admin trail.
    origins
        Of a publishable key: at most `limits.ORIGINS` such as `https://shop.example`; repeated ones count once.

    Returns
    -------
    tuple
        The key's text, which cannot be shown again, and its record.

    Raises
    ------
    Invalid
        `name`, `scopes[i]` or `origins[i]` is wrong; the field is named and nothing is written.
    """
    if not name or len(name) > NAME_LENGTH or not name.isprintable():
        raise Invalid(f"name must have 1 to {NAME_LENGTH} printable characters", field="name")
    granted = checked_scopes(scopes)
    allowed = checked_origins(origins, granted)
    while True:
        secret = secrets.token_urlsafe(_SECRET_BYTES)
        record = KeyRecord(
            id=secrets.token_hex(_ID_LENGTH // 2),
            name=name,
            scopes=granted,
            sha256=_digest(secret.encode()),
            created_ms=now_ms,
            origins=allowed,
        )
        if await _store(redis, record, Change(at_ms=now_ms, who=by, what="key_created", details=_details(record))):
            return f"nbx_{record.id}_{secret}", record


async def list_keys(redis: Redis) -> list[KeyRecord]:
    """All keys, revoked ones too, oldest first."""
    values = await redis.hvals(keys.KEYS)
    return sorted((_decoder.decode(value) for value in values), key=lambda record: (record.created_ms, record.id))


async def revoke_key(redis: Redis, key_id: str, now_ms: int, by: str = OPERATOR) -> KeyRecord:
    """End a key for good; a key revoked before keeps its first time.

    Raises
    ------
    Unknown
        There is no key with this id.
    """
    value = await redis.hget(keys.KEYS, key_id)
    if value is None:
        raise Unknown(f"there is no API key with the id {key_id!r}", field="key_id", code="key_unknown")
    record = _decoder.decode(value)
    if record.revoked_ms is None:
        record = msgspec.structs.replace(record, revoked_ms=now_ms)
        await _store(redis, record, Change(at_ms=now_ms, who=by, what="key_revoked", details=_details(record)))
    return record


def checked_scopes(scopes: Sequence[str]) -> tuple[Scope, ...]:
    """Return the scopes in the order of `SCOPES`.

    Raises
    ------
    Invalid
        None is given, one is not a scope, or `web` is not alone; names the field.

    Examples
    --------
    >>> checked_scopes(["events", "decide", "events"])
    ('decide', 'events')
    """
    if not scopes:
        raise Invalid(f"scopes is empty: give one or more of {', '.join(SCOPES)}", field="scopes")
    for i, scope in enumerate(scopes):
        if scope not in SCOPES:
            raise Invalid(f"{scope!r} is not a scope: use {', '.join(SCOPES)}", field=f"scopes[{i}]")
    if "web" in scopes and set(scopes) != {"web"}:
        raise Invalid("a key with the scope web is seen by everybody: it can have no other scope", field="scopes")
    return tuple(scope for scope in SCOPES if scope in scopes)


def checked_origins(origins: Sequence[str], scopes: Sequence[str]) -> tuple[str, ...]:
    """Return origins as browsers write them, each once, in their order.

    Raises
    ------
    Invalid, TooLarge
        The key is not publishable, there are too many, or one is no origin; names the field.

    Examples
    --------
    >>> checked_origins(["https://Shop.example/", "http://localhost:8000", "https://shop.example:443"], ["web"])
    ('https://shop.example', 'http://localhost:8000')
    """
    if origins and "web" not in scopes:
        raise Invalid("origins go with the scope web: browsers use no other key", field="origins")
    if len(origins) > ORIGINS:
        raise TooLarge(f"{len(origins)} origins, at most {ORIGINS} are allowed", field="origins")
    checked = []
    for i, origin in enumerate(origins):
        found = _ORIGIN.fullmatch(origin.lower().removesuffix("/"))
        if found is None or len(origin) > TEXT_LENGTH:
            raise Invalid(
                f"{origin[:200]!r} is no origin: write scheme and host, and the port when there is one, such as "
                "https://shop.example or http://localhost:8000; there is no wildcard",
                field=f"origins[{i}]",
            )
        usual = {"https": ":443", "http": ":80"}[found["scheme"]]
        checked.append(found[0].removesuffix(usual) if found["port"] == usual else found[0])
    return tuple(dict.fromkeys(checked))


class KeyRing:
    """The keys in force, in memory.

    Parameters
    ----------
    records
        As from `list_keys`; revoked ones are left out. None: not read yet, and then no key is refused as unknown.
    is_open
        Whether authentication is off: every check passes, with or without a header.
    """

    def __init__(self, records: Iterable[KeyRecord] | None = (), *, is_open: bool = False) -> None:
        self.is_open = is_open
        self.replace(records or ())
        self.is_known = is_open or records is not None

    def replace(self, records: Iterable[KeyRecord]) -> None:
        """Swap the set of keys; what was verified before is verified anew."""
        in_force = {record.id: record for record in records if record.revoked_ms is None}
        self._in_force, self._verified, self.is_known = in_force, dict[bytes | str, KeyRecord](), True
        self.origins = frozenset(origin for record in in_force.values() for origin in record.origins)
        """Origins that some publishable key in force lets in."""

    def check(self, authorization: str | bytes | None, scope: Scope) -> KeyRecord:
        """Return the record of the key in an `Authorization` header when it grants `scope`.

        Parameters
        ----------
        authorization
            The header's value, None when it was not sent. About 0.15 µs for one seen before, 1.5 µs otherwise.
        scope
            What is about to be done.

        Raises
        ------
        Unauthenticated
            No header, or no valid key in it.
        Forbidden
            The key is valid but lacks the scope.
        NotReady
            The keys were not read yet.
        """
        if self.is_open:
            return _ANYONE
        if authorization is None:
            raise Unauthenticated(_MISSING)
        record = self._verified.get(authorization)
        if record is None:
            record = self._verify(authorization)
        granted = record.scopes
        if scope in granted or "admin" in granted:
            return record
        if record.is_publishable:
            raise Forbidden(
                f"the publishable key {record.id} lets pages decide and send events, and nothing else (no {scope!r})"
            )
        raise Forbidden(f"the API key {record.id} has no scope {scope!r}, only {', '.join(granted)}")

    def holder(self, authorization: str | bytes | None) -> KeyRecord:
        """Return the record of the key in an `Authorization` header, whatever it grants.

        Raises
        ------
        Unauthenticated
            No header, or no valid key in it.
        NotReady
            The keys were not read yet.
        """
        if self.is_open:
            return _ANYONE
        if authorization is None:
            raise Unauthenticated(_MISSING)
        return self._verified.get(authorization) or self._verify(authorization)

    def must_be_known(self) -> None:
        """Raise `NotReady` while nothing can be said about any key: a caller whose key is good asks again."""
        if not self.is_known:
            raise NotReady("the API keys are not read yet: the process has just started, or Redis is away")

    def _verify(self, authorization: str | bytes) -> KeyRecord:
        self.must_be_known()
        in_force, verified = self._in_force, self._verified
        raw = authorization if isinstance(authorization, bytes) else authorization.encode(errors="surrogatepass")
        scheme, _, token = raw.partition(b" ")
        if scheme.lower() != b"bearer":
            raise Unauthenticated(_MISSING)
        prefix, _, rest = token.strip(b" ").partition(b"_")
        key_id, _, secret = rest.partition(b"_")
        record = in_force.get(key_id.decode("latin-1"))
        digest = record.sha256 if record is not None else _NO_DIGEST
        # always hashed and compared, so that the time does not tell whether the id exists
        matches = compare_digest(_digest(secret), digest)
        if record is None or not matches or prefix != b"nbx" or len(secret) != _SECRET_LENGTH:
            raise Unauthenticated(_REFUSED)
        if len(verified) >= REMEMBERED:
            verified.clear()
        verified[authorization] = record
        return record


def open_ring() -> KeyRing:
    """Return a ring for running without authentication."""
    return KeyRing(is_open=True)


def _digest(secret: bytes) -> str:
    return sha256(secret).hexdigest()


def _details(record: KeyRecord) -> dict[str, str | int]:
    origins = {"origins": ", ".join(record.origins)} if record.origins else {}
    return {"key": record.id, "name": record.name, "scopes": ", ".join(record.scopes), **origins}


async def _store(redis: Redis, record: KeyRecord, change: Change) -> bool:
    """Write a record with its entry in the admin trail and bump the version; False when a new key's id is taken."""
    async with redis.pipeline(transaction=True) as transaction:
        await transaction.watch(keys.KEYS)
        if change.what == "key_created" and await transaction.hexists(keys.KEYS, record.id):
            return False
        transaction.multi()  # type: ignore[no-untyped-call] # redis-py
        transaction.hset(keys.KEYS, record.id, msgspec.json.encode(record))
        transaction.incr(keys.KEYS_VERSION)
        append(transaction, change)
        try:
            await transaction.execute()
        except WatchError:
            return await _store(redis, record, change)
    return True
