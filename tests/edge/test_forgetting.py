"""Erasing to the end on a running service: afterwards no byte of any file, and none of Redis, names the customer."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from nbx.audit.chain import Chain, Record, file_hash, read_records
from nbx.audit.segments import read_entries
from nbx.audit.verify import verify
from nbx.audit.whole_log import WholeLog
from nbx.experience.entries import AliasEntry, DecisionEntry, Entry, decode_entry, encode_entry
from nbx.features.connection import RedisConnection
from nbx.features.keys import PSEUDONYM_KEY, partition_keys
from nbx.features.state import decode_state, encode_state
from nbx.features.store_redis import RedisStore
from nbx.hashing import pseudonym
from nbx.ids import partition_of
from tests.edge.test_cli import nbx
from tests.service import Running, eventually, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WITHIN_S = 25.0
GONE = "Person-Who-Goes"
ALIAS = "Cookie.Of.Hers"
SHARED = "Kiosk That Goes"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Archive every second, and keep nothing of it in Redis."""
    with running(
        tmp_path_factory.mktemp("forgetting"), archive_interval_s=1, log_keep_s=0, erased_keep_s=1, request_ttl_s=600
    ) as started:
        yield started


def test_nothing_names_an_erased_customer_and_the_others_are_as_they_were(service: Running, tmp_path: Path) -> None:
    for customer in ("someone", GONE, ALIAS, SHARED, "another"):
        live(service, customer)
    assert service.http.post(f"/v1/customers/{GONE}/aliases", json={"alias": ALIAS}).status_code == 200
    live(service, ALIAS, "merged")
    claimed(service, "someone", SHARED)
    segments = eventually(lambda: len(archived(service)), WITHIN_S, "something is archived")
    assert segments
    names = (GONE, ALIAS, SHARED)
    kept = {customer: seen_of(service, customer) for customer in ("someone", "another")}
    eventually(lambda: set(found_in_files(service, names)) == set(names), WITHIN_S, "all are in some file")
    exported(service, tmp_path / "all.json")
    erased = nbx(service, "customer", "erase", GONE, "--yes", "--json").json()
    waited = nbx(service, "customer", "erase", SHARED, "--yes", "--wait", "--json")
    other = waited.json()
    assert (waited.code, other["status"]) == (0, "done")
    receipts = [
        done(service, each) for each in (erased["erasure_id"], other["erasure_id"], *erased["aliases"].values())
    ]

    assert [name for name in names if name in str(receipts)] == []
    assert all(receipt["rows"] >= 3 and receipt["segments"] >= 1 for receipt in receipts)
    first = receipts[0]
    assert first["at_ms"] <= first["forgotten_ms"] <= first["rewritten_ms"] <= first["named_ms"] <= first["done_ms"]
    assert any("declined" in words for receipt in receipts for words in receipt["forgot"])
    assert not any("until the erasure is done" in words for words in first["remains"])
    found = found_in_redis(service, names)
    assert found == []
    verified = verify(service.settings.archive_path, rows=True, patience_s=5.0)
    assert verified.faults == ()
    eventually(lambda: not found_in_files(service, names), WITHIN_S, "no file names them")

    assert {customer: seen_of(service, customer) for customer in kept} == kept
    chain = Chain.open(service.settings.archive_path)
    assert all(file_hash(chain.directory / r.file) == r.sha256 for r in chain.segments.values())
    records = [record for _, record in read_records(chain.directory) if isinstance(record, Record)]
    rewrites = [record for record in records if record.kind == "rewrite"]  # a later one may stand for an earlier
    assert {id_ for record in rewrites for id_ in record.why["erasure"].split(",")} == {
        r["erasure_id"] for r in receipts
    }
    trail = nbx(service, "log", "changes", "--json").json()
    assert [each["what"] for each in trail].count("erasure_done") == 3
    (asked,) = [e for e in trail if e["what"] == "customer_erased" and e["details"]["erasure"] == erased["erasure_id"]]
    assert asked["details"]["customer"] == first["customer_id"] == pseudonym(service.redis.get(PSEUDONYM_KEY), GONE)
    merged, sent = ([e for e in trail if e["what"] == what] for what in ("customer_merged", "customer_exported"))
    assert [e["details"]["customer"] for e in (*merged, *sent)] == [first["customer_id"]] * 2
    assert service.decide(GONE)["degraded"] == [], "a new life"


def live(service: Running, customer: str, when: str = "first") -> None:
    """Decide, answer, and say who one is in free text."""
    for number in range(3):
        reply = service.decide(customer, "desk", request_id=f"{when}-{number}")
        if reply["slots"][0].get("action"):
            event = {"decision_id": reply["decision_id"], "text": f"I am {customer}", "customer_id": customer}
            (result,) = service.record({"event_id": f"{customer}:{reply['decision_id']}", "type": "declined", **event})
            assert result["status"] == "accepted", result
    service.record({"event_id": f"{customer}-came-{when}", "type": "page_view", "customer_id": customer})


def claimed(service: Running, customer: str, alias: str) -> None:
    """Leave a claim that came to nothing in a customer's log and state, as a crash in the middle of a merge does."""
    keys = partition_keys(partition_of(customer, service.settings.partitions))
    packed = service.redis.get(keys.customer(customer))
    state = decode_state(packed[8:])
    state.aliases[alias] = -1
    entry = AliasEntry(customer_id=customer, at_ms=1, release=1, alias=alias, by="test")
    service.redis.xadd(keys.log, {"e": encode_entry(entry)})
    version = int.from_bytes(packed[:8], "big") + 1
    service.redis.set(keys.customer(customer), version.to_bytes(8, "big") + encode_state(state))


def done(service: Running, erasure_id: str) -> Any:
    """Wait until the receipt says that nothing is left."""

    def look() -> Any:
        receipt = service.http.get(f"/v1/erasures/{erasure_id}").json()
        return receipt if receipt["status"] == "done" else None

    return eventually(look, WITHIN_S, "the erasure is done")


def exported(service: Running, file: Path) -> None:
    """Export the customer; it must hold everything the log does, under both ids, and what is kept besides."""
    assert nbx(service, "customer", "export", ALIAS, "--out", str(file)).code == 0
    told = json.loads(file.read_bytes())
    assert told["customer_ids"] == [GONE, ALIAS]
    mine = [entry for entry in whole_log(service) if entry.customer_id in (GONE, ALIAS)]
    assert len(told["log"]) == len(mine) > 10
    assert {each["what"] for each in told["log"]} >= {"decision", "event", "alias", "moved", "absorb"}
    decided = [each for each in told["log"] if each["what"] == "decision"]
    assert {each["decision_id"] for each in decided} == {e.decision_id for e in mine if isinstance(e, DecisionEntry)}
    chances = [candidate["probability"] for each in decided for candidate in each["candidates"]]
    assert chances
    assert all(0.0 <= chance <= 1.0 for chance in chances)
    assert any(f"I am {ALIAS}" in str(each) for each in told["log"])
    assert told["state"][GONE]["aliases"].keys() == {ALIAS}
    kept = told["decisions"]
    assert any("learned" in each for each in kept)
    assert any(each.get("reply", {}).get("decision_id") == each["decision_id"] for each in kept)
    hidden = file.with_suffix(".parquet")
    view = ("--format", "parquet", "--view", "log", "--pseudonyms")
    assert nbx(service, "log", "export", str(hidden), *view).code == 0
    table = pq.read_table(hidden)
    assert [name for name in (GONE, ALIAS, SHARED) if name in str(table.to_pydict())] == []
    name = nbx(service, "customer", "pseudonym", GONE).out.strip()
    mine = [entry for entry in whole_log(service) if entry.customer_id == GONE]
    assert table.column("customer_id").to_pylist().count(name) == len(mine)
    refused = nbx(service, "log", "export", str(hidden), "--format", "parquet", "--sql", "SELECT 1", "--pseudonyms")
    assert (refused.code, "--view" in refused.err) == (2, True)
    unknown = nbx(service, "customer", "export", "nobody")
    assert (unknown.code, "nobody" in unknown.err) == (1, True)


def archived(service: Running) -> dict[int, Any]:
    return Chain.open(service.settings.archive_path).segments


def seen_of(service: Running, customer: str) -> Any:
    """Return what is known of a customer: its report without ages, and its log from archive and stream."""
    report = service.http.get(f"/v1/customers/{customer}").json()
    return (
        report["customer_id"],
        report.get("outcomes"),
        [e for e in whole_log(service) if e.customer_id == customer and not isinstance(e, AliasEntry)],
    )


def whole_log(service: Running) -> list[Entry]:
    async def read() -> list[Entry]:
        connection = RedisConnection(service.settings.effective_redis_url)
        await connection.connect()
        try:
            whole = WholeLog(RedisStore(connection), service.settings.archive_path)
            pages = [await whole.log_range(p, "-", "+", 100_000) for p in range(service.settings.partitions)]
        finally:
            await connection.close()
        return [decode_entry(row.payload) for page in pages for row in page]

    return asyncio.run(read())


def found_in_files(service: Running, names: tuple[str, ...]) -> dict[str, list[Path]]:
    """Return by name the files below the data directory that hold it, plain or packed."""
    found: dict[str, list[Path]] = {}
    for path in service.data_dir.rglob("*"):
        try:
            content = path.read_bytes() if path.is_file() else b""
        except FileNotFoundError:  # a rewrite has just replaced it
            continue
        if path.suffix == ".parquet":
            try:
                content += repr(pq.read_table(path).to_pydict()).encode()
                content += b"".join(entry.payload for entry in read_entries(path))
            except OSError:
                continue
        for name in names:
            if name.encode() in content:
                found.setdefault(name, []).append(path)
    return found


def found_in_redis(service: Running, names: tuple[str, ...]) -> list[tuple[str, bytes]]:
    """Return which keys hold a name, in the key itself or in what it holds."""
    found = []
    for key in service.redis.scan_iter(count=1000):
        kind = service.redis.type(key)
        held = service.redis.dump(key) or b""
        if kind == b"stream":
            held += repr(service.redis.xrange(key)).encode()
        elif kind == b"hash":
            held += repr(service.redis.hgetall(key)).encode()
        elif kind == b"zset":
            held += repr(service.redis.zrange(key, 0, -1)).encode()
        elif kind == b"string":
            held += service.redis.get(key) or b""
        found += [(name, key) for name in names if name.encode() in key + held]
    return found
