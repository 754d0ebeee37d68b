"""Explaining decisions beside serving: what is read of the log, and how little decisions notice of it.

Without a question about one action the record and the served model are enough. Why not, and the smallest change, need
the customer as it was: the log is read backwards from the decision, only in the customer's partition, until the
customer's beginning or `limits.EXPLAIN_ENTRIES`, and folded again (`nbx.audit.rebuilding`). Nothing is ever written.

A thread that computes holds the interpreter for 5 ms before others get it, longer than a decision takes. So such work
is done in steps of a few tries, one explanation at a time, and the thread rests after each for longer than it worked.
What needs no customer takes 2 ms in all, and is done on the event loop, in steps too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from typing import NamedTuple, TypeVar

import msgspec

from nbx.audit.history import Located, locate_decision
from nbx.audit.reading import erased_by
from nbx.audit.rebuilding import Rebuilder
from nbx.bandits.snapshot import BoundModel
from nbx.catalog.plan import Plan
from nbx.decision.explained import Customer, Doubt, Explained, Known, explained
from nbx.decision.why_not import Places
from nbx.errors import NotReady, Unavailable
from nbx.experience.entries import DecisionEntry, Entry, decode_entry
from nbx.features.keys import partition_keys
from nbx.features.state import ERASED
from nbx.features.store import LogEntry, Store, versioned
from nbx.ids import decision_ref
from nbx.limits import EXPLAIN_ENTRIES, NAME_LENGTH

T = TypeVar("T")
PAGE = 64
"""Log entries asked for at a time: 0.3 ms of the event loop."""
REST = 2.0
"""Rest of a thread, or of the lane, in times of the work before it."""
LEAST_REST_S = 0.001
WAITING = 64
"""Explanations that wait for their turn; more are refused."""
_FIRST_LOOK_MS = 10_000
_STEP = 4
"""Entries folded between two rests."""
TIMEOUT_MS = 2_000.0


class Past(NamedTuple):
    """A customer's entries before a decision."""

    entries: list[Entry]
    """Oldest first; the decision is not among them."""
    read: int
    """Entries looked through, of everybody in the partition."""
    cut: bool
    """More would have had to be read."""


class Explainer:
    """Explains decisions, for a whole process.

    Parameters
    ----------
    store
        Only read.
    partitions
        Of the store.
    plan_of
        Gives the plan of a release; `NotReady` when it cannot be read.
    model_for
        Gives the snapshot in force, bound to a plan.
    places_of
        Gives where the conditions of a release stand in its file; empty where that is not known.
    most
        Log entries read for one explanation at most.
    """

    def __init__(
        self,
        store: Store,
        partitions: int,
        plan_of: Callable[[int], Awaitable[Plan]],
        model_for: Callable[[Plan], Awaitable[BoundModel]],
        places_of: Callable[[Plan], Awaitable[Places]],
        *,
        most: int = EXPLAIN_ENTRIES,
    ) -> None:
        self._store, self._partitions = store, partitions
        self._plan_of, self._model_for, self._places_of = plan_of, model_for, places_of
        self._most = most
        self._light, self._heavy = _Lane(), _Lane()

    async def explain(self, decision_id: str, action: str = "") -> Explained:
        """Explain a decision.

        Parameters
        ----------
        decision_id
            Of a decision in the log.
        action
            Why not this one? Empty: nobody asks, and the customer is not rebuilt.

        Raises
        ------
        Invalid, Unknown
            No id of ours, no such decision, no such action in the release that decided.
        Unavailable
            Too many wait already.
        """
        async with (self._heavy if action else self._light).turn():
            located = await locate_decision(self._store, decision_id, self._partitions)
            entry = located.record
            plan = await self._plan(entry)
            model = await self._model_for(plan) if plan is not None else None
            if not action:
                doubt: Doubt = await self._forgotten(entry) or ("degraded" if entry.degraded else "not_needed")
                return await _between(explained(Known(entry, plan, model, Customer(None, doubt))))
            places = await self._places_of(plan) if plan is not None else {}
            customer = await self._customer(located, plan)
            work = explained(Known(entry, plan, model, customer, places), action[: NAME_LENGTH + 1])
            return await asyncio.to_thread(_paced, work)

    async def _plan(self, entry: DecisionEntry) -> Plan | None:
        try:
            return await self._plan_of(entry.release)
        except NotReady:
            return None

    async def _forgotten(self, entry: DecisionEntry) -> Doubt:
        """Say `erased` when the customer was erased after the decision, as far as the state tells."""
        keys = partition_keys(decision_ref(entry.decision_id).partition)
        wanted = [keys.customer(entry.customer_id), keys.erased(entry.customer_id)]
        packed, erased_at_ms = await self._store.read(wanted, TIMEOUT_MS)
        version, struct = versioned(packed)
        if struct is None or struct == ERASED or (erased_at_ms is not None and int(erased_at_ms) >= entry.at_ms):
            return "erased"
        return "erased" if version <= entry.state_version else ""  # a new life began

    async def _customer(self, located: Located, plan: Plan | None) -> Customer:
        entry = located.record
        doubt: Doubt = await self._forgotten(entry) or ("degraded" if entry.degraded else "")
        if plan is None or doubt:
            return Customer(None, doubt or "release_missing")
        past = await read_past(self._store, located, self._most)
        plans = {entry.release: plan}
        try:
            for number in {each.release for each in past.entries} - plans.keys():
                plans[number] = await self._plan_of(number)
        except NotReady:
            return Customer(None, "release_missing", past.read)
        return await asyncio.to_thread(_paced, _rebuilt(entry, past, plans))


async def read_past(store: Store, located: Located, most: int) -> Past:
    """Read a customer's entries before a decision, backwards, each look twice as far as the one before.

    Parameters
    ----------
    store
        Only read.
    located
        The decision.
    most
        Log entries looked through at most; a look that would pass it counts for nothing.
    """
    entry, partition = located.record, decision_ref(located.record.decision_id).partition
    first = await store.log_range(partition, "-", "+", 1)
    began_ms = _ms(first[0].entry_id) if first else 0
    found: list[Entry] = []
    read, end_ms, look_ms = 0, _ms(located.entry_id), _FIRST_LOOK_MS
    while True:
        from_ms = max(end_ms - look_ms, began_ms)
        looked: list[Entry] = []
        cursor = f"{from_ms}"
        while page := await store.log_range(partition, cursor, f"{end_ms}", min(PAGE, most - read + 1)):
            read += len(page)
            if read > most:
                return Past(found, read, cut=True)
            before = [each for each in page if _order(each) < _order_of(located.entry_id)]
            looked += _of(entry.customer_id, before)
            cursor = f"({page[-1].entry_id}"
            await asyncio.sleep(LEAST_REST_S)
        found = looked + found
        if begun := _beginning(found):
            return Past(found[begun - 1 :], read, cut=False)
        if from_ms <= began_ms:
            return Past(found, read, cut=False)
        end_ms, look_ms = from_ms - 1, look_ms * 2


def _beginning(entries: list[Entry]) -> int:
    """Return which entry a customer's life begins with, 1: the first; 0: it lies further back."""
    for number in range(len(entries), 0, -1):
        if erased_by(entries[number - 1]):
            return number
    first = entries[0] if entries else None
    return int(isinstance(first, DecisionEntry) and not first.state_version and not first.degraded)


def _of(customer_id: str, page: list[LogEntry]) -> list[Entry]:
    wanted = customer_id.encode()
    entries = (_decoded(each) for each in page if wanted in each.payload)
    return [each for each in entries if each is not None and each.customer_id == customer_id]


def _decoded(entry: LogEntry) -> Entry | None:
    try:
        return decode_entry(entry.payload)
    except msgspec.DecodeError:
        return None


def _rebuilt(entry: DecisionEntry, past: Past, plans: dict[int, Plan]) -> Generator[None, None, Customer]:
    plan = plans[entry.release]
    builder = Rebuilder([entry.customer_id], plan, plan, plans.__getitem__)
    for number, each in enumerate(past.entries):
        builder.take(each)
        builder.fold(each)
        if number % _STEP == 0:
            yield
    rebuilt = builder.take(entry)
    assert rebuilt is not None  # the customer is asked about
    if rebuilt.doubt:
        return Customer(None, "log_too_long" if past.cut else rebuilt.doubt, past.read)
    return Customer(rebuilt.state, "", past.read)


async def _between(work: Generator[None, None, T]) -> T:
    """Run a generator to its end on the event loop, between whatever else it has to do."""
    while True:
        began = time.perf_counter()
        try:
            next(work)
        except StopIteration as end:
            found: T = end.value
            return found
        await asyncio.sleep(REST * (time.perf_counter() - began))


def _paced(work: Generator[None, None, T]) -> T:
    """Run a generator to its end, resting after each step for longer than it took."""
    while True:
        began = time.perf_counter()
        try:
            next(work)
        except StopIteration as end:
            found: T = end.value
            return found
        time.sleep(max(REST * (time.perf_counter() - began), LEAST_REST_S))


def _ms(entry_id: str) -> int:
    return int(entry_id.partition("-")[0])


def _order_of(entry_id: str) -> tuple[int, int]:
    ms, _, sequence = entry_id.partition("-")
    return int(ms), int(sequence)


def _order(entry: LogEntry) -> tuple[int, int]:
    return _order_of(entry.entry_id)


class _Lane:
    """One at a time; a bounded number waits."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._waiting = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for the turn; `Unavailable` when too many do."""
        if self._waiting >= WAITING:
            raise Unavailable(f"{WAITING} explanations wait already; try again later", code="explain_busy")
        self._waiting += 1
        try:
            async with self._turn:
                yield
        finally:
            self._waiting -= 1
