"""The peer of the decide benchmark: a plain typed Litestar route that does one redis-py GET and one EVALSHA.

It decides nothing; it returns as many bytes as a decision. Run as `python -m benchmarks.plain_app PORT REDIS_URL
BYTES`.
"""

from __future__ import annotations

import sys

import msgspec
import uvicorn
from litestar import Litestar, post
from redis.asyncio import Redis

SCRIPT = """
redis.call('SET', KEYS[1], ARGV[1])
redis.call('XADD', KEYS[2], 'MAXLEN', '~', 1000, '*', 'e', ARGV[1])
return 1
"""


class Ask(msgspec.Struct):
    """A request like nbx's."""

    customer_id: str
    placement: str
    context: dict[str, float | str | bool] = {}


class Answer(msgspec.Struct):
    """A reply as long as nbx's."""

    decision_id: str
    content: str


def make_app(url: str, size: int) -> Litestar:
    """Build the app."""
    redis = Redis.from_url(url, max_connections=256)
    padding = "x" * (size - len('{"decision_id":"","content":""}') - 26)
    state = b"s" * 400
    sha = ""

    @post("/v1/decisions", status_code=200)
    async def decide(data: Ask) -> Answer:
        nonlocal sha
        if not sha:
            sha = await redis.script_load(SCRIPT)
        await redis.get(f"plain:c:{data.customer_id}")
        await redis.evalsha(sha, 2, f"plain:c:{data.customer_id}", "plain:log", state)
        return Answer(decision_id="0" * 26, content=padding)

    return Litestar([decide], logging_config=None, openapi_config=None)


if __name__ == "__main__":
    uvicorn.run(
        make_app(sys.argv[2], int(sys.argv[3])),
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_config=None,
        lifespan="off",
    )
