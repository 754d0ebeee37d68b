"""A small catalog and services over the fake store, for tests of the domain."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from nbx.bandits.snapshot import BoundModel, bind
from nbx.catalog.parse import parse_catalog
from nbx.catalog.plan import Plan
from nbx.clock import ManualClock
from nbx.decision.messages import DecideReply, DecideRequest
from nbx.decision.service import DecisionService
from nbx.experience.entries import Entry, Event, Outcome, decode_entry
from nbx.experience.results import EventResult
from nbx.experience.service import EventService
from nbx.features.keys import partition_keys
from nbx.features.state import CustomerState, decode_state
from nbx.features.store import versioned
from nbx.ids import partition_of
from tests.simulation.store_fake import FakeStore

T = TypeVar("T")
NOW_MS = 1_800_000_000_000
PARTITIONS = 4
DAY_MS = 86_400_000

CATALOG = """
catalog: small
features:
  age: {type: number, encode: {standard: {mean: 40, sd: 10}}, default: 40, max_age: 30d}
  tier: {type: category, encode: {onehot: [basic, gold]}, default: basic}
  is_mobile: {type: boolean, from: context, default: false}
  visits: {type: number, from: {event: page_view, count: 24h}, encode: {log: 20}}
placements:
  hero:
    {channel: web, impressions: reported, slots: 3, delivery: 60s, attention: 10m, default: {action: tips, treatment:
    t}}
  desk: {channel: phone, impressions: implicit, slots: 2, delivery: 60s, attention: 5m}
groups:
  cards: {topic: cards, limits: [{max: 2, per: 1d}], pause: {declined: 7d, dismissed: 2d, ignored: 1d}}
  help: {topic: help}
actions:
  gold_card:
    group: cards
    value: 60
    gives: [cashback]
    asks: [time]
    eligible: "customer.tier != 'gold'"
    treatments: {t: {placements: [hero, desk], content: {headline: Gold}}}
    owner: cards
  travel_card:
    group: cards
    value: 40
    gives: [miles]
    limits: [{max: 1, per: 7d}]
    treatments: {t: {placements: [hero, desk], content: {headline: Travel}}}
    owner: cards
  pay_card:
    group: cards
    value: 20
    gives: [points]
    treatments: {t: {placements: [hero], content: {headline: Pay}}}
    owner: cards
  tips:
    group: help
    class: service
    value: 1
    treatments: {t: {placements: [hero, desk], content: {headline: Tips}}}
    owner: help
  alert:
    group: help
    class: mandatory
    eligible: "customer.age > 70.0"
    treatments: {t: {placements: [hero], content: {headline: Alert}}}
    owner: help
experience: {half_life: 10d, floor: -10}
attribution: 7d
correction: 7d
"""


def small_plan(text: str = CATALOG, release: int = 1) -> Plan:
    """Return the small catalog, compiled."""
    return Plan(parse_catalog(text), release)


def prior_model(plan: Plan) -> BoundModel:
    """Return the model that has learned nothing."""
    return bind(None, plan.layout.columns, plan.action_names, plan.action_groups)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine."""
    return asyncio.run(work)


class Desk:
    """Services over a fake store with a clock that moves when told."""

    def __init__(self, plan: Plan | None = None) -> None:
        self.plan = plan or small_plan()
        self.model = prior_model(self.plan)
        self.clock = ManualClock(NOW_MS)
        self.store = FakeStore(self.clock)
        self.observed: list[Outcome] = []
        self.decisions = DecisionService(
            self.store,
            self,
            self.clock,
            partitions=PARTITIONS,
            deadline_ms=10_000,  # the first decision of a process loads the kernels
            request_ttl_ms=DAY_MS,
            salt="test",
        )
        self.events = EventService(
            self.store,
            lambda: self.plan,
            self.clock,
            partitions=PARTITIONS,
            dedupe_ms=DAY_MS,
            observe=self.observed.append,
        )
        self._count = 0

    def current(self) -> tuple[Plan, BoundModel]:
        """Serve the plan and the model."""
        return self.plan, self.model

    async def plan_of(self, number: int) -> Plan:
        """Return the only plan."""
        assert number == self.plan.release
        return self.plan

    def decide(self, customer: str = "anna", placement: str = "hero", **more: Any) -> DecideReply:
        """Decide."""
        return run(self.decisions.decide(DecideRequest(customer_id=customer, placement=placement, **more)))

    def record(self, kind: str, **more: Any) -> EventResult:
        """Record one event with a new id."""
        self._count += 1
        event = Event(**{"event_id": f"e{self._count}", "type": kind, **more})
        return run(self.events.record([event]))[0]

    def state(self, customer: str = "anna") -> CustomerState:
        """Return a customer's state as stored."""
        key = partition_keys(partition_of(customer, PARTITIONS)).customer(customer)
        (packed,) = run(self.store.read([key], 1.0))
        return decode_state(versioned(packed)[1])

    def log(self) -> list[Entry]:
        """Return every log entry, partition by partition."""
        pages = [run(self.store.log_range(p, "-", "+", 100_000)) for p in range(PARTITIONS)]
        return [decode_entry(entry.payload) for page in pages for entry in page]

    def pass_time(self, by_ms: int) -> None:
        """Move the clock and run what falls due, in its order."""
        end_ms = self.clock.now_ms() + by_ms
        while True:
            due = [(t.due_ms, p, t) for p in range(PARTITIONS) for t in run(self.store.due(p, end_ms, 100))]
            if not due:
                break
            due_ms, partition, timer = min(due)
            self.clock.advance(max(0, due_ms - self.clock.now_ms()))
            run(self.events.run_timer(partition, timer))
        self.clock.advance(end_ms - self.clock.now_ms())
