"""Taking events in: validate, dedupe, fold, commit, and only then acknowledge.

Events of one customer in one call share one commit, in their order; a bad event fails alone. The keeper's timers and
profile changes come through here too, so there is one way by which state changes after a decision.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from msgspec import structs

from nbx.catalog.plan import Plan
from nbx.clock import Clock
from nbx.errors import Invalid, NbxError, TooLarge, Unavailable
from nbx.experience.checks import check_slot, checked_event, foreign, missing
from nbx.experience.entries import Event, EventEntry, Outcome, ProfileEntry, TimerEntry
from nbx.experience.goals import awaited
from nbx.experience.identity import MERGE
from nbx.experience.lifecycle import SLOT_EVENTS, OpenDecision, decode_open
from nbx.experience.merging import Merging
from nbx.experience.pending import Pending, pending_of
from nbx.experience.promises import TIMER
from nbx.experience.results import EventResult
from nbx.experience.running_out import run_out
from nbx.features.keys import partition_keys
from nbx.features.schema import Value, checked_values
from nbx.features.store import Put, Store, Timer, Verdict
from nbx.ids import checked_id, decision_ref, partition_of
from nbx.limits import BATCH, COMMIT_ATTEMPTS

_ACCEPTED = b"1"
_PASSED_ON = "passed on"
"""Status, on the way, of an alias's behaviour: its canonical customer's call to answer."""


@dataclass(slots=True)
class _Item:
    """An event on its way."""

    index: int
    event: Event
    at_ms: int
    customer_id: str = ""
    partition: int = -1
    checked: bool = False
    """Its decision, an alias's, was checked there."""


class EventService:
    """Records events, runs timers and changes profiles.

    Parameters
    ----------
    store
        Where state lives.
    plan
        Returns the plan in force; raises `NotReady` when there is none.
    clock
        Tells when events arrive.
    partitions
        Number of partitions of the store.
    dedupe_ms
        How long an event id is remembered.
    timeout_ms
        How long one store operation may take.
    observe
        Told every outcome after it is committed.
    salt
        Of the decisions: who is held out stays so in a merge.
    """

    def __init__(
        self,
        store: Store,
        plan: Callable[[], Plan],
        clock: Clock,
        *,
        partitions: int,
        dedupe_ms: int,
        timeout_ms: float = 1_000.0,
        observe: Callable[[Outcome], None] = lambda _: None,
        salt: str = "nbx",
    ) -> None:
        self._store = store
        self._plan = plan
        self._clock = clock
        self._partitions = partitions
        self._dedupe_ms = dedupe_ms
        self._timeout_ms = timeout_ms
        self._observe = observe
        self.merging = Merging(store, plan, clock, partitions=partitions, salt=salt, timeout_ms=timeout_ms)

    async def record(self, events: Sequence[Event]) -> list[EventResult]:
        """Take events in; one result per event, in their order. An acknowledged event is in the store.

        Raises
        ------
        TooLarge
            More than `limits.BATCH` events.
        Unavailable, NotReady
            The store is gone, or nothing is published: no event was taken in.
        """
        if len(events) > BATCH:
            raise TooLarge(f"{len(events)} events in one call, at most {BATCH} are allowed", field="events")
        plan = self._plan()
        now_ms = self._clock.now_ms()
        results: list[EventResult | None] = [None] * len(events)
        items = []
        for index, event in enumerate(events):
            try:
                items.append(_Item(index, *checked_event(event, now_ms, plan.rules)))
            except NbxError as error:
                results[index] = _rejected(event, index, error)
        for index, fault in (await self._locate(items)).items():
            results[index] = _rejected(events[index], index, fault)
        await self._record_all([item for item in items if results[item.index] is None], results, plan, now_ms)
        foreign_ones = [item for item in items if (done := results[item.index]) and done.code == "decision_foreign"]
        if foreign_ones:
            own = [item for item in foreign_ones if await self._is_own(item)]
            await self._record_all(own, results, plan, now_ms)
        return [result for result in results if result is not None]

    async def _record_all(
        self, items: Sequence[_Item], results: list[EventResult | None], plan: Plan, now_ms: int
    ) -> None:
        """Record events customer by customer; `results` gets theirs."""
        groups: dict[str, list[_Item]] = defaultdict(list)
        for item in items:
            groups[item.customer_id].append(item)
        done = await asyncio.gather(
            *(self._record_customer(group, plan, now_ms) for group in groups.values()), return_exceptions=True
        )
        for group, outcome in zip(groups.values(), done, strict=True):
            if isinstance(outcome, Unavailable) and len(groups) > 1:
                for item in group:
                    results[item.index] = _rejected(item.event, item.index, outcome)
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                for item, result in zip(group, outcome, strict=True):
                    results[item.index] = result

    async def change_profile(self, customer_id: str, changes: dict[str, Value | None], *, by: str = "") -> None:
        """Set or (None) forget declared features of a customer; `by` as `ProfileEntry.by`."""
        plan = self._plan()
        checked_id(customer_id, "customer_id")
        for name in changes:
            if name not in plan.profile_features:
                raise Invalid(f"profile.{name} is not a declared profile feature", field=f"profile.{name}")
        known = {name: value for name, value in changes.items() if value is not None}
        checked = changes | checked_values(known, plan.profile_features, "profile")
        at_ms = self._clock.now_ms()
        entry = ProfileEntry(customer_id=customer_id, at_ms=at_ms, release=plan.release, changes=checked, by=by)
        keys = partition_keys(partition := partition_of(customer_id, self._partitions))
        for _ in range(COMMIT_ATTEMPTS):
            (packed,) = await self._store.read([keys.customer(customer_id)], self._timeout_ms)
            pending = pending_of(keys, packed, self._clock.now_ms())
            if pending.state.merged_into:
                customer_id = (await self.merging.settled(customer_id)).customer_id
                entry = structs.replace(entry, customer_id=customer_id)
                keys = partition_keys(partition := partition_of(customer_id, self._partitions))
                continue
            others = await self._read_recent(pending, partition)
            outcomes = pending.fold(entry, "", None, plan, others)
            if await self._commit(partition, customer_id, pending):
                for outcome in outcomes:
                    self._observe(outcome)
                return
        raise _contended(customer_id)

    async def run_timer(self, partition: int, timer: Timer) -> None:
        """Let a due timer speak, or drop it when its decision is gone."""
        if timer.member.startswith(MERGE):
            if (await self.merging.settled(alias := timer.member.removeprefix(MERGE))).customer_id == alias:
                await self._store.drop_timers(partition, [timer.member])
            return
        if timer.member.startswith(TIMER):
            if not await run_out(self._store, self._plan(), self._clock, partition, timer, self._timeout_ms):
                raise _contended(timer.member.removeprefix(TIMER))
            return
        kind, decision_id, number = timer.member.split(":")
        plan = self._plan()
        keys = partition_keys(partition)
        for _ in range(COMMIT_ATTEMPTS):
            (packed_decision,) = await self._store.read([keys.decision(decision_id)], self._timeout_ms)
            if packed_decision is None:
                await self._store.drop_timers(partition, [timer.member])
                return
            customer_id = decode_open(packed_decision).customer_id
            # again, and in one read: the version that is compared on commit vouches for what was read with it only
            wanted = [keys.customer(customer_id), keys.decision(decision_id)]
            packed, packed_decision = await self._store.read(wanted, self._timeout_ms)
            if packed_decision is None:
                continue
            decision = decode_open(packed_decision)
            pending = pending_of(keys, packed, self._clock.now_ms())
            if not await self._know_canonical(customer_id, pending):
                continue
            entry = TimerEntry(
                customer_id=customer_id,
                at_ms=timer.due_ms,
                release=plan.release,
                decision_id=decision_id,
                slot=int(number),
                kind=kind,
            )
            outcomes = pending.fold(entry, decision_id, decision, plan)
            if await self._commit(partition, customer_id, pending):
                for outcome in outcomes:
                    self._observe(outcome)
                if pending.state.outbox:
                    await self.merging.settled(customer_id)
                return

    async def _know_canonical(self, customer_id: str, pending: Pending) -> bool:
        """Have an alias's canonical state at hand; False: a handover had to be finished first, `pending` is stale."""
        if pending.state.merged_into:
            pending.canonical = (await self.merging.settled(customer_id)).state
        return not pending.state.outbox

    async def _is_own(self, item: _Item) -> bool:
        """Tell whether an event's decision was made under another id of its customer, and put it there."""
        partition = decision_ref(item.event.decision_id).partition
        if partition >= self._partitions:
            return False
        key = partition_keys(partition).decision(item.event.decision_id)
        (packed,) = await self._store.read([key], self._timeout_ms)
        if packed is None:
            return False
        owner = decode_open(packed).customer_id
        known = [await self.merging.peek(customer_id) for customer_id in (owner, item.event.customer_id)]
        item.customer_id, item.partition = owner, partition
        return known[0].customer_id == known[1].customer_id

    async def _locate(self, items: Sequence[_Item]) -> dict[int, NbxError]:
        """Fill in customer and partition of each item; returns the errors by index."""
        errors: dict[int, NbxError] = {}
        orphans: dict[int, list[_Item]] = defaultdict(list)
        for item in items:
            event = item.event
            if event.customer_id:
                item.customer_id = event.customer_id
                item.partition = partition_of(event.customer_id, self._partitions)
            if event.decision_id:
                try:
                    partition = decision_ref(event.decision_id).partition
                except Invalid as error:
                    errors[item.index] = error
                    continue
                if event.customer_id and partition != item.partition:
                    errors[item.index] = foreign(event)
                elif partition >= self._partitions:
                    errors[item.index] = missing(event, item.at_ms, 0)
                elif not event.customer_id:
                    orphans[partition].append(item)
        for partition, group in orphans.items():
            keys = [partition_keys(partition).decision(item.event.decision_id) for item in group]
            for item, packed in zip(group, await self._store.read(keys, self._timeout_ms), strict=True):
                if packed is None:
                    errors[item.index] = missing(item.event, self._clock.now_ms(), self._plan().rules.remember_ms)
                else:
                    item.customer_id, item.partition = decode_open(packed).customer_id, partition
        return errors

    async def _record_customer(self, items: list[_Item], plan: Plan, now_ms: int) -> list[EventResult]:
        """Record events of one customer in one commit; an alias's behaviour in one of its canonical customer."""
        partition, customer_id = items[0].partition, items[0].customer_id
        keys = partition_keys(partition)
        named = (item.event.decision_id for item in items if not item.checked)
        decision_ids = list(dict.fromkeys(decision_id for decision_id in named if decision_id))
        wanted = [keys.customer(customer_id)]
        wanted += [keys.event(item.event.event_id) for item in items]
        wanted += [keys.decision(decision_id) for decision_id in decision_ids]
        for _ in range(COMMIT_ATTEMPTS):
            packed, *rest = await self._store.read(wanted, self._timeout_ms)
            marks, opens = rest[: len(items)], rest[len(items) :]
            decisions = {
                decision_id: decode_open(open_decision) if open_decision is not None else None
                for decision_id, open_decision in zip(decision_ids, opens, strict=True)
            }
            pending = pending_of(keys, packed, self._clock.now_ms())
            if not await self._know_canonical(customer_id, pending):
                continue
            if pending.state.aliases:
                marks = await self._marked_under_aliases(items, marks, pending)
            elsewhere = await self._read_awaited(items, decisions, pending, now_ms)
            results, outcomes = self._fold_all(items, marks, decisions, pending, plan, now_ms)
            for alias, goals in elsewhere.items():
                accepted = [item for item, result in zip(items, results, strict=True) if result.status == "accepted"]
                await self._reach(alias, goals, accepted, plan, now_ms)
            if not pending.entries or await self._commit(partition, customer_id, pending):
                for outcome in outcomes:
                    self._observe(outcome)
                return results if pending.canonical is None else await self._passed_on(items, results, plan, now_ms)
        raise _contended(customer_id)

    async def _passed_on(
        self, items: Sequence[_Item], results: list[EventResult], plan: Plan, now_ms: int
    ) -> list[EventResult]:
        """Have the canonical customer of an alias take in what has just been committed, and the alias's behaviour."""
        known = await self.merging.settled(items[0].customer_id)
        partition = partition_of(known.customer_id, self._partitions)
        behaviour = [at for at, result in enumerate(results) if result.status == _PASSED_ON]
        moved = [
            replace(items[at], customer_id=known.customer_id, partition=partition, checked=True) for at in behaviour
        ]
        if moved:
            for at, result in zip(behaviour, await self._record_customer(moved, plan, now_ms), strict=True):
                results[at] = result
        return results

    async def _marked_under_aliases(
        self, items: Sequence[_Item], marks: Sequence[bytes | None], pending: Pending
    ) -> list[bytes | None]:
        """Return the marks, also of events that were taken in under another id when that was a customer of its own."""
        found = list(marks)
        for partition in {partition_of(alias, self._partitions) for alias in pending.state.aliases}:
            keys = partition_keys(partition)
            read = await self._store.read([keys.event(item.event.event_id) for item in items], self._timeout_ms)
            found = [mark or other for mark, other in zip(found, read, strict=True)]
        return found

    async def _reach(
        self, alias: str, decision_ids: Sequence[str], items: Sequence[_Item], plan: Plan, now_ms: int
    ) -> None:
        """Let events reach goals of decisions made under an alias, before they are the canonical customer's.

        A goal is reached once, so that doing it again does no harm when the events are not committed after it.
        """
        keys = partition_keys(partition := partition_of(alias, self._partitions))
        wanted = [keys.customer(alias), *(keys.decision(decision_id) for decision_id in decision_ids)]
        for _ in range(COMMIT_ATTEMPTS):
            packed, *opens = await self._store.read(wanted, self._timeout_ms)
            found = zip(decision_ids, opens, strict=True)
            decisions = {decision_id: decode_open(opened) for decision_id, opened in found if opened is not None}
            pending = pending_of(keys, packed, self._clock.now_ms())
            if not await self._know_canonical(alias, pending):
                continue
            for item in items:
                ids = awaited(pending.state, item.event, item.at_ms, now_ms)
                if pending.canonical is not None and any(each in decisions for each in ids):
                    pending.fold(_entry(item, plan, now_ms, alias), "", None, plan, decisions)
            if not pending.entries or await self._commit(partition, alias, pending):
                return
        raise _contended(alias)

    async def _read_recent(self, pending: Pending, partition: int) -> dict[str, OpenDecision | None]:
        """Return late decisions on which a change of profile may throw light, but for those of aliases."""
        recent = (each.decision_id for each in pending.state.recent)
        ids = [decision_id for decision_id in recent if decision_ref(decision_id).partition == partition]
        packed = await self._store.read([pending.keys.decision(each) for each in ids], self._timeout_ms) if ids else []
        return {each: decode_open(opened) for each, opened in zip(ids, packed, strict=True) if opened is not None}

    async def _read_awaited(
        self, items: Sequence[_Item], decisions: dict[str, OpenDecision | None], pending: Pending, now_ms: int
    ) -> dict[str, list[str]]:
        """Add the decisions whose goals the events may reach; returns those made under aliases, by alias.

        They are read after the state: a decision changes by commits on its customer only, so if the state's version
        still holds at the commit, none has come in between.
        """
        found = {each for item in items for each in awaited(pending.state, item.event, item.at_ms, now_ms)}
        wanted = defaultdict(list)
        for decision_id in sorted(found - decisions.keys() if pending.canonical is None else ()):
            wanted[decision_ref(decision_id).partition].append(decision_id)
        elsewhere = defaultdict(list)
        for partition, ids in wanted.items():
            keys = partition_keys(partition)
            packed = await self._store.read([keys.decision(each) for each in ids], self._timeout_ms)
            for decision_id, opened in zip(ids, packed, strict=True):
                decision = decisions[decision_id] = decode_open(opened) if opened is not None else None
                if decision is not None and decision.customer_id != items[0].customer_id:
                    elsewhere[decision.customer_id].append(decision_id)
        return elsewhere

    def _fold_all(
        self,
        items: Sequence[_Item],
        marks: Sequence[bytes | None],
        decisions: dict[str, OpenDecision | None],
        pending: Pending,
        plan: Plan,
        now_ms: int,
    ) -> tuple[list[EventResult], list[Outcome]]:
        results: list[EventResult] = []
        outcomes: list[Outcome] = []
        for item, mark in zip(items, marks, strict=True):
            event = item.event
            mark_key = pending.keys.event(event.event_id)
            if mark is not None or mark_key in pending.puts:
                results.append(EventResult(event.event_id, "duplicate"))
                continue
            decision = decisions.get(event.decision_id)
            try:
                if not item.checked:
                    check_slot(event, decision, item.customer_id, plan.rules.remember_ms, now_ms)
            except NbxError as error:
                results.append(_rejected(event, item.index, error))
                continue
            if pending.canonical is not None and event.type not in SLOT_EVENTS:
                results.append(EventResult(event.event_id, _PASSED_ON))
                continue
            # nothing happens to a slot before its decision: a slow clock would run its timers out at once
            began_ms = decision.at_ms if decision is not None and event.type in SLOT_EVENTS else 0
            entry = _entry(item, plan, now_ms, item.customer_id, began_ms)
            led_to = pending.fold(entry, event.decision_id, decision, plan, decisions)
            outcomes += led_to
            pending.puts[mark_key] = Put(mark_key, _ACCEPTED, self._dedupe_ms, only_new=True)
            results.append(EventResult(event.event_id, "accepted", led_to[-1].outcome if led_to else ""))
        return results, outcomes

    async def _commit(self, partition: int, customer_id: str, pending: Pending) -> bool:
        answer = await self._store.commit(pending.commit(partition, customer_id), self._timeout_ms)
        return answer.verdict is Verdict.DONE


def _entry(item: _Item, plan: Plan, now_ms: int, customer_id: str, began_ms: int = 0) -> EventEntry:
    return EventEntry(
        customer_id=customer_id,
        at_ms=max(item.at_ms, began_ms),
        release=plan.release,
        event=item.event,
        received_ms=now_ms,
    )


def _rejected(event: Event, index: int, error: NbxError) -> EventResult:
    field = f"events[{index}].{error.field}" if error.field else f"events[{index}]"
    return EventResult(event.event_id, "rejected", code=error.code, detail=error.message, field=field)


def _contended(customer_id: str) -> Unavailable:
    return Unavailable(
        f"customer {customer_id} is being changed by too many at once; try again", code="state_contended"
    )
