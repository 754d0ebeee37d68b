from __future__ import annotations

import pytest

from nbx.errors import SetupError
from nbx.features.redis_url import parse_redis_url


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://cache.local", "redis://cache.local:6379/0"),
        ("redis://cache.local/", "redis://cache.local:6379/0"),
        ("redis://anna:p%40ss@cache.local:7000/3", "redis://cache.local:7000/3"),
        ("redis://:secret@[::1]:7000", "redis://[::1]:7000/0"),
        ("rediss://cache.local/1?ssl_cert_reqs=none", "rediss://cache.local:6379/1"),
        ("unix:///run/redis.sock?db=2", "unix:///run/redis.sock?db=2"),
        ("unix://anna:secret@/run/redis.sock", "unix:///run/redis.sock?db=0"),
    ],
)
def test_urls_are_read_and_shown_without_credentials(url: str, address: str) -> None:
    assert parse_redis_url(url).address == address


@pytest.mark.parametrize(
    ("url", "greeting"),
    [
        ("redis://cache.local", [("PING",)]),
        ("redis://:p%40s%2Fs@cache.local/2", [("AUTH", "p@s/s"), ("SELECT", 2), ("PING",)]),
        ("unix://anna:pw@/run/redis.sock?db=1", [("AUTH", "anna", "pw"), ("SELECT", 1), ("PING",)]),
    ],
)
def test_the_greeting_is_what_the_url_says(url: str, greeting: list[tuple[str | int, ...]]) -> None:
    assert parse_redis_url(url).greeting == greeting


@pytest.mark.parametrize(
    "url",
    [
        "",
        "cache.local:6379",
        "http://cache.local",
        "redis+cluster://cache.local",
        "redis://",
        "redis:///1",
        "redis://:s3cr@et@cache.local/x",
        "redis://:s3cret@cache.local:port",
        "redis://:s3cr/et@cache.local",
        "redis://anna:12/s3cret@cache.local",
        "redis://cache.local/-1",
        "redis://cache.local/0?s3cret=1",
        "redis://cache.local?db=3",
        "redis://cache.local?s3cret",
        "rediss://cache.local?ssl_cert_reqs=s3cret",
        "rediss://cache.local?ssl_ca_certs=/does/not/exist",
        "unix://",
        "unix://run/redis.sock",
        "unix:///run/redis.sock?db=s3cret",
        "unix:///run/redis.sock?timeout=3",
    ],
)
def test_malformed_urls_are_refused_without_showing_the_password(url: str) -> None:
    with pytest.raises(SetupError) as refused:
        parse_redis_url(url)
    assert refused.value.field == "redis_url"
    assert "s3cr" not in str(refused.value)
