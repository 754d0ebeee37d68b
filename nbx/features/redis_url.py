"""Redis URLs, read strictly: redis-py's reader ignores a database that is no number and options it does not know."""

from __future__ import annotations

import ssl
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from nbx.errors import SetupError

_FORM = (
    "use redis://[user:password@]host[:port][/db], rediss://… or unix://[user:password@]/path[?db=0],"
    " and percent-encode special characters of user and password"
)
_TLS_OPTIONS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs")


class RedisTarget(NamedTuple):
    """Where one Redis is and how to be let in."""

    address: str
    """The URL without credentials: fit for messages."""
    path: str
    """Of the unix socket; "" for TCP."""
    host: str
    port: int
    db: int
    user: str
    password: str
    tls: ssl.SSLContext | None

    @property
    def greeting(self) -> list[tuple[str | int, ...]]:
        """Commands that open every connection; PING proves that the server serves."""
        commands: list[tuple[str | int, ...]] = []
        if self.password:
            commands.append(("AUTH", self.user, self.password) if self.user else ("AUTH", self.password))
        if self.db:
            commands.append(("SELECT", self.db))
        return [*commands, ("PING",)]


def parse_redis_url(url: str) -> RedisTarget:
    """Read a URL of one Redis.

    Parameters
    ----------
    url
        `redis://[user:password@]host[:port][/db]`, `rediss://…` with the options `ssl_ca_certs`, `ssl_certfile`,
        `ssl_keyfile` and `ssl_cert_reqs=none|required`, or `unix://[user:password@]/path[?db=0]`.

    Raises
    ------
    SetupError
        The URL is malformed, has an unknown option, or names a TLS file that cannot be used. The text never shows the
        password, nor what might be a piece of one.

    Examples
    --------
    >>> parse_redis_url("redis://:secret@cache.local/3").address
    'redis://cache.local:6379/3'
    """
    try:
        parts = urlsplit(url)
        port = parts.port or 6379
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        path = unquote(parts.path) if parts.scheme == "unix" else ""
        db = int(options.pop("db", "0") if path else parts.path.removeprefix("/") or 0)
    except ValueError:  # its text may quote a piece of the password
        raise SetupError(f"the Redis URL is malformed: {_FORM}", field="redis_url") from None
    # a socket has a path and no host (`unix://run/redis.sock` lacks a slash), TCP the other way round
    if parts.scheme not in {"redis", "rediss", "unix"} or bool(path) == bool(parts.hostname) or db < 0:
        raise SetupError(f"the Redis URL is malformed: {_FORM}", field="redis_url")
    known = _TLS_OPTIONS if parts.scheme == "rediss" else ()
    if not options.keys() <= set(known):
        allowed = ", ".join(("db",) if path else known) or "none"
        raise SetupError(f"the Redis URL has an unknown option: allowed are {allowed}", field="redis_url")
    host = parts.hostname or ""
    shown = f"[{host}]" if ":" in host else host
    return RedisTarget(
        address=f"unix://{path}?db={db}" if path else f"{parts.scheme}://{shown}:{port}/{db}",
        path=path,
        host=host,
        port=port,
        db=db,
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        tls=_tls(options) if parts.scheme == "rediss" else None,
    )


def _tls(options: dict[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
        if "ssl_certfile" in options:
            context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    except OSError as error:
        raise SetupError(f"a TLS file named in the Redis URL cannot be used: {error}", field="redis_url") from None
    requirement = options.get("ssl_cert_reqs", "required")
    if requirement not in {"none", "required"}:
        raise SetupError("ssl_cert_reqs in the Redis URL must be none or required", field="redis_url")
    if requirement == "none":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
