"""Merging two ids, and finding the canonical customer behind one.

A merge is four commits, each on one partition, each but the last leaving something that makes the rest happen:

1. *claim*, on the canonical customer: the alias is noted. Who is claimed for stays canonical until that is settled; who
   would become an alias and finds a claim on itself waits. So two merges at the same time cannot make a circle, and
   an erasure of the canonical customer knows of every alias from before it is one.
2. *move*, on the alias: its state goes to the outbox, `merged_into` says where it lives, a timer is armed.
3. *absorb*, on the canonical customer: what is in the outbox is taken in, each handover once by its sequence.
4. *deliver*, on the alias: the outbox is emptied, the timer cancelled.

Steps 3 and 4 are also what follows each commit on an alias's partition (`nbx.experience.identity`). Whoever meets an
outbox that is not empty finishes them first: the next call that names the alias, or the keeper when the timer is due.

An alias may turn out to be of a customer who is an alias by then: chains are followed, finished from their end, and
shortened. The version of the state that takes in is compared on commit, and read before the one that gives: should both
be erased meanwhile, nothing of them comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from nbx.catalog.plan import Plan
from nbx.clock import Clock
from nbx.errors import Conflict, Invalid, TooLarge, Unavailable
from nbx.experience.entries import AbsorbEntry, AliasEntry, DeliveredEntry, Merge, MovedEntry, encode_entry
from nbx.experience.fold import fold
from nbx.experience.holdout import assignment
from nbx.experience.identity import merge_timer, stricter
from nbx.experience.promises import promise_timer, promise_timers
from nbx.features.keys import partition_keys
from nbx.features.state import CustomerState, Handover, decode_state, encode_state
from nbx.features.store import Commit, Store, Timer, Verdict, versioned
from nbx.ids import checked_id, partition_of
from nbx.limits import ALIASES, COMMIT_ATTEMPTS

RETRY_MS = 2_000
"""After so long the keeper takes up what a crash left half way."""
CLAIM_MS = 20_000
"""A claim whose alias has not moved by then is void: its merge gave up or crashed. Commits time out far earlier."""


class Known(NamedTuple):
    """A customer as stored."""

    customer_id: str
    version: int
    state: CustomerState


class Merging:
    """Merges customers, and tells which one an id stands for.

    Parameters
    ----------
    store
        Where state lives.
    plan
        Returns the plan in force; raises `NotReady` when there is none.
    clock
        Tells when.
    partitions
        Number of partitions of the store.
    salt
        Of the holdouts.
    timeout_ms
        How long one store operation may take where the caller does not say.
    """

    def __init__(
        self,
        store: Store,
        plan: Callable[[], Plan],
        clock: Clock,
        *,
        partitions: int,
        salt: str,
        timeout_ms: float = 1_000.0,
    ) -> None:
        self._store = store
        self._plan = plan
        self._clock = clock
        self._partitions = partitions
        self._salt = salt
        self._timeout_ms = timeout_ms

    async def merge(self, customer_id: str, alias: str, by: str = "") -> str:
        """Make `alias` another id of a customer; returns the canonical id. Once more changes nothing.

        Aliases of `alias` come along; where `customer_id` is an alias itself, its canonical customer is meant.

        Raises
        ------
        Invalid, TooLarge
            Not ids, one and the same customer the other way round, or more than `limits.ALIASES` ids.
        Conflict
            `alias` belongs to another customer.
        Unavailable
            The store is gone, or one of the two is being merged elsewhere: whether they are merged is unknown, and told
            by trying again.
        """
        checked_id(customer_id, "customer_id")
        checked_id(alias, "alias")
        for _ in range(COMMIT_ATTEMPTS):
            root = (await self.settled(customer_id)).customer_id
            owner = (await self.settled(alias)).customer_id
            if alias in (root, customer_id):
                raise Invalid(
                    f"{customer_id} and {alias} are one customer, {root}, which cannot be merged into itself",
                    field="alias",
                    code="alias_self",
                )
            if owner == root:
                return root
            if owner != alias:
                raise Conflict(
                    f"{alias} is an alias of customer {owner} already; merge {owner} if the two are one",
                    field="alias",
                    code="alias_taken",
                )
            if await self._try(root, alias, by):
                return (await self.settled(alias)).customer_id
        raise _contended(alias)

    async def settled(self, customer_id: str, left_ms: Callable[[], float] | None = None) -> Known:
        """Return the canonical customer behind an id, after finishing what is half way; itself when it is no alias.

        `left_ms` tells how long the next store operation may take, milliseconds.
        """
        left_ms = left_ms or (lambda: self._timeout_ms)
        for _ in range(COMMIT_ATTEMPTS):
            *aliases, root = await self._chain(customer_id, left_ms)
            waiting = [link for link in reversed(aliases) if link.state.outbox]
            for link in waiting:
                if not await self._deliver(link, root.customer_id, left_ms):
                    break
            if not waiting:
                if len(aliases) > 1:  # a chain: the next one has a shorter way; whether it worked does not matter
                    await self._commit(aliases[0], [self._moved(aliases[0], root.customer_id)], left_ms)
                return root
        raise _contended(customer_id)

    async def peek(self, customer_id: str, left_ms: Callable[[], float] | None = None) -> Known:
        """Return the canonical customer behind an id as it would be with all half done finished; changes nothing."""
        *aliases, root = await self._chain(customer_id, left_ms or (lambda: self._timeout_ms))
        for link in reversed(aliases):
            for entry in self._absorbing(link, root):
                fold(root.state, None, entry, self._plan().rules)
        return root

    async def _try(self, root: str, alias: str, by: str) -> bool:
        """Claim and move; False: something changed meanwhile."""
        now_ms = self._clock.now_ms()
        giver = await self._load(alias, self._timeout_ms)
        if giver.state.merged_into or not await self._is_free(giver):
            return False
        taker = await self._load(root, self._timeout_ms)
        if taker.state.merged_into:
            return False
        if len({alias, *taker.state.aliases, *giver.state.aliases}) > ALIASES:
            raise TooLarge(f"customer {root} would have more than {ALIASES} aliases", field="alias")
        claim = AliasEntry(customer_id=root, at_ms=now_ms, release=self._plan().release, alias=alias, by=by)
        if not await self._commit(taker, [claim], lambda: self._timeout_ms):
            return False
        if self._clock.now_ms() > now_ms + CLAIM_MS // 2:  # the claim may be void before the move is done
            return False
        return await self._commit(giver, [self._moved(giver, root)], lambda: self._timeout_ms)

    async def _is_free(self, giver: Known) -> bool:
        """Tell whether nobody claimed `giver` to be canonical; settles what can be, and False says to look again."""
        for name, sequence in giver.state.aliases.items():
            if sequence >= 0:
                continue
            claimed = await self.settled(name)
            if claimed.customer_id == giver.customer_id:
                return False
            if claimed.customer_id == name and self._clock.now_ms() + sequence <= CLAIM_MS:
                raise _contended(giver.customer_id)
            release, now_ms = self._plan().release, self._clock.now_ms()
            void = AliasEntry(
                customer_id=giver.customer_id, at_ms=now_ms, release=release, alias=name, by="", withdrawn=True
            )
            await self._commit(giver, [void], lambda: self._timeout_ms)
            return False
        return True

    async def _deliver(self, link: Known, root: str, left_ms: Callable[[], float]) -> bool:
        """Let the canonical customer take in what an alias hands over; False: something changed meanwhile."""
        taker = await self._load(root, left_ms())
        giver = await self._load(link.customer_id, left_ms())
        if giver.state.merged_into != link.state.merged_into or taker.state.merged_into:
            return False
        if not giver.state.outbox:
            return True
        absorbing = self._absorbing(giver, taker)
        if absorbing and not await self._commit(taker, absorbing, left_ms):
            return False
        delivered = DeliveredEntry(
            customer_id=giver.customer_id,
            at_ms=self._clock.now_ms(),
            release=self._plan().release,
            sequence=giver.state.outbox[-1].sequence,
        )
        return await self._commit(giver, [delivered], left_ms)

    def _absorbing(self, giver: Known, taker: Known) -> list[AbsorbEntry]:
        """Return what the taker has not heard of, as entries of its log."""
        known = taker.state.aliases.get(giver.customer_id, 0)
        return [
            AbsorbEntry(
                customer_id=taker.customer_id,
                at_ms=self._clock.now_ms(),
                release=self._plan().release,
                alias=giver.customer_id,
                handed=handed,
                holdout=self._holdout(giver, taker, handed),
            )
            for handed in giver.state.outbox
            if handed.sequence > known
        ]

    def _holdout(self, giver: Known, taker: Known, handed: Handover) -> str:
        if not handed.state:
            return ""
        policy = self._plan().catalog.holdout
        of_giver = assignment(giver.customer_id, decode_state(handed.state), policy, self._salt)
        return stricter(of_giver, assignment(taker.customer_id, taker.state, policy, self._salt))

    def _moved(self, giver: Known, into: str) -> MovedEntry:
        at_ms, release = self._clock.now_ms(), self._plan().release
        return MovedEntry(customer_id=giver.customer_id, at_ms=at_ms, release=release, into=into)

    async def _chain(self, customer_id: str, left_ms: Callable[[], float]) -> list[Known]:
        """Return who an id stands for: itself, the customer it was merged into, and so on; the last is canonical."""
        chain = [await self._load(customer_id, left_ms())]
        while chain[-1].state.merged_into:
            if len(chain) > ALIASES:
                raise Unavailable(
                    f"customer {customer_id} stands for nobody: its merges go in a circle", code="alias_circle"
                )
            chain.append(await self._load(chain[-1].state.merged_into, left_ms()))
        return chain

    async def _load(self, customer_id: str, timeout_ms: float) -> Known:
        key = partition_keys(partition_of(customer_id, self._partitions)).customer(customer_id)
        version, struct = versioned((await self._store.read([key], timeout_ms))[0])
        return Known(customer_id, version, decode_state(struct))

    async def _commit(self, known: Known, entries: Sequence[Merge], left_ms: Callable[[], float]) -> bool:
        """Fold entries into a customer's state and commit; False on a version conflict. `known` is used up."""
        for entry in entries:
            fold(known.state, None, entry, self._plan().rules)
        partition = partition_of(known.customer_id, self._partitions)
        arm, cancel = merge_timers(known.customer_id, known.state, self._clock.now_ms())
        due, settled = promise_timers(known.customer_id, known.state)
        if known.state.merged_into:  # its promises went along
            settled = (promise_timer(known.customer_id),)
        commit = Commit(
            partition=partition,
            customer_key=partition_keys(partition).customer(known.customer_id),
            expected_version=known.version,
            state=encode_state(known.state),
            entries=tuple(encode_entry(entry) for entry in entries),
            arm=(*arm, *due),
            cancel=(*cancel, *settled),
        )
        return (await self._store.commit(commit, left_ms())).verdict is Verdict.DONE


def merge_timers(customer_id: str, state: CustomerState, now_ms: int) -> tuple[tuple[Timer, ...], tuple[str, ...]]:
    """Return the timer to arm, or the member to cancel, for what a customer has yet to hand over."""
    if state.outbox:
        return (Timer(merge_timer(customer_id), now_ms + RETRY_MS),), ()
    return (), (merge_timer(customer_id),) if state.merged_into else ()


def _contended(customer_id: str) -> Unavailable:
    return Unavailable(
        f"customer {customer_id} is being changed by too many at once; try again", code="state_contended"
    )
