"""The process of a query: bounded in time and memory, gone with its asker, and told nothing of this installation."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from benchmarks.archived_log import PARTITIONS, Archive, history
from nbx.audit.decisions_found import Criteria
from nbx.audit.query_answer import Bounds
from nbx.audit.reading import Window
from nbx.errors import Invalid, NbxError, TooLarge, Unavailable, Unsupported
from nbx.runtime.querying import WORKER, Asked, QueryDesk, ask
from nbx.settings import Settings
from tests.service import eventually_async

START_MS = 1_767_225_600_000
EVER = Window(0, 1 << 50)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    archive = Archive(tmp_path_factory.mktemp("archive"))
    archive.add(history(30, START_MS))
    return archive.directory


def asked(directory: Path, sql: str = "", **more: Any) -> Asked:
    more = {"bounds": Bounds(), "redis_url": "", **more}
    return Asked(archive=str(directory), partitions=PARTITIONS, span=EVER, now_ms=START_MS, sql=sql, **more)


def children() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if WORKER in p.cmdline()]


def test_a_worker_answers_and_ends(directory: Path) -> None:
    said = msgspec.json.decode(asyncio.run(ask(asked(directory, "SELECT count(*) AS n FROM decisions"))))
    assert (said["columns"], said["rows"]) == ([{"name": "n", "type": "BIGINT"}], [[30]])
    assert children() == []


def test_what_is_wrong_comes_back_as_it_was_raised(directory: Path, tmp_path: Path) -> None:
    broken = tmp_path / "archive"
    broken.mkdir()
    (broken / "chain.jsonl").write_text("{}\n")
    with pytest.raises(Invalid) as caught:
        asyncio.run(ask(asked(directory, "SELECT nope FROM decisions")))
    assert (caught.value.code, caught.value.field) == ("sql_invalid", "sql")
    with pytest.raises(Unavailable):
        asyncio.run(ask(asked(directory, "SELECT 1", redis_url="redis://127.0.0.1:1")))
    with pytest.raises(Unsupported, match=r"chain\.jsonl"):
        asyncio.run(ask(asked(broken, "SELECT 1")))


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) FROM range(1000000000) a, range(1000000) b",
        "WITH RECURSIVE t AS (SELECT 1 AS a UNION ALL SELECT a + 1 FROM t) SELECT sum(a) FROM t",
        "SELECT list(range) FROM range(10000000000)",
        "SELECT repeat('x', 400000000) || range FROM range(1000)",
        "SELECT count(*) FROM range(100000000) WHERE regexp_matches(repeat('a', 1000 + range % 2), '(a*)*b')",
    ],
)
def test_a_bomb_harms_only_its_own_process(directory: Path, sql: str) -> None:
    with pytest.raises(TooLarge) as caught:
        asyncio.run(ask(asked(directory, sql, bounds=Bounds(seconds=1.5))))
    assert caught.value.code in ("query_late", "query_memory", "row_too_large")
    assert children() == []


def test_a_query_whose_asker_gives_up_is_killed(directory: Path) -> None:
    async def run() -> None:
        asking = asyncio.create_task(
            ask(asked(directory, "SELECT count(*) FROM range(1000000000) a, range(1000000) b"))
        )
        await eventually_async(lambda: bool(children()), 20.0, "the worker runs")
        asking.cancel()
        await asyncio.wait({asking})
        assert asking.cancelled()

    asyncio.run(run())
    assert children() == []


def test_a_worker_ends_when_its_asker_is_gone(directory: Path) -> None:
    question = asked(directory, "SELECT count(*) FROM range(1000000000) a, range(1000000) b")
    with subprocess.Popen([sys.executable, "-m", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdin is not None
        worker.stdin.write(msgspec.json.encode(question) + b"\n")
        worker.stdin.close()
        assert worker.wait(20) == 1


def test_one_query_at_a_time_and_a_few_searches_that_wait(directory: Path) -> None:
    settings = Settings(archive_dir=directory, partitions=PARTITIONS, redis_url="redis://127.0.0.1:1")
    desk = QueryDesk(settings)
    criteria = Criteria(customer="customer-1", until_ms=1 << 45)

    async def run() -> list[Any]:
        first = [desk.sql("SELECT 1", EVER, START_MS, Bounds()) for _ in range(2)]
        searches = [desk.find(criteria, EVER, START_MS, Bounds(seconds=0.1)) for _ in range(10)]
        return await asyncio.gather(*first, *searches, return_exceptions=True)

    told = asyncio.run(run())
    assert [error.code for error in told if isinstance(error, NbxError)].count("query_busy") == 1 + 2


def test_the_environment_of_a_worker_has_no_setting(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBX_REDIS_URL", "redis://:secret@127.0.0.1:1")

    async def run() -> dict[str, str]:
        asking = asyncio.create_task(
            ask(asked(directory, "SELECT count(*) FROM range(1000000000) a, range(1000000) b"))
        )
        await eventually_async(lambda: bool(children()), 20.0, "the worker runs")
        environment = children()[0].environ()
        asking.cancel()
        await asyncio.wait({asking})
        return environment

    environment = asyncio.run(run())
    assert not [name for name in environment if name.startswith("NBX_")]
    assert os.environ["NBX_REDIS_URL"]
