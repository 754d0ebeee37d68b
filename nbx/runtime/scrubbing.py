"""The keeper's part of an erasure: taking the customer out of streams, archive and Redis's file, until nothing is left.

Every erasure leaves a timer that is never due (`nbx.experience.erasure.SCRUB`). It goes when all of this is done, in
this order, several erasures together:

1. The published model has forgotten, and the learner's checkpoint is beyond the entry that erased, in every partition:
   whatever happens to it, it never needs these rows again.
2. All streams are archived. What other keys hold of the rows that will change is cleaned: marks of events whose ids
   contain the customer's, and states of others that name it.
3. The streams of the partitions concerned are trimmed behind archive and learner, and what is left of them is written
   anew: a stream keeps the bytes of deleted entries for as long as an entry of the same node lives.
4. Segments are rewritten (`nbx.audit.scrub`). Before that everything could still be found by reading the archive; so a
   crash anywhere is made good by beginning anew.
5. When the version of the erased state has run out, the receipt gets a pseudonym in place of the id.
6. The embedded Redis rewrites its append-only file, which then holds none of it.

How far an erasure is stands in its receipt. Not here: the models (`nbx.runtime.erasing`), and a Redis of the operator's
own, whose files are theirs; the receipt says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
from hiredis import ReplyError
from msgspec import structs

from nbx.audit.chain import Chain, Record
from nbx.audit.log_ids import FIRST, Id, after, parsed
from nbx.audit.scrub import Erased, Hits, find, mentioned, renamed_state, rewrite, told
from nbx.audit.segments import Place
from nbx.audit.whole_log import WholeLog
from nbx.experience.entries import EraseEntry, decode_entry
from nbx.experience.erasure import (
    SCRUB,
    SCRUB_AT_MS,
    STAYS,
    Receipt,
    decode_receipt,
    encode_receipt,
    forgotten,
    scrub_timer,
)
from nbx.features.keys import ADMIN_LOG, MODEL_REACHED, MODEL_VERSION, partition_keys
from nbx.features.secrets import pseudonym_key
from nbx.features.state import ERASED
from nbx.features.store import Commit, Verdict, versioned
from nbx.features.trail import Change
from nbx.hashing import pseudonym
from nbx.ids import decision_ref, partition_of
from nbx.runtime.process import log
from nbx.runtime.publishing import decode_reached

if TYPE_CHECKING:
    from nbx.clock import Clock
    from nbx.features.connection import RedisConnection
    from nbx.features.store import Store
    from nbx.runtime.archiving import Archiver
    from nbx.runtime.trimming import Trimmer
    from nbx.settings import Settings

AT_ONCE: Final = 1_000
"""Erasures whose rows are taken out together: the archive is read once for all of them."""
MOST: Final = 20_000
"""Erasures looked at in one turn, the oldest."""
PAGE: Final = 512
SEGMENTS: Final = 50
"""Segments looked into by one call to a thread."""
BEFORE_MS: Final = 60_000
"""How far a log id may lie before the erasure's own time: clocks differ."""
STREAM_ROWS: Final = 10_000
"""Entries of a stream that are written anew in one script: some 20 ms of Redis."""
REWRITE_S: Final = 600.0
"""Most that Redis may take to rewrite its file; then it is looked at again in the next turn."""
LOOK_S: Final = 0.05
TIMEOUT_MS: Final = 5_000.0
EXTERNAL: Final = (
    "redis: the append-only file, dumps and replicas of a Redis of your own hold what was before until they are "
    "rewritten (BGREWRITEAOF)"
)

# KEYS 1 stream; ARGV 1 most entries. Returns how many there are, -1: too many.
_ANEW = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local rows = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', ARGV[1] + 1)
if #rows > tonumber(ARGV[1]) then return -1 end
local info = {}
local told = redis.call('XINFO', 'STREAM', KEYS[1])
for at = 1, #told, 2 do info[told[at]] = told[at + 1] end
local last = info['last-generated-id']
redis.call('DEL', KEYS[1])
for _, row in ipairs(rows) do redis.call('XADD', KEYS[1], row[1], unpack(row[2])) end
if #rows == 0 then
  redis.call('XADD', KEYS[1], last, 'e', '')
  redis.call('XDEL', KEYS[1], last)
end
if info['entries-added'] then
  local gone = info['max-deleted-entry-id']
  redis.call('XSETID', KEYS[1], last, 'ENTRIESADDED', info['entries-added'], 'MAXDELETEDID', gone)
else
  redis.call('XSETID', KEYS[1], last)
end
return #rows
"""


class Scrubber:
    """Finishes erasures; for the keeper that leads.

    Parameters
    ----------
    connection, store
        Where streams, states and receipts are.
    archiver, trimmer
        Of the archive; None: there is none, rows are deleted from the streams.
    settings, clock
        The keeper's.
    """

    def __init__(
        self,
        connection: RedisConnection,
        store: Store,
        settings: Settings,
        clock: Clock,
        archiver: Archiver | None = None,
        trimmer: Trimmer | None = None,
    ) -> None:
        self._connection = connection
        self._store = store
        self._settings = settings
        self._clock = clock
        self._archiver = archiver
        self._trimmer = trimmer
        self._log = WholeLog(store, settings.archive_path) if archiver is not None else store

    async def turn(self) -> frozenset[int]:
        """Do what can be done by now; returns the partitions whose streams hold nothing archived any more.

        Raises
        ------
        Unavailable, Overtaken, OSError, …
            As the archiver. What was done stays done, and the rest is done by the next turn.
        """
        waiting = []
        for receipt in await self._waiting():
            if receipt.done_ms:
                await self._disarm(receipt)  # it was killed in between
            else:
                waiting.append(receipt)
        if not waiting:
            return frozenset()
        ready = await self._ready([each for each in waiting if not each.rewritten_ms])
        emptied = await self._take_out(ready) if ready else frozenset()
        named = [each for each in await self._waiting() if each.rewritten_ms and not each.named_ms]
        for receipt in named:
            await self._unname(receipt)
        left = [each for each in await self._waiting() if each.named_ms]
        if left and await self._rewritten_file():
            for receipt in left:
                await self._finish(receipt)
        return emptied

    # what there is to do

    async def _waiting(self) -> list[Receipt]:
        """Return the receipts of erasures that are not done, up to `MOST`, oldest first."""
        execute = self._connection.execute
        streams = [partition_keys(partition) for partition in range(self._settings.partitions)]
        armed: list[list[bytes]] = await asyncio.gather(
            *(execute("ZRANGEBYSCORE", keys.timers, SCRUB_AT_MS, "+inf", timeout_ms=TIMEOUT_MS) for keys in streams)
        )
        found: list[Receipt] = []
        ids = sorted(member.decode().removeprefix(SCRUB) for members in armed for member in members)
        for erasure_id in sorted(ids, key=lambda each: decision_ref(each).at_ms)[:MOST]:
            keys = streams[decision_ref(erasure_id).partition]
            packed = await execute("GET", keys.erasure(erasure_id), timeout_ms=TIMEOUT_MS)
            if packed is None:  # it is older than receipts are kept
                await execute("ZREM", keys.timers, scrub_timer(erasure_id), timeout_ms=TIMEOUT_MS)
            else:
                found.append(decode_receipt(packed))
        return found

    async def _ready(self, waiting: Sequence[Receipt]) -> list[Receipt]:
        """Return those that the learner is through with, with the log id of their entries."""
        published, packed = [await self._get(key) for key in (MODEL_VERSION, MODEL_REACHED)]
        if packed is None:
            return []
        offsets = {partition: parsed(offset) for partition, offset in decode_reached(packed).offsets.items()}
        found: list[Receipt] = []
        for receipt in waiting:
            if len(found) == AT_ONCE:
                break
            if not forgotten(receipt, published):
                continue
            entry_id = receipt.entry_id or await self._entry_id(receipt)
            if not entry_id:
                log.error("erasure %s: its entry is not in the log", receipt.erasure_id)
                continue
            if await self._passed(offsets, receipt, parsed(entry_id)):
                done = structs.replace(receipt, entry_id=entry_id, forgotten_ms=self._clock.now_ms())
                await self._keep(done)  # the entry itself will be gone
                found.append(done)
        return found

    async def _entry_id(self, receipt: Receipt) -> str:
        partition = decision_ref(receipt.erasure_id).partition
        wanted = receipt.erasure_id.encode()
        start = f"{max(receipt.at_ms - BEFORE_MS, 0)}"
        while page := await self._log.log_range(partition, start, "+", PAGE):
            for row in page:
                if wanted in row.payload:
                    entry = decode_entry(row.payload)
                    if isinstance(entry, EraseEntry) and entry.erasure_id == receipt.erasure_id:
                        return row.entry_id
            start = f"({page[-1].entry_id}"
        return ""

    async def _passed(self, offsets: Mapping[int, Id], receipt: Receipt, entry: Id) -> bool:
        """Tell whether the learner's checkpoint is beyond an erasure, and elsewhere beyond what was before it."""
        own = decision_ref(receipt.erasure_id).partition
        if offsets.get(own, FIRST) < entry:
            return False
        others = [partition for partition in range(self._settings.partitions) if partition != own]
        tails = await asyncio.gather(*(self._last_before(partition, entry[0]) for partition in others))
        return all(tail <= offsets.get(partition, FIRST) for partition, tail in zip(others, tails, strict=True))

    async def _last_before(self, partition: int, ms: int) -> Id:
        rows: list[Any] = await self._connection.execute(
            "XREVRANGE", partition_keys(partition).log, ms, "-", "COUNT", 1, timeout_ms=TIMEOUT_MS
        )
        return parsed(rows[0][0].decode()) if rows else FIRST

    # taking rows out

    async def _take_out(self, ready: Sequence[Receipt]) -> frozenset[int]:
        key = await pseudonym_key(self._connection, self._settings.pseudonym_key_file)
        erased = [_erased(receipt, key) for receipt in ready]
        if self._archiver is None:
            partitions = await self._delete(erased)
            counts: dict[str, tuple[int, int]] = {}
        else:
            await self._archiver.archive()
            chain = await self._archiver.open()
            hits = await self._search(chain, erased)
            partitions = await self._clean(chain, hits, erased)
            if not await self._anew(partitions):
                return frozenset()
            await self._rewrite(chain, hits, erased)
            counts = await asyncio.to_thread(told, chain.directory)
        now_ms = self._clock.now_ms()
        for receipt in ready:
            rows, segments = counts.get(receipt.erasure_id, (0, 0))
            await self._keep(structs.replace(receipt, rows=rows, segments=segments, rewritten_ms=now_ms))
        log.info("%d erasures: taken out of streams and archive", len(ready))
        return frozenset(partitions)

    async def _search(self, chain: Chain, erased: Sequence[Erased]) -> dict[int, Hits]:
        """Return, by segment, which rows have to change."""
        last_ms = max(each.until.ms for each in erased)
        records = [record for record in chain.segments.values() if record.from_ms <= last_ms]
        found: dict[int, Hits] = {}

        def look(part: Iterable[Record]) -> None:
            for record in part:
                hits = find(chain.directory / record.file, erased)
                if hits.rows:
                    found[record.n] = hits

        for at in range(0, len(records), SEGMENTS):
            await asyncio.to_thread(look, records[at : at + SEGMENTS])
        return found

    async def _clean(self, chain: Chain, hits: Mapping[int, Hits], erased: Sequence[Erased]) -> set[int]:
        """Clean what other keys hold of rows that will change; returns the partitions that these are in."""
        partitions = {each.until.partition for each in erased}
        names = {each.customer_id: each.pseudonym for each in erased}
        families = _families(await self._waiting())
        for n, of_segment in hits.items():
            path = chain.directory / chain.segments[n].file
            besides = await asyncio.to_thread(mentioned, path, of_segment)
            for customer_id, events in besides.events.items():
                await self._drop_marks(families.get(customer_id, {customer_id}), events)
            for customer_id in besides.holders:
                partition = partition_of(customer_id, self._settings.partitions)
                partitions.add(partition)
                await self._rename_in_state(partition, customer_id, names)
        return partitions

    async def _drop_marks(self, names: Collection[str], events: Iterable[str]) -> None:
        """Drop marks of events whose ids hold one of a customer's ids; they are kept under whichever was used."""
        keys = [partition_keys(p) for p in {partition_of(name, self._settings.partitions) for name in names}]
        for event_id in events:
            if any(name in event_id for name in names):
                for each in keys:
                    await self._connection.execute("DEL", each.event(event_id), timeout_ms=TIMEOUT_MS)

    async def _rename_in_state(self, partition: int, customer_id: str, names: Mapping[str, str]) -> None:
        """Let a customer's state say what its rows will."""
        customer_key = partition_keys(partition).customer(customer_id)
        done = False
        while not done:
            (packed,) = await self._store.read([customer_key], TIMEOUT_MS)
            version, struct = versioned(packed)
            if struct is None or struct == ERASED or (state := renamed_state(struct, names)) == struct:
                return
            commit = Commit(partition=partition, customer_key=customer_key, expected_version=version, state=state)
            done = (await self._store.commit(commit, TIMEOUT_MS)).verdict is Verdict.DONE

    async def _anew(self, partitions: Iterable[int]) -> bool:
        """Trim streams behind archive and learner, and write the rest of them anew; False: too much is left of one."""
        if self._archiver is None or self._trimmer is None:
            return False
        packed = await self._get(MODEL_REACHED)
        offsets = decode_reached(packed).offsets if packed is not None else {}
        for partition in partitions:
            bounds = [each[partition] for each in (self._archiver.last, offsets) if partition in each]
            if len(bounds) == 2:  # archived and learned from
                await self._trimmer.trim_to(partition, min(after(parsed(bound)) for bound in bounds))
            if await self._write_anew(partition) < 0:
                log.info("partition %d: more than %d entries are not archived or learned yet", partition, STREAM_ROWS)
                return False
        return True

    async def _write_anew(self, partition: int) -> int:
        stream = partition_keys(partition).log
        count: int = await self._connection.execute("EVAL", _ANEW, 1, stream, STREAM_ROWS, timeout_ms=TIMEOUT_MS)
        return count

    async def _rewrite(self, chain: Chain, hits: Mapping[int, Hits], erased: Sequence[Erased]) -> None:
        archiver = self._archiver
        assert archiver is not None and archiver.signer is not None  # noqa: PT018 - it is open
        for n, of_segment in hits.items():
            record, now_ms = chain.segments[n], self._clock.now_ms()
            await asyncio.to_thread(rewrite, chain, record, of_segment, erased, archiver.signer, now_ms)
            await archiver.tell_head()

    async def _delete(self, erased: Sequence[Erased]) -> set[int]:
        """Delete rows from the streams where there is no archive."""
        for each in erased:
            partition, start = each.until.partition, "-"
            stream, wanted = partition_keys(partition).log, each.customer_id.encode()
            until = f"{each.until.ms}-{each.until.sequence}"
            while page := await self._store.log_range(partition, start, until, PAGE):
                rows = [row for row in page if wanted in row.payload and _customer_of(row.payload) == each.customer_id]
                if rows:
                    ids = [row.entry_id for row in rows]
                    await self._connection.execute("XDEL", stream, *ids, timeout_ms=TIMEOUT_MS)
                start = f"({page[-1].entry_id}"
            await self._write_anew(partition)
        return set()

    # the end

    async def _unname(self, receipt: Receipt) -> None:
        """Replace the id in the receipt once no key holds it."""
        partition = decision_ref(receipt.erasure_id).partition
        customer_key = partition_keys(partition).customer(receipt.customer_id)
        if versioned(await self._get(customer_key))[1] == ERASED:
            return
        key = await pseudonym_key(self._connection, self._settings.pseudonym_key_file)
        names = {alias: pseudonym(key, alias) for alias in (receipt.customer_id, *receipt.aliases)}
        await self._keep(
            structs.replace(
                receipt,
                customer_id=names[receipt.customer_id],
                aliases={names[alias]: erasure_id for alias, erasure_id in receipt.aliases.items()},
                named_ms=self._clock.now_ms(),
            )
        )

    async def _rewritten_file(self) -> bool:
        """Have the embedded Redis rewrite its append-only file; False: not yet."""
        if self._settings.redis_url:
            return True
        loop = asyncio.get_running_loop()
        deadline = loop.time() + REWRITE_S
        asked = False
        while loop.time() < deadline:
            told_: bytes = await self._connection.execute("INFO", "persistence", timeout_ms=TIMEOUT_MS)
            info = dict(line.split(b":", 1) for line in told_.splitlines() if b":" in line)
            if info.get(b"aof_rewrite_in_progress") == info.get(b"aof_rewrite_scheduled") == b"0":
                if asked:
                    await self._connection.execute("SLOWLOG", "RESET", timeout_ms=TIMEOUT_MS)
                    return info.get(b"aof_last_bgrewrite_status") == b"ok"
                try:
                    await self._connection.execute("BGREWRITEAOF", timeout_ms=TIMEOUT_MS)
                    asked = True
                except ReplyError as error:
                    log.warning("Redis does not rewrite its append-only file: %s", error)
                    return False
            await asyncio.sleep(LOOK_S)
        return False

    async def _finish(self, receipt: Receipt) -> None:
        stays = STAYS if not self._settings.redis_url else (*STAYS, EXTERNAL)
        now_ms = self._clock.now_ms()
        details: dict[str, str | int] = {
            "erasure": receipt.erasure_id,
            "customer": receipt.customer_id,
            "rows": receipt.rows,
            "segments": receipt.segments,
        }
        change = Change(at_ms=now_ms, who="nbx keeper", what="erasure_done", details=details)
        await self._connection.execute("XADD", ADMIN_LOG, "*", "e", msgspec.json.encode(change), timeout_ms=TIMEOUT_MS)
        await self._keep(structs.replace(receipt, status="done", done_ms=now_ms, remains=stays))
        await self._disarm(receipt)

    async def _disarm(self, receipt: Receipt) -> None:
        keys = partition_keys(decision_ref(receipt.erasure_id).partition)
        await self._connection.execute("ZREM", keys.timers, scrub_timer(receipt.erasure_id), timeout_ms=TIMEOUT_MS)

    async def _keep(self, receipt: Receipt) -> None:
        key = partition_keys(decision_ref(receipt.erasure_id).partition).erasure(receipt.erasure_id)
        await self._connection.execute("SET", key, encode_receipt(receipt), "XX", "KEEPTTL", timeout_ms=TIMEOUT_MS)

    async def _get(self, key: str) -> bytes | None:
        value: bytes | None = await self._connection.execute("GET", key, timeout_ms=TIMEOUT_MS)
        return value


def _erased(receipt: Receipt, key: bytes) -> Erased:
    place = Place(decision_ref(receipt.erasure_id).partition, *parsed(receipt.entry_id))
    name = pseudonym(key, receipt.customer_id)
    return Erased(receipt.customer_id, receipt.erasure_id, place, name, receipt.by)


def _families(waiting: Iterable[Receipt]) -> dict[str, set[str]]:
    """Return, by id, all ids of the same customer."""
    found: dict[str, set[str]] = {}
    for receipt in waiting:
        if receipt.aliases:
            family = {receipt.customer_id, *receipt.aliases}
            found |= {each: found.get(each, set()) | family for each in family}
    return found


def _customer_of(payload: bytes) -> str:
    try:
        return decode_entry(payload).customer_id
    except msgspec.DecodeError:
        return ""
