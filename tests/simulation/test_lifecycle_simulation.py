"""A small world with faults: random orders, duplicates, late events, lost replies and conflicts, all from one seed.

The services are the real ones; the store is the fake that passes the contract suite, made to give way between calls so
that what runs at the same time meets in every order. Afterwards the log is read again, by slow references.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from msgspec import structs

from nbx.bandits.snapshot import BoundModel, bind
from nbx.catalog.parse import parse_catalog
from nbx.catalog.plan import Plan
from nbx.clock import ManualClock
from nbx.decision.messages import DecideRequest
from nbx.decision.recovery import recover
from nbx.decision.service import DecisionService
from nbx.errors import Unavailable, Unknown
from nbx.experience.entries import (
    DecisionEntry,
    Entry,
    EraseEntry,
    Event,
    EventEntry,
    Outcome,
    TimerEntry,
    decode_entry,
)
from nbx.experience.erasure import ErasureService
from nbx.experience.fold import fold
from nbx.experience.lifecycle import OpenDecision, decode_open, encode_open
from nbx.experience.obligations import open_topics
from nbx.experience.service import EventService
from nbx.features.keys import partition_keys
from nbx.features.state import CustomerState, decode_state, encode_state
from nbx.features.store import Commit, Committed, versioned
from nbx.ids import decision_ref, partition_of
from nbx.runtime.keeper_process import run_due
from tests.reference.lifecycle import TRUTH, Reference
from tests.reference.relationship import Relationship
from tests.simulation.store_fake import FakeStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from nbx.features.schema import Value

PARTITIONS = 3
CUSTOMERS = 6
STEPS = 160
BEGIN_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
SEEDS = range(24)

_ACTIONS = "".join(
    f"""
  {name}: {{group: {group}, value: {value}, gives: [x], asks: [y], limits: [{limit}],
    treatments: {{t: {{placements: [web, desk]}}}}}}"""
    for name, group, value, limit in (
        ("one", "few", 50, "{max: 1, per: 1h}"),
        ("two", "few", 40, "{max: 2, per: 2h}"),
        ("three", "few", 45, ""),
        ("four", "many", 30, "{max: 3, per: 1h}"),
        ("five", "many", 35, ""),
        ("six", "many", 20, ""),
    )
)
CATALOG = f"""
catalog: simulation
features:
  visits: {{type: number, from: {{event: page_view, count: 1d}}, encode: {{log: 20}}}}
  section: {{type: category, from: {{event: page_view, last: section}}, encode: {{onehot: [a, b]}}}}
  mood: {{type: number, from: {{event: page_view, decayed_mean: mood, half_life: 1h}}}}
placements:
  web: {{channel: web, impressions: reported, slots: 3, delivery: 30s, attention: 5m,
        default: {{action: six, treatment: t}}}}
  desk: {{channel: phone, impressions: implicit, slots: 3, attention: 10m}}
groups:
  few: {{topic: few, limits: [{{max: 2, per: 1h}}], pause: {{declined: 20m, dismissed: 10m, ignored: 5m}}}}
  many: {{topic: many, pause: {{declined: 20m}}}}
actions:{_ACTIONS}
experience: {{half_life: 6h, loss_aversion: 2.5, floor: -40, obligation: 5h}}
exploration: {{floor: 0.05, scale: 1.0}}
"""
KINDS = ("delivered", "seen", "accepted", "declined", "dismissed", "converted", "failed", "complained", "skipped")


class YieldingStore(FakeStore):
    """Lets others run before every call, a random number of times, and fails now and then."""

    def __init__(self, clock: ManualClock, rng: np.random.Generator) -> None:
        super().__init__(clock)
        self._rng = rng
        self.stale = 0
        self.fragile = True

    async def read(self, keys: Sequence[str], timeout_ms: float) -> list[bytes | None]:
        await self._give_way()
        if self.fragile and self._rng.random() < 0.01:
            self.failing_reads = 1
        return await super().read(keys, timeout_ms)

    async def commit(self, commit: Commit, timeout_ms: float) -> Committed:
        await self._give_way()
        if self.fragile and (draw := self._rng.random()) < 0.06:
            self.failing_commits_before, self.failing_commits_after = int(draw < 0.03), int(draw >= 0.03)
        committed = await super().commit(commit, timeout_ms)
        self.stale += committed.verdict.value == "stale"
        return committed

    async def _give_way(self) -> None:
        for _ in range(int(self._rng.integers(0, 4))):
            await asyncio.sleep(0)


class World:
    """Customers, their channels, a keeper, and what they were told."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.clock = ManualClock(BEGIN_MS)
        self.store = YieldingStore(self.clock, self.rng)
        self.plan = Plan(parse_catalog(CATALOG, source="simulation"), 1)
        self.model = bind(None, self.plan.layout.columns, self.plan.action_names, self.plan.action_groups)
        self.decisions = DecisionService(
            self.store,
            self,
            self.clock,
            partitions=PARTITIONS,
            deadline_ms=10_000,
            request_ttl_ms=HOUR_MS,
            salt="simulation",
        )
        self.events = EventService(
            self.store, lambda: self.plan, self.clock, partitions=PARTITIONS, dedupe_ms=24 * HOUR_MS
        )
        self.erasures = ErasureService(self.store, lambda: self.plan, self.clock, partitions=PARTITIONS)
        self._init_books()

    def current(self) -> tuple[Plan, BoundModel]:
        """Serve the plan and the model."""
        return self.plan, self.model

    async def plan_of(self, _: int) -> Plan:
        """Return the only plan."""
        return self.plan

    def _init_books(self) -> None:
        self.slots: list[tuple[str, int]] = []
        """Slots that callers were given."""
        self.answered: dict[str, str] = {}
        """Decision → customer."""
        self.acknowledged: set[str] = set()
        self.unheard: list[Event] = []
        """Sent, and no answer came: to be sent again."""
        self.sent: list[Event] = []
        self.degraded = 0
        self._ids = 0

    def decision_id(self, partition: int, now_ms: int) -> str:
        """Make ids in place of `nbx.ids.new_decision_id`: from the seed."""
        return f"{partition:03x}{now_ms:011x}{int(self.rng.integers(2**48)):012x}"

    async def step(self) -> None:
        """Let a few things happen at the same time, then some time pass."""
        doing = [self._something() for _ in range(int(self.rng.integers(1, 5)))]
        await asyncio.gather(*doing)
        if self.rng.random() < 0.5:
            self.clock.advance(int(self.rng.choice([1, 900, 20_000, 70_000, 20 * 60_000], p=[0.3, 0.2, 0.2, 0.2, 0.1])))

    def _something(self) -> Awaitable[Any]:
        draw = self.rng.random()
        if draw < 0.3:
            return self._decide()
        if draw < 0.75:
            return self._tell(self._new_events())
        if draw < 0.85 and self.sent:
            return self._tell([self.sent[int(self.rng.integers(len(self.sent)))]])
        if draw < 0.9 and self.unheard:
            return self._tell([self.unheard.pop(0)])
        if draw < 0.92:
            return self._erase()
        return self._keep() if draw < 0.97 else self._recover()

    async def _decide(self) -> None:
        request = DecideRequest(
            customer_id=f"customer-{self.rng.integers(CUSTOMERS)}",
            placement=str(self.rng.choice(["web", "desk"])),
            slots=int(self.rng.integers(1, 4)),
            request_id=f"request-{self.rng.integers(20)}" if self.rng.random() < 0.2 else "",
        )
        reply = await self.decisions.decide(request)
        self.answered[reply.decision_id] = request.customer_id
        self.degraded += bool(reply.degraded)
        self.slots += [(reply.decision_id, slot.slot) for slot in reply.slots if slot.action]

    def _new_events(self) -> list[Event]:
        return [self._new_event() for _ in range(int(self.rng.integers(1, 5)))]

    def _new_event(self) -> Event:
        self._ids += 1
        late_ms = int(self.rng.choice([0, 0, 500, 60_000, 15 * 60_000]))
        event = Event(event_id=f"event-{self._ids}", type="page_view", at=self.clock.now_ms() - late_ms)
        if not self.slots or self.rng.random() < 0.15:
            return self._behaviour(structs.replace(event, customer_id=f"customer-{self.rng.integers(CUSTOMERS)}"))
        decision_id, slot = self.slots[-1 - int(self.rng.integers(min(len(self.slots), 30)))]
        kind = str(self.rng.choice(KINDS))
        return structs.replace(
            self._with_mood(event),
            type=kind,
            decision_id=decision_id,
            slot=slot,
            by="agent" if kind == "skipped" else "customer",
            cause=str(self.rng.choice(["", "", "timing", "execution"])),
        )

    def _behaviour(self, event: Event) -> Event:
        draw = self.rng.random()
        if draw < 0.4:
            topic = str(self.rng.choice(["few", "many", ""]))
            return structs.replace(event, type="resolved", properties={"topic": topic} if topic else {})
        if draw < 0.6:
            due = str(self.rng.choice(["30s", "10m", "2h"]))
            said: dict[str, Value] = {"what": str(self.rng.choice(["call", "refund"])), "due": due, "topic": "few"}
            return structs.replace(event, type=str(self.rng.choice(["promise", "promise_kept"])), properties=said)
        properties = {"section": str(self.rng.choice(["a", "b"])), "mood": float(self.rng.normal())}
        return structs.replace(self._with_mood(event), properties=properties)

    def _with_mood(self, event: Event) -> Event:
        """Let somebody say how it was, now and then, and in words."""
        if self.rng.random() < 0.7:
            return event
        effort = float(self.rng.integers(1, 8)) if self.rng.random() < 0.5 else None
        return structs.replace(event, sentiment=float(self.rng.uniform(-1, 1)), effort=effort, text="so it was")

    async def _tell(self, events: list[Event]) -> None:
        self.sent += events
        try:
            results = await self.events.record(events)
        except Unavailable:
            self.unheard += events
            return
        for event, result in zip(events, results, strict=True):
            if result.status in ("accepted", "duplicate"):
                self.acknowledged.add(event.event_id)
            elif result.code.startswith("state_"):
                self.unheard.append(event)
            else:  # a degraded decision that is not logged yet
                assert result.code == "decision_unknown", result

    async def _erase(self) -> None:
        with contextlib.suppress(Unavailable, Unknown):
            await self.erasures.erase(f"customer-{self.rng.integers(CUSTOMERS)}")

    async def _keep(self) -> None:
        with contextlib.suppress(Unavailable):
            await run_due(self.store, self.events, PARTITIONS, self.clock.now_ms())

    async def _recover(self) -> None:
        await recover(self.decisions, self.events)

    async def settle(self) -> None:
        """Heal everything, say what was not heard, and let every timer run out."""
        self.store.fragile = False
        await self._recover()
        while self.unheard:
            await self._tell([self.unheard.pop()])
        for _ in range(4):
            self.clock.advance(HOUR_MS)
            while await run_due(self.store, self.events, PARTITIONS, self.clock.now_ms()):
                pass

    async def log(self) -> list[Entry]:
        """Read the whole log, partition by partition."""
        pages = [await self.store.log_range(partition, "-", "+", 10**6) for partition in range(PARTITIONS)]
        return [decode_entry(row.payload) for page in pages for row in page]

    async def stored(self, customer_id: str) -> CustomerState:
        key = partition_keys(partition_of(customer_id, PARTITIONS)).customer(customer_id)
        (packed,) = await self.store.read([key], 1.0)
        return decode_state(versioned(packed)[1])

    async def opened(self, decision_id: str) -> bytes | None:
        (packed,) = await self.store.read([partition_keys(int(decision_id[:3], 16)).decision(decision_id)], 1.0)
        return packed


async def lived(seed: int, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(seed)
    for module in ("decision.service", "experience.erasure"):
        monkeypatch.setattr(f"nbx.{module}.new_decision_id", world.decision_id)
    for _ in range(STEPS):
        await world.step()
    await world.settle()
    return world


@pytest.mark.parametrize("seed", SEEDS)
def test_a_world_with_faults_keeps_its_promises(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        world = await lived(seed, monkeypatch)
        log = await world.log()
        check_promises(world, log)
        check_caps(world, log)
        await check_outcomes_and_balance(world, log)
        await check_rebuild(world, log)

    asyncio.run(run())


def check_promises(world: World, log: list[Entry]) -> None:
    """Acknowledged is logged, nothing twice; what nobody was given is withdrawn."""
    ids = Counter(entry.event.event_id for entry in log if isinstance(entry, EventEntry))
    assert world.acknowledged <= ids.keys()
    assert {event_id: count for event_id, count in ids.items() if count > 1} == {}
    decided = Counter(entry.decision_id for entry in log if isinstance(entry, DecisionEntry))
    ended_ms = {entry.customer_id: entry.at_ms for entry in log if isinstance(entry, EraseEntry)}
    for decision_id in world.answered.keys() - decided.keys():
        made_ms = decision_ref(decision_id).at_ms
        assert made_ms <= ended_ms[world.answered[decision_id]], "only an erasure keeps a decision out of the log"
    assert max(decided.values()) == 1
    unnoticed = decided.keys() - world.answered.keys()
    erased = {entry.decision_id for entry, _ in erasures_of(log)}
    for entry in log:
        if isinstance(entry, DecisionEntry) and entry.decision_id in unnoticed - erased:
            wanted = {f"withdrawn:{entry.decision_id}:{n}" for n, slot in enumerate(entry.slots) if slot.action}
            assert wanted <= ids.keys(), "committed unnoticed and not withdrawn"
    # a retry finds what its first try committed unnoticed, and may do so before that is withdrawn
    retried = {entry.decision_id for entry in log if isinstance(entry, DecisionEntry) and entry.request.request_id}
    withdrawn = {id_.split(":")[1] for id_ in ids if id_.startswith("withdrawn:")}
    assert not withdrawn & (world.answered.keys() - retried), "withdrawn, although its caller has it"


def erasures_of(log: list[Entry]) -> list[tuple[DecisionEntry, EraseEntry]]:
    """Return every decision of a life that was ended, with what ended it."""
    lives: dict[str, list[DecisionEntry]] = {}
    ended: list[tuple[DecisionEntry, EraseEntry]] = []
    for entry in log:
        if isinstance(entry, DecisionEntry):
            lives.setdefault(entry.customer_id, []).append(entry)
        elif isinstance(entry, EraseEntry):
            ended += [(decision, entry) for decision in lives.pop(entry.customer_id, [])]
    return ended


def check_caps(world: World, log: list[Entry]) -> None:
    """No decision goes beyond a limit, by what was known when it was made."""
    known: dict[str, Reference] = {}
    for entry in log:
        reference = known.setdefault(entry.customer_id, Reference())
        reference.take(entry)
        if not isinstance(entry, DecisionEntry) or entry.degraded:
            continue
        for action in {slot.action for slot in entry.slots if slot.action}:
            rules = world.plan.rules.actions[action]
            for limits, members in (
                (rules.limits, (action,)),
                (rules.group_limits, world.plan.rules.members[rules.group]),
            ):
                for limit in limits:
                    assert reference.contacts(members, limit.per_ms, entry.at_ms) <= limit.max, (action, entry)


async def check_outcomes_and_balance(world: World, log: list[Entry]) -> None:
    """Each slot ends in the outcome of the reference, and the account holds the sum of them."""
    known: dict[str, Relationship] = {}
    logged: dict[tuple[str, int], list[Outcome]] = {}
    for entry in log:
        known.setdefault(entry.customer_id, Relationship({1: world.plan.catalog})).take(entry)
        if isinstance(entry, EventEntry | TimerEntry):
            for outcome in entry.outcomes:
                logged.setdefault((outcome.decision_id, outcome.slot), []).append(outcome)
    for customer_id, reference in known.items():
        for key, slot in reference.slots.items():
            ended = slot.outcome()
            assert ended is not None, f"{key} never ended"
            revisions = logged[key]
            assert [outcome.revision for outcome in revisions] == list(range(len(revisions)))
            told = [outcome.outcome for outcome in revisions]
            assert [name for i, name in enumerate(told) if told[i - 1 : i] != [name]] == reference.told[key]
            assert [outcome.previous for outcome in revisions] == [None, *told[:-1]]
            opened = await world.opened(key[0])
            assert opened is not None
            assert decode_open(opened).slots[key[1]].outcome == ended[0] == told[-1]
        state = await world.stored(customer_id)
        assert state.balance == pytest.approx(reference.worth(1, state.balance_at_ms), abs=1e-9)
        check_relationship(world, reference, state)
        ends = Counter(ended[0] for slot in reference.slots.values() if (ended := slot.outcome()))
        assert {name: count for name, count in state.outcomes.items() if count} == ends


def check_relationship(world: World, reference: Relationship, state: CustomerState) -> None:
    """What is owed, promised, asked and given is what the reference says, and nothing is owed for ever."""
    policy, now_ms = world.plan.rules.experience, world.clock.now_ms()
    for ago_ms in (0, HOUR_MS, 4 * HOUR_MS):
        assert open_topics(state, now_ms - ago_ms, policy) == reference.open_topics(1, now_ms - ago_ms)
    assert not open_topics(state, now_ms + policy.obligation_ms, policy)
    for tally, counts, told in (
        (state.asked, state.asks, reference.asks(1)),
        (state.given, state.gives, reference.gives(1)),
    ):
        assert counts == Counter(what for _, what in told)
        assert tally.amount == pytest.approx(reference.amount(1, told, tally.at_ms), abs=1e-9)
    latest = {term.made.what: term for term in reference.promises()}
    promises = {what: promise for what, promise in state.promises.items() if promise.due_ms}
    assert {what: (term.made.due_ms, term.kept_ms or 0, term.broken) for what, term in latest.items()} == {
        what: (promise.due_ms, promise.kept_ms, promise.broken) for what, promise in promises.items()
    }
    assert all(promise.told or 0 < promise.kept_ms <= promise.due_ms for promise in promises.values()), "still waiting"


async def check_rebuild(world: World, log: list[Entry]) -> None:
    """Folding the log anew gives the same bytes, of states and of open decisions."""
    states: dict[str, CustomerState] = {}
    opened: dict[str, OpenDecision] = {}
    for entry in log:
        state = states.setdefault(entry.customer_id, CustomerState())
        if isinstance(entry, EraseEntry):
            opened = {id_: each for id_, each in opened.items() if each.customer_id != entry.customer_id}
        decision_id = entry.event.decision_id if isinstance(entry, EventEntry) else getattr(entry, "decision_id", "")
        folded = fold(state, opened.get(decision_id), entry, world.plan.rules, opened)
        if folded.decision is not None:
            opened[decision_id] = folded.decision
        if isinstance(entry, EventEntry | TimerEntry):
            assert (folded.outcomes, folded.goals) == (entry.outcomes, entry.goals)
    for customer_id, state in states.items():
        assert encode_state(state) == encode_state(await world.stored(customer_id))
    for decision_id, decision in opened.items():
        assert encode_open(decision) == await world.opened(decision_id)
    for erased, _ in erasures_of(log):
        assert await world.opened(erased.decision_id) is None


def test_the_worlds_have_conflicts_and_faults_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the tests above would prove less than they say."""

    async def run() -> World:
        return await lived(SEEDS[0], monkeypatch)

    world = asyncio.run(run())
    assert world.store.stale > 5, "no conflicts"
    assert world.degraded > 0, "no degraded decision"
    log = asyncio.run(world.log())
    assert any(isinstance(entry, TimerEntry) and entry.outcomes for entry in log)
    assert any(isinstance(entry, EventEntry) and entry.event.event_id.startswith("withdrawn:") for entry in log)
    assert any(o.revision > 1 for e in log if isinstance(e, EventEntry) for o in e.outcomes)
    assert len({entry.erasure_id for _, entry in erasures_of(log)}) > 1
    assert any(entry.timers for _, entry in erasures_of(log)), "no erasure met an open slot"


def test_one_seed_is_one_world(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> list[Entry]:
        return [without_time(entry) for entry in await (await lived(3, monkeypatch)).log()]

    assert asyncio.run(run()) == asyncio.run(run())


def without_time(entry: Entry) -> Entry:
    return structs.replace(entry, took_us=0) if isinstance(entry, DecisionEntry) else entry


@pytest.mark.parametrize("seed", range(40))
def test_the_order_of_events_does_not_matter(seed: int) -> None:
    """The same answers in two orders end in the same outcome: the truest."""
    rng = np.random.default_rng(seed)
    kinds = [str(kind) for kind in rng.choice(KINDS, size=int(rng.integers(1, 6)), replace=False)]
    ends = set()
    for order in (kinds, [str(kind) for kind in rng.permutation(kinds)]):
        world = World(seed)
        world.store.fragile = False
        ends.add(asyncio.run(_ended(world, order)))
    (end,) = ends
    answers = [kind for kind in kinds if kind in TRUTH]
    silent = "not_seen" if {"skipped", "delivered"} & set(kinds) else "not_delivered"
    if "seen" in kinds and "skipped" not in kinds:
        silent = "ignored"
    assert end == (max(answers, key=TRUTH.index) if answers else silent)


async def _ended(world: World, kinds: Sequence[str]) -> str:
    for number in range(100):
        reply = await world.decisions.decide(DecideRequest(customer_id=f"ordered-{number}", placement="web"))
        if reply.slots[0].action:
            break
    for number, kind in enumerate(kinds):
        world.clock.advance(10)
        by = "agent" if kind == "skipped" else "customer"
        event = Event(event_id=f"order-{number}", type=kind, decision_id=reply.decision_id, by=by)
        (result,) = await world.events.record([event])
        assert result.status == "accepted"
    await world.settle()
    packed = await world.opened(reply.decision_id)
    assert packed is not None
    return str(decode_open(packed).slots[0].outcome)
