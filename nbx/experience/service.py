"""Taking events in: validate, dedupe, fold, commit, and only then acknowledge.

Events of one customer in one call share one commit, in their order; a bad event fails alone. The keeper's timers and
profile changes come through here too, so there is one way by which state changes after a decision.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from msgspec import Struct, structs

from nbx.catalog.plan import Plan
from nbx.clock import Clock
from nbx.errors import Invalid, NbxError, TooLarge, Unavailable
from nbx.experience.checks import check_slot, checked_event, foreign, missing
from nbx.experience.entries import Entry, Event, EventEntry, Outcome, ProfileEntry, TimerEntry, encode_entry
from nbx.experience.fold import fold
from nbx.experience.goals import awaited
from nbx.experience.lifecycle import SLOT_EVENTS, OpenDecision, decode_open, encode_open, keep_ms
from nbx.features.keys import PartitionKeys, partition_keys
from nbx.features.schema import Value, checked_values
from nbx.features.state import CustomerState, decode_state, encode_state
from nbx.features.store import Commit, Put, Store, Timer, Verdict, versioned
from nbx.ids import checked_id, decision_ref, partition_of
from nbx.limits import BATCH, COMMIT_ATTEMPTS

_ACCEPTED = b"1"


class EventResult(Struct, frozen=True, omit_defaults=True):
    """What became of one event."""

    event_id: str
    status: str
    """`accepted`, `duplicate` or `rejected`."""
    outcome: str = ""
    """Terminal outcome of the slot after the event, when it changed it."""
    code: str = ""
    detail: str = ""
    field: str = ""


@dataclass(slots=True)
class _Item:
    """An event on its way."""

    index: int
    event: Event
    at_ms: int
    customer_id: str = ""
    partition: int = -1


@dataclass(slots=True)
class _Pending:
    """Folded, not yet committed, changes of one customer."""

    keys: PartitionKeys
    now_ms: int
    state: CustomerState
    version: int
    entries: list[bytes]
    puts: dict[str, Put]
    arm: dict[str, Timer]
    cancel: dict[str, None]

    def fold(
        self,
        entry: Entry,
        decision_id: str,
        decision: OpenDecision | None,
        plan: Plan,
        others: Mapping[str, OpenDecision | None] = MappingProxyType({}),
    ) -> tuple[Outcome, ...]:
        """Fold an entry and note what is to be written; returns the outcomes."""
        folded = fold(self.state, decision, entry, plan.rules, others)
        if isinstance(entry, EventEntry | TimerEntry) and (folded.outcomes or folded.goals):
            entry = structs.replace(entry, outcomes=folded.outcomes, goals=folded.goals)
        self.entries.append(encode_entry(entry))
        changed = {goal.decision_id: others[goal.decision_id] for goal in folded.goals if goal.decision_id in others}
        for changed_id, open_decision in ({decision_id: folded.decision} | changed).items():
            if open_decision is not None:
                key = self.keys.decision(changed_id)
                left_ms = keep_ms(open_decision, plan.rules.remember_ms) - (self.now_ms - open_decision.at_ms)
                self.puts[key] = Put(key, encode_open(open_decision), max(left_ms, 60_000))
        for member in folded.cancel:
            self.arm.pop(member, None)
            self.cancel[member] = None
        for timer in folded.arm:
            self.arm[timer.member] = timer
            self.cancel.pop(timer.member, None)
        return folded.outcomes


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
    ) -> None:
        self._store = store
        self._plan = plan
        self._clock = clock
        self._partitions = partitions
        self._dedupe_ms = dedupe_ms
        self._timeout_ms = timeout_ms
        self._observe = observe

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
                items.append(_Item(index, *checked_event(event, now_ms, plan.rules.channels)))
            except NbxError as error:
                results[index] = _rejected(event, index, error)
        for index, fault in (await self._locate(items)).items():
            results[index] = _rejected(events[index], index, fault)
        groups: dict[str, list[_Item]] = defaultdict(list)
        for item in items:
            if results[item.index] is None:
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
        return [result for result in results if result is not None]

    async def change_profile(self, customer_id: str, changes: dict[str, Value | None]) -> None:
        """Set or (None) forget declared features of a customer."""
        plan = self._plan()
        checked_id(customer_id, "customer_id")
        for name in changes:
            if name not in plan.profile_features:
                raise Invalid(f"profile.{name} is not a declared profile feature", field=f"profile.{name}")
        known = {name: value for name, value in changes.items() if value is not None}
        checked = changes | checked_values(known, plan.profile_features, "profile")
        entry = ProfileEntry(customer_id=customer_id, at_ms=self._clock.now_ms(), release=plan.release, changes=checked)
        keys = partition_keys(partition := partition_of(customer_id, self._partitions))
        for _ in range(COMMIT_ATTEMPTS):
            (packed,) = await self._store.read([keys.customer(customer_id)], self._timeout_ms)
            pending = _pending(keys, packed, self._clock.now_ms())
            pending.fold(entry, "", None, plan)
            if await self._commit(partition, customer_id, pending):
                return
        raise _contended(customer_id)

    async def run_timer(self, partition: int, timer: Timer) -> None:
        """Let a due timer speak, or drop it when its decision is gone."""
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
            pending = _pending(keys, packed, self._clock.now_ms())
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
                return

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
        """Record events of one customer in one commit."""
        partition, customer_id = items[0].partition, items[0].customer_id
        keys = partition_keys(partition)
        decision_ids = list(dict.fromkeys(item.event.decision_id for item in items if item.event.decision_id))
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
            pending = _pending(keys, packed, self._clock.now_ms())
            await self._read_awaited(items, decisions, pending, now_ms)
            results, outcomes = self._fold_all(items, marks, decisions, pending, plan, now_ms)
            if not pending.entries or await self._commit(partition, customer_id, pending):
                for outcome in outcomes:
                    self._observe(outcome)
                return results
        raise _contended(customer_id)

    async def _read_awaited(
        self, items: Sequence[_Item], decisions: dict[str, OpenDecision | None], pending: _Pending, now_ms: int
    ) -> None:
        """Add the decisions whose goals the events may reach.

        They are read after the state: a decision changes by commits on its customer only, so if the state's version
        still holds at the commit, none has come in between.
        """
        found = {each for item in items for each in awaited(pending.state, item.event, item.at_ms, now_ms)}
        if wanted := sorted(found - decisions.keys()):
            packed = await self._store.read([pending.keys.decision(each) for each in wanted], self._timeout_ms)
            for decision_id, open_decision in zip(wanted, packed, strict=True):
                decisions[decision_id] = decode_open(open_decision) if open_decision is not None else None

    def _fold_all(
        self,
        items: Sequence[_Item],
        marks: Sequence[bytes | None],
        decisions: dict[str, OpenDecision | None],
        pending: _Pending,
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
                check_slot(event, decision, item.customer_id, plan.rules.remember_ms, now_ms)
            except NbxError as error:
                results.append(_rejected(event, item.index, error))
                continue
            # nothing happens to a slot before its decision: a slow clock would run its timers out at once
            began_ms = decision.at_ms if decision is not None and event.type in SLOT_EVENTS else 0
            entry = EventEntry(
                customer_id=item.customer_id,
                at_ms=max(item.at_ms, began_ms),
                release=plan.release,
                event=event,
                received_ms=now_ms,
            )
            led_to = pending.fold(entry, event.decision_id, decision, plan, decisions)
            outcomes += led_to
            pending.puts[mark_key] = Put(mark_key, _ACCEPTED, self._dedupe_ms, only_new=True)
            results.append(EventResult(event.event_id, "accepted", led_to[-1].outcome if led_to else ""))
        return results, outcomes

    async def _commit(self, partition: int, customer_id: str, pending: _Pending) -> bool:
        answer = await self._store.commit(
            Commit(
                partition=partition,
                customer_key=pending.keys.customer(customer_id),
                expected_version=pending.version,
                state=encode_state(pending.state),
                entries=tuple(pending.entries),
                puts=tuple(pending.puts.values()),
                arm=tuple(pending.arm.values()),
                cancel=tuple(pending.cancel),
            ),
            self._timeout_ms,
        )
        return answer.verdict is Verdict.DONE


def _pending(keys: PartitionKeys, packed: bytes | None, now_ms: int) -> _Pending:
    version, struct = versioned(packed)
    return _Pending(keys, now_ms, decode_state(struct), version, [], {}, {}, {})


def _rejected(event: Event, index: int, error: NbxError) -> EventResult:
    field = f"events[{index}].{error.field}" if error.field else f"events[{index}]"
    return EventResult(event.event_id, "rejected", code=error.code, detail=error.message, field=field)


def _contended(customer_id: str) -> Unavailable:
    return Unavailable(
        f"customer {customer_id} is being changed by too many at once; try again", code="state_contended"
    )
