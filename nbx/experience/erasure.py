"""Erasing a customer: one commit takes the state, its open decisions, timers and replies, and says so in the log.

What belongs to a customer is found in the log, which is complete: by the archive's column of ids, and by reading the
live stream of its partition. An index would cost every decision a command and every customer memory, for something
that happens rarely. The state's version is compared on commit, so whatever was logged for the customer meanwhile makes
the erasure read on and try again.

The version stays for `erased_keep_s` with an empty struct in place of the state. Whoever loaded the old state gets a
conflict, also after a new life has begun; with the key gone, that life would count from 1 again, and a commit prepared
on the old state could meet its own version and bring the old state back.

The entry in the log tells the learner which slots taught something, and where. It subtracts their sites in log order
and completes the receipt (`nbx.runtime.erasing`).

The time is kept for `limits.ERASED_MS`, under a hash of the id: a degraded decision that waited in a worker's memory
meanwhile is not logged any more.

Other ids of the customer are erased first, each on its partition with a receipt of its own: as long as the canonical
customer is there, trying again finds those that are left.

The same commit arms a timer that is never due. It stands for what is left to do: taking the customer's rows out of
streams and archive, which `nbx.runtime.scrubbing` does once the learner needs them no more.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec
from msgspec import Struct, structs

from nbx.catalog.plan import Plan
from nbx.clock import Clock
from nbx.errors import Unavailable, Unknown
from nbx.experience import lifecycle
from nbx.experience.entries import (
    DecisionEntry,
    EraseEntry,
    EventEntry,
    ProfileEntry,
    Taught,
    TimerEntry,
    decode_entry,
    encode_entry,
    outcomes_of,
)
from nbx.experience.goals import goal_timer
from nbx.experience.identity import merge_timer
from nbx.experience.lifecycle import decode_open
from nbx.experience.merging import Merging
from nbx.experience.promises import promise_timer
from nbx.features.keys import MODEL_VERSION, PartitionKeys, partition_keys
from nbx.features.state import ERASED
from nbx.features.store import VERSION_BYTES, Commit, LogEntry, Put, Store, Timer, Verdict, versioned
from nbx.ids import checked_id, decision_ref, new_decision_id, partition_of
from nbx.limits import COMMIT_ATTEMPTS, ERASED_MS, ERASURE_KEPT_MS, STOPPED_MS

PAGE = 256
"""Log entries, and keys, read at a time: half a millisecond of Redis, so that decisions hardly wait."""
SCRUB = "scrub:"
"""Begins the names of timers of erasures that are not done; the erasure's id follows."""
SCRUB_AT_MS = STOPPED_MS
"""When they would be due: never."""
REMAINS = (
    "log: streams and archive name the customer until the erasure is done",
    "version of the state, under the customer's id, for erased_keep_s: nothing of before can be written after it",
    "this record names the customer until the erasure is done",
)
"""What is left of an erasure that is not done, besides what stays."""
STAYS = (
    "log: places of the rows, without what they said; and a signed record in the archive's chain for each segment",
    "events: marks of event ids that do not hold the customer's, until they run out (request_ttl_s)",
    "sites: the numbers subtracted from the models, under decision ids, for 7 days at most after the learner is done",
    "models: outcomes counted as `beyond`, as far as the models have not forgotten them by themselves",
    "clusters: an answer moved a centre by a hundredth, an acceptance counts on a touch track; both fade by themselves",
    "time of the erasure, under a hash of the customer's id, for a day",
    "others: what other customers or the company's systems wrote about the customer, in texts and values of theirs",
    "copies: of data directory, Redis or archive made before, and exports",
    "receipt: this record, with a pseudonym in place of the id once done, for 400 days",
)
"""What is left where, and for how long, of an erasure that is done."""


History = Callable[[int, str, str], AsyncIterator[list[LogEntry]]]
"""Yields the rows of a partition's log that may be a customer's, oldest first: partition, customer, `-` or `(id`."""


class Receipt(Struct, frozen=True, kw_only=True):
    """What an erasure removed, and what it could not."""

    erasure_id: str
    customer_id: str
    at_ms: int
    by: str
    """Who asked: name and id of the API key."""
    status: Literal["pending", "forgotten", "done"] = "pending"
    """`forgotten`: the published model is without the sites that were still on record; `done`: and nothing kept by
    nbx names the customer any more."""
    state_version: int
    """Of the state that was removed."""
    decisions: int
    """Open decisions removed."""
    timers: int
    replies: int
    """Stored replies removed."""
    taught: int
    """Slots and goals of the customer whose outcome taught the models, as far back as the log goes."""
    response: int = 0
    """Sites subtracted from response models."""
    experience: int = 0
    """Sites subtracted from experience models."""
    beyond: int = 0
    """Of these, without a site on record, their correction window having closed: they stay in the models."""
    step: int = 0
    """Learner step that subtracted; snapshots from this version on are without the customer. 0: not yet."""
    remains: tuple[str, ...] = (*REMAINS, *STAYS)
    """What is left where, and for how long."""
    aliases: dict[str, str] = msgspec.field(default_factory=dict)
    """Other ids of the customer → the erasure of each, which has a receipt of its own."""
    forgot: tuple[str, ...] = ()
    """What the models forgot, in words."""
    forgotten_ms: int = 0
    """When it was seen that the learner was through; 0: not yet. Likewise the other times, all epoch milliseconds."""
    entry_id: str = ""
    """Log id of the entry that erased; noted when rows begin to be taken out."""
    rows: int = 0
    """Rows of the archive that became tombstones."""
    segments: int = 0
    """Segments of the archive that were rewritten."""
    rewritten_ms: int = 0
    """When that was done, and the streams were without them."""
    named_ms: int = 0
    """When the id was replaced in this record, as the last key that held it."""
    done_ms: int = 0
    """When the append-only file was without it too."""


decode_receipt = msgspec.msgpack.Decoder(Receipt).decode
encode_receipt = msgspec.msgpack.Encoder().encode


def receipt_of(entry: EraseEntry) -> Receipt:
    """Return the receipt as it stands before the learner has come to the entry."""
    return Receipt(
        erasure_id=entry.erasure_id,
        customer_id=entry.customer_id,
        at_ms=entry.at_ms,
        by=entry.by,
        state_version=entry.state_version,
        decisions=entry.decisions,
        timers=entry.timers,
        replies=entry.replies,
        taught=len(entry.taught),
        aliases=entry.aliases,
    )


def forgotten(receipt: Receipt, published: bytes | None) -> bool:
    """Tell whether the published model, of this version, is without the customer."""
    return 0 < receipt.step <= int(published or 0)


def scrub_timer(erasure_id: str) -> str:
    """Return the name of the timer that stands for an erasure which is not done."""
    return f"{SCRUB}{erasure_id}"


@dataclass(slots=True)
class _Past:
    """A customer's present life as read from the log so far."""

    cursor: str = "-"
    requests: dict[str, str] = field(default_factory=dict)
    """Decision → its request_id, or empty."""
    taught: dict[tuple[str, int], Taught] = field(default_factory=dict)
    erasure_id: str = ""
    """Erasure that ended the life before."""


class ErasureService:
    """Erases customers and shows receipts.

    Parameters
    ----------
    store
        Where state and log live.
    plan
        Returns the plan in force; raises `NotReady` when there is none.
    clock
        Tells when.
    partitions
        Number of partitions of the store.
    history
        Finds a customer's rows in the log; None: the store's log is read through.
    kept_ms
        How long the version of an erased state is kept.
    timeout_ms
        How long one store operation may take.
    """

    def __init__(
        self,
        store: Store,
        plan: Callable[[], Plan],
        clock: Clock,
        *,
        partitions: int,
        history: History | None = None,
        kept_ms: int = ERASED_MS,
        timeout_ms: float = 5_000.0,
    ) -> None:
        self._store = store
        self._plan = plan
        self._clock = clock
        self._partitions = partitions
        self._history = history or self._rows
        self._kept_ms = kept_ms
        self._timeout_ms = timeout_ms
        # what is half way is finished before it is erased: how that is held out makes no difference
        self._merging = Merging(store, plan, clock, partitions=partitions, salt="", timeout_ms=timeout_ms)

    async def erase(self, customer_id: str, by: str = "") -> Receipt:
        """Erase a customer under all ids; reads the whole log of their partitions, half a second per 100,000 entries.

        Raises
        ------
        Invalid
            Not an id.
        Unknown
            No such customer, or erased already: then the message names that erasure.
        Unavailable
            The store is gone; whether the customer was erased is unknown, and told by trying again.
        NotReady
            Nothing is published.
        """
        self._plan()
        checked_id(customer_id, "customer_id")
        root_id = (await self._merging.settled(customer_id)).customer_id
        aliases: dict[str, str] = {}
        past = _Past()
        for _ in range(COMMIT_ATTEMPTS):
            root = await self._merging.settled(root_id)
            known = {alias: await self._merging.settled(alias) for alias in root.state.aliases}
            left = [alias for alias, found in known.items() if found.customer_id == root.customer_id]
            for alias in left:
                aliases[alias] = (await self._erase_alias(alias, by)).erasure_id
            # at that version: nobody has come along since
            receipt = await self._try(root.customer_id, root.version, by, past, aliases)
            if receipt is not None:
                return receipt
        raise _contended(customer_id)

    async def _erase_alias(self, alias: str, by: str) -> Receipt:
        past = _Past()
        for _ in range(COMMIT_ATTEMPTS):
            if (receipt := await self._try(alias, None, by, past, {})) is not None:
                return receipt
        raise _contended(alias)

    async def _try(
        self, customer_id: str, at_version: int | None, by: str, past: _Past, aliases: dict[str, str]
    ) -> Receipt | None:
        """Erase one id, at a version or at any; None: it changed meanwhile."""
        partition = partition_of(customer_id, self._partitions)
        keys = partition_keys(partition)
        # the state first: what had led to its version is in the log by then
        (packed,) = await self._store.read([keys.customer(customer_id)], self._timeout_ms)
        version, struct = versioned(packed)
        if struct is None:
            raise _unknown(customer_id, "")
        if at_version not in (None, version):
            return None
        await self._read_on(past, partition, customer_id)
        if struct == ERASED:
            raise _unknown(customer_id, past.erasure_id)
        now_ms = self._clock.now_ms()
        entry = EraseEntry(
            customer_id=customer_id,
            at_ms=now_ms,
            release=self._plan().release,
            erasure_id=new_decision_id(partition, now_ms),
            by=by,
            state_version=version,
            decisions=0,
            timers=0,
            replies=0,
            taught=tuple(past.taught.values()),
            aliases=aliases,
        )
        entry, commit = await self._prepared(entry, past, keys)
        done = (await self._store.commit(commit, self._timeout_ms)).verdict is Verdict.DONE
        return receipt_of(entry) if done else None

    async def receipt(self, erasure_id: str) -> Receipt:
        """Return a receipt; `Unknown` when there is none (any more), `Invalid` when it is no id of an erasure."""
        partition = decision_ref(erasure_id, "erasure_id").partition
        key = partition_keys(partition).erasure(erasure_id)
        packed = (await self._store.read([key], self._timeout_ms))[0] if partition < self._partitions else None
        if packed is None:
            raise Unknown(f"erasure {erasure_id} is not known here", field="erasure_id", code="erasure_unknown")
        receipt = decode_receipt(packed)
        (published,) = await self._store.read([MODEL_VERSION], self._timeout_ms)
        if receipt.done_ms:
            return structs.replace(receipt, status="done")
        return structs.replace(receipt, status="forgotten" if forgotten(receipt, published) else "pending")

    async def _read_on(self, past: _Past, partition: int, customer_id: str) -> None:
        """Take in what the log holds beyond the cursor."""
        async for page in self._history(partition, customer_id, past.cursor):
            for row in page:
                _take(past, row, customer_id)
            past.cursor = f"({page[-1].entry_id}"

    async def _rows(self, partition: int, customer_id: str, start: str) -> AsyncIterator[list[LogEntry]]:
        wanted, cursor = customer_id.encode(), start
        while page := await self._store.log_range(partition, cursor, "+", PAGE):
            if found := [row for row in page if wanted in row.payload]:
                yield found
            cursor = f"({page[-1].entry_id}"

    async def _prepared(self, entry: EraseEntry, past: _Past, keys: PartitionKeys) -> tuple[EraseEntry, Commit]:
        """Look what is still there, and lay out the commit."""
        decision_ids = list(past.requests)
        opened = await self._existing([keys.decision(decision_id) for decision_id in decision_ids])
        replies = await self._existing(
            [keys.request(entry.customer_id, request_id) for request_id in past.requests.values() if request_id]
        )
        timers, cancel = 0, [merge_timer(entry.customer_id), promise_timer(entry.customer_id)]
        for decision_id in decision_ids:
            packed = opened.get(keys.decision(decision_id))
            decision = decode_open(packed) if packed is not None else None
            for number, slot in enumerate(decision.slots if decision is not None else ()):
                if slot.action:
                    armed, idle = lifecycle.timers(decision_id, number, slot, entry.at_ms)
                    timers += len(armed)
                    cancel += [*(timer.member for timer in armed), *idle]
            if decision is not None and decision.goal is not None:
                timers += decision.goal.response is None and not decision.goal.withdrawn
                cancel.append(goal_timer(decision_id))
        entry = structs.replace(entry, decisions=len(opened), timers=timers, replies=len(replies))
        customer_key = keys.customer(entry.customer_id)
        left = (entry.state_version + 1).to_bytes(VERSION_BYTES, "big") + ERASED
        return entry, Commit(
            partition=decision_ref(entry.erasure_id).partition,
            customer_key=customer_key,
            expected_version=entry.state_version,
            state=ERASED,
            entries=(encode_entry(entry),),
            puts=(
                Put(customer_key, left, self._kept_ms),
                Put(keys.erased(entry.customer_id), b"%d" % entry.at_ms, ERASED_MS),
                Put(keys.erasure(entry.erasure_id), encode_receipt(receipt_of(entry)), ERASURE_KEPT_MS),
            ),
            cancel=tuple(cancel),
            arm=(Timer(scrub_timer(entry.erasure_id), SCRUB_AT_MS),),
            drop=(*opened, *replies),
        )

    async def _existing(self, keys: Sequence[str]) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for at in range(0, len(keys), PAGE):
            part = keys[at : at + PAGE]
            values = await self._store.read(part, self._timeout_ms)
            found |= {key: value for key, value in zip(part, values, strict=True) if value is not None}
        return found


def _take(past: _Past, row: LogEntry, customer_id: str) -> None:
    """Go on by one log entry that may be the customer's."""
    try:
        entry = decode_entry(row.payload)
    except msgspec.DecodeError:
        return
    if entry.customer_id != customer_id:
        return
    match entry:
        case EraseEntry():
            past.requests.clear()
            past.taught.clear()
            past.erasure_id = entry.erasure_id
        case DecisionEntry():
            past.requests[entry.decision_id] = entry.request.request_id
        case EventEntry() | TimerEntry() | ProfileEntry():
            for outcome in outcomes_of(entry):
                if outcome.x and outcome.learns:
                    taught = Taught(outcome.decision_id, outcome.slot, outcome.revision, row.entry_id)
                    past.taught[outcome.decision_id, outcome.slot] = taught
        case _:
            pass


def _contended(customer_id: str) -> Unavailable:
    return Unavailable(
        f"customer {customer_id} is being changed by too many at once; try again", code="state_contended"
    )


def _unknown(customer_id: str, erasure_id: str) -> Unknown:
    before = f": erased, see erasure {erasure_id}" if erasure_id else ""
    return Unknown(f"customer {customer_id} is not known here{before}", field="customer_id", code="customer_unknown")
