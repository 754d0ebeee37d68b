"""Guardrails in a world with faults: one customer, sixteen writers at a time, four workers that come and go.

Workers have clocks of their own, die in the middle of a call and are replaced, and serve one of two releases as it
comes. Events come in any order, twice, and late; the customer gives and takes back consent, moves and is paid for.
Afterwards a checker reads the log (`tests.reference.guardrails`), which knows nothing of the code that decided.
"""

from __future__ import annotations

import asyncio
import contextlib
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from msgspec import structs

from nbx.bandits.snapshot import BoundModel, bind
from nbx.catalog.model import REASONS
from nbx.catalog.parse import parse_catalog
from nbx.catalog.plan import Plan
from nbx.clock import ManualClock
from nbx.decision.ledger import Ledger
from nbx.decision.messages import DecideReply, DecideRequest
from nbx.decision.recovery import recover
from nbx.decision.service import DecisionService
from nbx.errors import Unavailable
from nbx.experience.entries import DecisionEntry, Entry, Event, Removed, decode_entry
from nbx.experience.service import EventService
from nbx.runtime.keeper_process import run_due
from tests.reference.guardrails import Guardrails
from tests.simulation.budget_fake import FakeBudgets
from tests.simulation.test_lifecycle_simulation import YieldingStore
from tests.worlds import Desk, small_plan

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine

    from nbx.features.schema import Value

PARTITIONS = 3
WORKERS = 4
WRITERS = 16
ROUNDS = 60
BEGIN_MS = 1_792_875_600_000
"""21:00 UTC before the night in which Berlin repeats an hour."""
MINUTE_MS = 60_000
SALT = "guarded"
CUSTOMERS = ("anna", "bert", "ida", "emil", "cleo")
"""Two of them are held out: `ida` at random, `cleo` in silence."""
SEEDS = range(5)

CATALOG = """
catalog: guarded
time_zone: {{feature: tz, otherwise: Europe/Berlin}}
features:
  tz: {{type: category, encode: none, personal: false}}
  tier: {{type: category, encode: {{onehot: [basic, gold]}}, default: basic}}
  is_mobile: {{type: boolean, from: context}}
placements:
  web: {{channel: web, impressions: reported, slots: 3, delivery: 30s, attention: 5m,
        default: {{action: tips, treatment: t}}}}
  mail: {{channel: email, impressions: reported, slots: 1, delivery: 20m, attention: 30m}}
  desk: {{channel: phone, impressions: implicit, slots: 3, attention: 10m}}
groups:
  cards: {{topic: cards, limits: [{{max: 4, per: 2h}}], pause: {{declined: 20m, dismissed: 10m}}, per_slate: 1,
          pause_group: {{declined: 6m}}}}
  loans: {{topic: loans, starts: {soon},
          pause: {{declined: 15m, ignored: {{after: 2, within: 1h, for: {long_pause}}}}}}}
  plain: {{topic: help}}
  help: {{topic: help, limits: [{{max: {help_max}, per: 1h}}]}}
actions:
  gold_card: {{group: cards, value: 60, gives: [x], eligible: "customer.tier != 'gold'", not_with: [travel_card],
              limits: [{{max: 1, per: {window}}}], treatments: {{t: {{placements: [web, mail, desk]}}}}}}
  travel_card: {{group: cards, value: 50, gives: [x], suitable: "relationship.balance > -15.0",
                treatments: {{late: {{placements: [web, desk], starts: {middle}}},
                             t: {{placements: [web, mail, desk]}}}}}}
  voucher: {{group: loans, value: 70, gives: [x], asks: [time], cost: 2.5, ends: {late},
            treatments: {{t: {{placements: [web, mail, desk]}}}}}}
  car_loan: {{group: loans, value: 45, cost: 1, gives: [x], applicable: "!concern.payment && {mobile}", starts: {early},
             treatments: {{gold: {{placements: [web, desk], eligible: "customer.tier == 'gold'"}},
                          t: {{placements: [web, mail, desk], suitable: "request.channel != 'email'"}}}}}}
  home_loan: {{group: loans, value: 40, cost: 0.5, gives: [x], eligible: "journey.onboarding != 'opened'",
              treatments: {{t: {{placements: [web, mail, desk]}}}}}}
  savings: {{group: loans, value: 42, cost: 0.25, gives: [x], asks: [time, data], topic: savings,
            pause: {{declined: 30m, dismissed: {window}, ignored: 4m}},
            treatments: {{t: {{placements: [web, mail, desk]}}}}}}
  tips: {{group: help, class: service, value: 10, treatments: {{t: {{placements: [web, mail, desk]}}}}}}
  survey: {{group: help, class: service, value: 9, gives: [x], treatments: {{t: {{placements: [web, desk]}}}}}}
  sorry: {{group: plain, class: recovery, value: 12, resolves: [loans], treatments: {{t: {{placements: [web, desk]}}}}}}
  alert: {{group: help, class: mandatory, eligible: "concern.payment", limits: [{{max: 2, per: 1h}}],
          treatments: {{t: {{placements: [web, desk]}}}}}}
contact:
  {overall}
  channels:
    web: {{{web} pause: {{dismissed: 3m}}}}
    email: {{limits: [{{max: 2, per: 3h}}], gap: 30m}}
    {phone}
  classes:
    promotional: {{limits: [{{max: 6, per: 90m}}], gap: 100s, pause: {{ignored: {{after: 3, within: 30m, for: 50m}}}}}}
    service: {{limits: [{{max: 2, per: 40m}}]}}
  quiet_hours:
    - {{from: "23:00", to: "{quiet_to}", channels: [phone, email]}}
    - {{from: "02:10", to: "02:25", days: [sun]}}
    - {{from: "00:30", to: "00:45"}}
  exempt: [{exempt}]
  exclusive: [[savings, home_loan, tips]]
consent: {{contact: opt_out, channels: {{email: {email}}}, personalise: opt_out, learn: opt_in, exempt: [mandatory]}}
budgets:
  gifts: {{actions: [voucher], units: 3, per: 2h}}
  money: {{groups: [loans], money: 10, per: 1d}}
holdout: {{silent: 0.15, random: 0.15}}
journeys:
  onboarding: {{steps: {{opened: {{event: account_opened}}, funded: {{event: deposit, after: [opened]}}}}}}
concerns:
  payment: {{opens: [payment_failed], resolves: [payment_ok], timeout: 40m}}
experience: {{half_life: 3h, loss_aversion: 2.0, floor: -28, obligation: 70m, recovery_boost: 2, {asks}}}
exploration: {{floor: 0.05, scale: 1.0}}
"""
_FIRST = {
    "long_pause": "3h",
    "help_max": "5",
    "window": "2h",
    "overall": "pause: {declined: 1m}",
    "web": "",
    "phone": "phone: {gap: 2m, pause: {declined: 25m}}",
    "quiet_to": "02:40",
    "exempt": "mandatory",
    "email": "opt_in",
    "mobile": "request.is_mobile",
    "soon": "2026-10-24T23:20",
    "early": "2026-10-25T00:15",
    "middle": "2026-10-25T01:00",
    "late": "2026-10-25T01:50",
    "asks": "",
}
_SECOND = _FIRST | {
    "help_max": "6",
    "window": "1h",
    "overall": "limits: [{max: 8, per: 1h}]\n  gap: 25s",
    "web": "limits: [{max: 5, per: 30m}],",
    "phone": "phone: {limits: [{max: 3, per: 20m}]}",
    "quiet_to": "01:40",
    "exempt": "mandatory, service",
    "email": "opt_out",
    "mobile": "true",
    "asks": "asks_per_give: 1.5",
}
KINDS = ("delivered", "seen", "accepted", "declined", "dismissed", "converted", "failed", "complained", "skipped")
KIND_CHANCES = (0.12, 0.57, 0.09, 0.05, 0.04, 0.05, 0.02, 0.01, 0.05)
BEHAVIOUR = ("account_opened", "deposit", "payment_failed", "payment_ok")
TOPICS = ("cards", "loans", "savings", "")
WISHES = ("overall", "channel:web", "group:loans", "gold_card", "tips")
PURPOSES = ("contact", "contact:email", "contact:phone", "personalise", "learn")
ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Atlantis")


def plans() -> dict[int, Plan]:
    """Compile both releases."""
    return {
        number: Plan(parse_catalog(CATALOG.format(**words), source="simulation"), number)
        for number, words in ((1, _FIRST), (2, _SECOND))
    }


class WorkerClock:
    """A clock that goes wrong by so much."""

    def __init__(self, clock: ManualClock, wrong_ms: int) -> None:
        self._clock = clock
        self.wrong_ms = wrong_ms

    def now_ms(self) -> int:
        return self._clock.now_ms() + self.wrong_ms


class Worker:
    """One api process: services over the shared store, a ledger, a release, and what is being called now."""

    def __init__(self, world: World, wrong_ms: int) -> None:
        self._world = world
        self.release = 1
        self.clock = WorkerClock(world.clock, wrong_ms)
        self.ledger = Ledger(world.budgets, PARTITIONS)
        self.decisions = DecisionService(
            world.store,
            self,
            self.clock,
            partitions=PARTITIONS,
            deadline_ms=10_000,
            request_ttl_ms=60 * MINUTE_MS,
            salt=SALT,
            ledger=self.ledger,
        )
        self.events = EventService(
            world.store,
            lambda: world.plans[self.release],
            self.clock,
            partitions=PARTITIONS,
            dedupe_ms=24 * 60 * MINUTE_MS,
            salt=SALT,
        )
        self.calls: dict[asyncio.Task[Any], None] = {}

    def current(self) -> tuple[Plan, BoundModel]:
        """Serve the release."""
        return self._world.plans[self.release], self._world.models[self.release]

    async def plan_of(self, number: int) -> Plan:
        """Return the plan of any release."""
        return self._world.plans[number]

    async def call(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Work for a caller, who gets None when the worker dies."""
        task = asyncio.ensure_future(work)
        self.calls[task] = None
        try:
            await asyncio.wait([task])
        finally:
            self.calls.pop(task, None)
        return None if task.cancelled() else task.result()


class World:
    """A customer (and some more, for the budgets), workers, and what callers were told."""

    def __init__(self, seed: int, plans: dict[int, Plan]) -> None:
        self.rng = np.random.default_rng(seed)
        self.customer = CUSTOMERS[seed % len(CUSTOMERS)]
        self.clock = ManualClock(BEGIN_MS)
        self.store = YieldingStore(self.clock, self.rng)
        self.budgets = FakeBudgets(self.store)
        self.budgets.before = self.budgets.after = self._give_way
        self.plans = plans
        self.models = {
            number: bind(None, plan.layout.columns, plan.action_names, plan.action_groups)
            for number, plan in self.plans.items()
        }
        self.workers = [self._worker() for _ in range(WORKERS)]
        self.slots: list[tuple[str, int]] = []
        """Slots that callers were given."""
        self.sent: list[Event] = []
        self.deaths = 0
        self._ids = 0

    async def round(self) -> None:
        """Let writers write at the same time, then some time pass."""
        await asyncio.gather(*(self._something() for _ in range(int(self.rng.integers(1, WRITERS + 1)))))
        if self.rng.random() < 0.7:
            self.clock.advance(
                int(
                    self.rng.choice(
                        [-1_500, 1, 900, 20_000, 70_000, 4 * MINUTE_MS, 25 * MINUTE_MS, 70 * MINUTE_MS],
                        p=[0.07, 0.1, 0.1, 0.15, 0.2, 0.2, 0.13, 0.05],
                    )
                )
            )

    def _something(self) -> Awaitable[Any]:
        worker = self.workers[int(self.rng.integers(WORKERS))]
        draw = self.rng.random()
        if draw < 0.35:
            return self._decide(worker)
        if draw < 0.7:
            return self._tell(worker, [self._new_event() for _ in range(int(self.rng.integers(1, 5)))])
        if draw < 0.76 and self.sent:
            return self._tell(worker, [self.sent[int(self.rng.integers(len(self.sent)))]])
        if draw < 0.8:
            return self._tell(worker, [self._behaviour()])
        if draw < 0.84:
            return self._change_profile(worker)
        if draw < 0.88:
            return self._die(int(self.rng.integers(WORKERS)))
        if draw < 0.91:
            return self._swap(worker)
        return self._tend(worker)

    async def _decide(self, worker: Worker) -> None:
        request = DecideRequest(
            customer_id=self.customer if self.rng.random() < 0.9 else str(self.rng.choice(CUSTOMERS)),
            placement=str(self.rng.choice(["web", "mail", "desk"], p=[0.55, 0.15, 0.3])),
            slots=1,
            context={"is_mobile": True} if self.rng.random() < 0.7 else {},
            exclude=("tips",) if self.rng.random() < 0.1 else (),
            request_id=f"request-{self.rng.integers(20)}" if self.rng.random() < 0.2 else "",
        )
        if request.placement != "mail":
            request = structs.replace(request, slots=int(self.rng.integers(1, 4)))
        reply: DecideReply | None = await worker.call(worker.decisions.decide(request))
        if reply is not None:
            self.slots += [(reply.decision_id, slot.slot) for slot in reply.slots if slot.action]

    def _new_event(self) -> Event:
        if not self.slots:
            return self._behaviour()
        decision_id, slot = self.slots[-1 - int(self.rng.integers(min(len(self.slots), 25)))]
        kind = str(self.rng.choice(KINDS, p=KIND_CHANCES))
        cause = str(self.rng.choice(["", "", "timing", "execution"]))
        by = "agent" if kind == "skipped" else "customer"
        event = structs.replace(self._event(), type=kind, decision_id=decision_id, slot=slot, by=by, cause=cause)
        return self._with_mood(event)

    def _behaviour(self) -> Event:
        event = self._with_mood(structs.replace(self._event(), customer_id=self.customer))
        draw = self.rng.random()
        if draw < 0.2:
            topic = str(self.rng.choice(TOPICS))
            return structs.replace(event, type="resolved", properties={"topic": topic} if topic else {})
        if draw < 0.35:
            return structs.replace(event, type="control", properties=self._wish())
        if draw < 0.45:
            return structs.replace(
                event, type=str(self.rng.choice(["promise", "promise_kept"])), properties=self._word()
            )
        if self.rng.random() < 0.6:
            words: dict[str, Value] = {str(self.rng.choice(PURPOSES)): bool(self.rng.random() < 0.8)}
            return structs.replace(event, type="consent", properties=words)
        return structs.replace(event, type=str(self.rng.choice(BEHAVIOUR)))

    def _with_mood(self, event: Event) -> Event:
        """Let the customer say how it was, now and then."""
        if self.rng.random() > 0.2:
            return event
        return structs.replace(event, sentiment=float(self.rng.uniform(-1, 1)), effort=float(self.rng.integers(1, 8)))

    def _wish(self) -> dict[str, Value]:
        words: list[dict[str, Value]] = [{"stop": True}, {"resume": True}, {"pause": "20m"}, {"pause": "1h"}]
        word = words[int(self.rng.choice(4, p=[0.1, 0.4, 0.3, 0.2]))]
        return {"scope": str(self.rng.choice(WISHES)), **word}

    def _word(self) -> dict[str, Value]:
        """Promise something, or say that it was done: properties fit for either."""
        due = str(self.rng.choice(["30s", "10m", "1h"]))
        return {"what": str(self.rng.choice(["call", "refund"])), "topic": str(self.rng.choice(TOPICS)), "due": due}

    def _event(self) -> Event:
        self._ids += 1
        late_ms = int(self.rng.choice([0, 0, 500, MINUTE_MS, 15 * MINUTE_MS]))
        return Event(event_id=f"event-{self._ids}", type="", at=self.clock.now_ms() - late_ms)

    async def _tell(self, worker: Worker, events: list[Event]) -> None:
        self.sent += events
        with contextlib.suppress(Unavailable):
            await worker.call(worker.events.record(events))

    async def _change_profile(self, worker: Worker) -> None:
        changes: dict[str, Value | None] = {"tz": str(self.rng.choice(ZONES))}
        if self.rng.random() < 0.5:
            changes = {"tier": str(self.rng.choice(["basic", "gold"])) if self.rng.random() < 0.8 else None}
        with contextlib.suppress(Unavailable):
            await worker.call(worker.events.change_profile(self.customer, changes))

    async def _tend(self, worker: Worker) -> None:
        with contextlib.suppress(Unavailable):
            await worker.call(run_due(self.store, worker.events, PARTITIONS, worker.clock.now_ms()))
            await worker.call(recover(worker.decisions, worker.events))
            await worker.call(worker.ledger.tend(worker.clock.now_ms()))

    async def _swap(self, worker: Worker) -> None:
        await self._give_way()
        worker.release = 3 - worker.release

    async def _die(self, number: int) -> None:
        """Drop a worker with all it is doing and all it remembers, and start another."""
        await self._give_way()
        dead, self.workers[number] = self.workers[number], self._worker()
        self.deaths += any(not task.done() for task in dead.calls)
        for task in list(dead.calls):
            task.cancel()

    def _worker(self) -> Worker:
        return Worker(self, int(self.rng.choice([0, 0, -400, 300])))

    async def _give_way(self) -> None:
        for _ in range(int(self.rng.integers(0, 6))):
            await asyncio.sleep(0)

    async def log(self) -> list[Entry]:
        """Read the whole log, partition by partition."""
        pages = [await self.store.log_range(partition, "-", "+", 10**6) for partition in range(PARTITIONS)]
        return [decode_entry(row.payload) for page in pages for row in page]


@cache
def lived(seed: int) -> tuple[World, list[Entry]]:
    """Let a world live; one seed is one world."""

    async def run() -> tuple[World, list[Entry]]:
        world = World(seed, plans())
        for _ in range(ROUNDS):
            await world.round()
        return world, await world.log()

    with pytest.MonkeyPatch.context() as patch:
        ids = np.random.default_rng(seed)
        patch.setattr(
            "nbx.decision.service.new_decision_id",
            lambda partition, now_ms: f"{partition:03x}{now_ms:011x}{int(ids.integers(2**48)):012x}",
        )
        return asyncio.run(run())


@cache
def judged(seed: int) -> Guardrails:
    """Let a world live and read its log."""
    return checked(*lived(seed))


def checked(world: World, log: list[Entry]) -> Guardrails:
    """Read the log with the checker, and fail on what it finds."""
    book = Guardrails({number: plan.catalog for number, plan in world.plans.items()})
    breaches = book.check(log)
    assert not breaches, f"{len(breaches)} breaches, among them:\n" + "\n".join(breaches[:10])
    return book


@pytest.mark.parametrize("seed", SEEDS)
def test_no_guardrail_is_broken(seed: int) -> None:
    judged(seed)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(len(SEEDS), 100))
def test_no_guardrail_is_broken_in_many_worlds(seed: int) -> None:
    checked(*lived.__wrapped__(seed))


def test_the_worlds_have_everything_in_them() -> None:
    """Else the tests above would prove less than they say."""
    books = [judged(seed) for seed in SEEDS]
    assert {reason for book in books for reason in book.reasons} == set(REASONS) - {"condition_error", "quarantined"}
    assert {name for book in books for name in book.given} == {action.name for action in plans()[1].catalog.actions}
    worlds = [lived(seed)[0] for seed in SEEDS]
    assert min(world.store.stale for world in worlds) > 50, "no conflicts"
    assert min(world.deaths for world in worlds) > 2, "nobody died in the middle of a call"
    decisions = [[entry for entry in lived(seed)[1] if isinstance(entry, DecisionEntry)] for seed in SEEDS]
    for made in decisions:
        assert {entry.release for entry in made} == {1, 2}
        assert any(entry.degraded for entry in made)
        assert any(later.at_ms < earlier.at_ms for earlier, later in pairwise(made)), "time never ran back"
    assert {entry.holdout for made in decisions for entry in made} == {"", "silent", "random"}


OPEN = """
catalog: open
placements:
  web: {channel: web, impressions: reported, slots: 3, delivery: 1m, attention: 10m}
  mail: {channel: email, impressions: reported, slots: 3, delivery: 1m, attention: 10m}
  desk: {channel: phone, impressions: implicit, slots: 3, attention: 10m}
groups: {all: {}}
actions:
  one: {group: all, value: 9, gives: [x], treatments: {t: {placements: [web, mail, desk]}}}
  two: {group: all, value: 9, gives: [x], treatments: {t: {placements: [web, mail, desk]}}}
  three: {group: all, value: 9, gives: [x], treatments: {t: {placements: [web, mail, desk]}}}
  told: {group: all, class: mandatory, eligible: "request.channel == 'phone'", treatments: {t: {placements: [desk]}}}
exploration: {floor: 0.0}
"""


def test_what_never_shows_makes_room_again() -> None:
    desk = Desk(small_plan(OPEN + "contact: {limits: [{max: 1, per: 1d}]}"))
    first = _ask(desk, "web")
    assert first.slots[0].action
    assert not _ask(desk, "mail").slots[0].action, "its place is taken while it may still be seen"
    desk.pass_time(MINUTE_MS)
    second = _ask(desk, "mail")
    assert second.slots[0].action, "not delivered in time: the place is free"
    desk.record("seen", decision_id=second.decision_id)
    desk.pass_time(60 * MINUTE_MS)
    assert not _ask(desk, "web").slots[0].action, "what was seen counts for the day"
    assert not Guardrails({1: desk.plan.catalog}).check(desk.log())


@pytest.mark.parametrize("limit", [1, 3, 7])
def test_channels_together_do_not_overshoot(limit: int) -> None:
    """All writers ask at once, on three channels; every slot given out is a prompt that may be seen."""
    plan = Plan(parse_catalog(OPEN + f"contact: {{limits: [{{max: {limit}, per: 1d}}], exempt: []}}"), 1)

    async def run() -> tuple[World, list[Entry]]:
        world = World(limit, {1: plan, 2: plan})
        world.store.fragile = False
        for _ in range(6):  # again for those to whom too many were in the way
            asks = [
                DecideRequest(customer_id="anna", placement=placement, slots=1 + number % 3)
                for number, placement in enumerate(("web", "mail", "desk", "web") * 4)
            ]
            await asyncio.gather(*(w.decisions.decide(r) for w, r in zip(world.workers * 4, asks, strict=True)))
        return world, await world.log()

    world, log = asyncio.run(run())
    shown = [slot for entry in log if isinstance(entry, DecisionEntry) for slot in entry.slots if slot.action]
    assert len(shown) == limit
    assert world.store.stale > 10, "nobody was in the way of another"
    checked(world, log)


def test_a_pause_of_several_ignored_outlives_what_is_ignored_later() -> None:
    rule = "contact: {exempt: [mandatory], pause: {ignored: {after: 2, within: 1h, for: 30d}}}"
    desk = Desk(small_plan(OPEN + rule))
    for _ in range(2):
        assert not any(each.reason == "paused" for each in _removed(desk))
        desk.record("seen", decision_id=_ask(desk, "web").decision_id)
        desk.pass_time(15 * MINUTE_MS)
    assert any(each.reason == "paused" for each in _removed(desk))
    desk.pass_time(24 * 60 * MINUTE_MS)
    told = _ask(desk, "desk")
    assert [slot.action for slot in told.slots] == ["told"], "exempt"
    desk.pass_time(15 * MINUTE_MS)
    assert any(each.reason == "paused" for each in _removed(desk)), "one more that was ignored is no reason to begin"
    desk.record("converted", decision_id=told.decision_id)
    assert any(each.reason == "paused" for each in _removed(desk))
    assert not Guardrails({1: desk.plan.catalog}).check(desk.log())


def test_a_late_answer_takes_back_the_pause_of_several_ignored() -> None:
    rule = "contact: {classes: {promotional: {pause: {ignored: {after: 2, within: 1h, for: 3h}}}}}"
    desk = Desk(small_plan(OPEN + rule))
    for _ in range(2):
        last = _ask(desk, "web")
        desk.record("seen", decision_id=last.decision_id)
        desk.pass_time(15 * MINUTE_MS)
    assert any(each.reason == "paused" for each in _removed(desk))
    desk.record("accepted", decision_id=last.decision_id)
    assert not any(each.reason == "paused" for each in _removed(desk))
    assert not Guardrails({1: desk.plan.catalog}).check(desk.log())


def _ask(desk: Desk, placement: str) -> DecideReply:
    return desk.decide(placement=placement, deadline_ms=10_000)


def _removed(desk: Desk) -> tuple[Removed, ...]:
    """Return what a decision removes now."""
    decision_id = _ask(desk, "mail").decision_id
    entry = next(e for e in desk.log() if isinstance(e, DecisionEntry) and e.decision_id == decision_id)
    desk.record("skipped", decision_id=decision_id, by="agent") if entry.slots[0].action else None
    return entry.removed
