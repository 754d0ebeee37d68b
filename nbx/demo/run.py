"""Sends the simulated customers to the running service, then lets other policies live through the same world.

Arrivals are scheduled ahead (open loop): a slow answer delays nobody else. The sample catalog speaks of days and weeks,
so it is played fast: `demo_catalog` divides its durations by `FACTOR`, and the customers' own forgetting runs by the
same clock. What nbx did is counted from its answers over the wire; whether the service understood what happened is
checked against its own books on `CHECKED` customers.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from msgspec.structs import replace
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from nbx.catalog.model import Catalog
from nbx.catalog.plan import Plan
from nbx.catalog.scaling import scale_durations
from nbx.clock import Clock, SystemClock
from nbx.demo.comparators import Compared, compare
from nbx.demo.tally import Tally
from nbx.demo.wire import Decided, Faces
from nbx.demo.world import Customer, Mind, Response, Step, Visit, World
from nbx.errors import NbxError
from nbx.experience.entries import Event

DAY_MS = 86_400_000
FACTOR = 14 * DAY_MS / 60_000
"""A minute plays two weeks."""
LEAST_ATTENTION_MS = 1_500
"""Delivery and attention do not shrink below this: answers travel in real time."""
RATE = 150.0
"""Visits per second: two cores share api, Redis, learner, keeper and these customers with room to spare."""
IN_FLIGHT = 256
"""Visits under way at a time; beyond it arrivals come late, and that is reported."""
AT_ONCE = 32
"""Calls at a time where nobody takes the time."""
CHECKED = 250
"""Customers whose outcomes and balance are read back from the service."""
SETTLE_MS = 1_500
"""After the last attention has run out: what the keeper and the learner may lag."""
LATELY = 1_500
"""Visits that the progress line speaks of."""
PATIENCE = 1.25
"""Times its length after which a run ends although visits are left."""
NOTE_S = 0.5
"""Between two looks at how it goes."""
PRIOR_RESPONSE = 0.5
"""What every model answers before its first observation."""
BURST_MS = 40
"""Events closer than this travel in one call, as a page's own script does it."""

T = TypeVar("T")


@dataclass(frozen=True)
class Latency:
    """Times to decide over one face, measured at the client, milliseconds."""

    count: int
    p50_ms: float
    p99_ms: float


@dataclass
class DemoResult:
    """What a demonstration showed."""

    nbx: Compared
    others: list[Compared]
    """Random, best single action, highest value first."""
    latency: dict[str, Latency]
    """Per face."""
    visits: int
    customers: int
    seconds: float
    """How long customers came."""
    achieved_rate: float
    """Visits per second."""
    late_ms: float
    """99 % of visits began at most this much after their time."""
    errors: Counter[str]
    degraded: int
    knew_before: bool
    """Whether nbx had learned something before the first decision."""
    checked_customers: int
    checked_outcomes: int
    wrong_customers: list[str] = field(default_factory=list)
    """Customers of whom the service's books say something else than what they lived through, and what."""


def demo_catalog(catalog: Catalog) -> Catalog:
    """Return a catalog as the demonstration publishes it: a minute plays two weeks.

    Quiet hours are left out: a demonstration at night would be a silent one.
    """
    catalog = replace(catalog, contact=replace(catalog.contact, quiet_hours=()))
    return scale_durations(catalog, FACTOR, least_attention_ms=LEAST_ATTENTION_MS)


async def run_demo(  # noqa: PLR0913 - everything that makes a run
    url: str,
    grpc_target: str,
    key: str,
    *,
    catalog: Catalog,
    seconds: float,
    customers: int,
    seed: int,
    console: Console,
    clock: Clock | None = None,
) -> DemoResult:
    """Play the demonstration against a running service.

    Parameters
    ----------
    url, grpc_target, key
        Of the service; the key needs the scopes decide, events and audit.
    catalog
        In force there, as `demo_catalog` made it.
    seconds
        How long customers come.
    customers
        How many there are.
    seed
        Of the world.
    console
        Shows the progress.
    clock
        Default: the machine's.

    Raises
    ------
    NbxError
        The service is not ready or refused the customers' profiles: nothing was played.
    """
    clock = clock or SystemClock()
    world = World(
        seed,
        customers=customers,
        visits=round(seconds * RATE),
        length_ms=round(seconds * 1000),
        day_ms=DAY_MS / FACTOR,
        prefix=f"demo-{clock.now_ms() // 1000:x}",
    )
    async with Faces(url, grpc_target, key) as faces:
        await faces.wait_ready()
        await _introduce(world, faces, console)
        traffic = _Traffic(world, catalog, faces, clock)
        await traffic.run(console, seconds)
        with console.status("waiting for the last attention to run out"):
            await asyncio.sleep((_longest_ms(world, catalog) + SETTLE_MS) / 1000)
            checked, outcomes, wrong = await traffic.check()
            end_ms = clock.now_ms()
    with console.status("the same customers with other policies (about 15 s)"):
        others = await asyncio.to_thread(compare, world, Plan(catalog, 1), traffic.start_ms, end_ms, checked)
    late_ms = sorted(traffic.late_ms)
    return DemoResult(
        nbx=Compared("nbx", traffic.tally),
        others=others,
        latency={face: _latency(times) for face, times in faces.latencies_ms.items() if times},
        visits=len(traffic.tally.visits),
        customers=customers,
        seconds=seconds,
        achieved_rate=1000 * len(traffic.tally.visits) / max(traffic.took_ms, 1),
        late_ms=late_ms[int(0.99 * (len(late_ms) - 1))] if late_ms else 0.0,
        errors=faces.errors,
        degraded=traffic.degraded,
        knew_before=traffic.knew_before,
        checked_customers=len(checked),
        checked_outcomes=outcomes,
        wrong_customers=wrong,
    )


async def _introduce(world: World, faces: Faces, console: Console) -> None:
    with _progress(console) as progress:
        task = progress.add_task("customers", total=len(world.customers), note="")

        async def introduce(customer: Customer) -> None:
            await faces.set_profile(customer.customer_id, customer.profile)
            progress.advance(task)

        await _each(world.customers, introduce)


class _Traffic:
    """The customers under way.

    Parameters
    ----------
    world, catalog, faces, clock
        Who comes, what is in force, where to, and by whose time.
    """

    def __init__(self, world: World, catalog: Catalog, faces: Faces, clock: Clock) -> None:
        self._world, self._faces, self._clock = world, faces, clock
        self._implicit = {p.name: p.impressions == "implicit" for p in catalog.placements}
        self._minds = [Mind() for _ in world.customers]
        self._expected: list[Counter[str]] = [Counter() for _ in world.customers]
        self._lately: deque[tuple[int, int, int]] = deque(maxlen=LATELY)
        self._whole = [True] * len(world.customers)
        """Whether each of the customer's calls was answered."""
        self.tally = Tally(catalog)
        self.start_ms = 0
        self.took_ms = 0
        self.late_ms: list[float] = []
        self.knew_before = False
        self.degraded = 0

    async def run(self, console: Console, seconds: float) -> None:
        """Send every visit at its time, and wait until all customers are done."""
        self.start_ms = self._clock.now_ms()
        loop = asyncio.get_running_loop()
        began = loop.time()
        gate = asyncio.Semaphore(IN_FLIGHT)
        running: set[asyncio.Task[None]] = set()
        with _progress(console) as progress:
            task = progress.add_task("visits   ", total=len(self._world.visits), note="")
            noted = [began]

            async def one(visit: Visit) -> None:
                try:
                    await self._visit(visit)
                except NbxError as error:
                    self._whole[visit.customer] = False
                    self._faces.errors[error.message] += 1
                finally:
                    gate.release()
                progress.advance(task)
                if loop.time() - noted[0] > NOTE_S:
                    noted[0] = loop.time()
                    progress.update(task, note=self._note(loop.time() - began))

            for number, visit in enumerate(self._world.visits):
                await asyncio.sleep(began + visit.at_ms / 1000 - loop.time())
                await gate.acquire()
                if loop.time() - began > PATIENCE * seconds:  # a slow machine: the same fewer visits for every policy
                    del self._world.visits[number:]
                    break
                self.late_ms.append(1000 * (loop.time() - began) - visit.at_ms)
                started = asyncio.create_task(one(visit))
                running.add(started)
                started.add_done_callback(running.discard)
            self.took_ms = max(round(1000 * (loop.time() - began)), round(1000 * seconds))
            await asyncio.gather(*running)

    async def check(self) -> tuple[list[int], int, list[str]]:
        """Compare the service's books with what customers lived through.

        Returns
        -------
        checked
            Indices of the customers looked at; their balances are in the tally.
        outcomes
            How many outcomes they had.
        wrong
            Those whose books differ, and how.
        """
        asked = {visit.customer for visit in self._world.visits}
        checked = [index for index in sorted(asked) if self._whole[index]][:CHECKED]
        balances: dict[int, float] = {}
        wrong = []

        async def look(index: int) -> None:
            customer_id = self._world.customers[index].customer_id
            view = await self._faces.customer(customer_id)
            balances[index] = view.relationship["balance"]
            booked = {name: count for name, count in sorted(view.outcomes.items()) if count}
            lived = dict(sorted(self._expected[index].items()))
            if booked != lived:
                wrong.append(f"{customer_id}: booked {booked}, lived {lived}")

        await _each(checked, look)
        self.tally.balances = [balances[index] for index in checked]
        return checked, sum(self._expected[index].total() for index in checked), wrong

    async def _visit(self, visit: Visit) -> None:
        customer_id = self._world.customers[visit.customer].customer_id
        tag = f"{customer_id}.{visit.number}"
        before = [
            Event(event_id=f"{tag}.{number}", type=each.type, customer_id=customer_id, properties=each.properties)
            for number, each in enumerate(visit.behaviour)
        ]
        await self._faces.record(before, over_grpc=visit.is_call)
        decided = await self._faces.decide(visit, customer_id, tag)
        if not self.tally.visits:
            self.knew_before = any(abs(p - PRIOR_RESPONSE) > 1e-3 for p in decided.p_response)
        if decided.degraded:  # what was decided in its stead may be in the books too
            self.degraded += 1
            self._whole[visit.customer] = False
        mind = self._minds[visit.customer]
        implicit = self._implicit[visit.placement]
        lived: dict[int, tuple[str, Response]] = {
            slot: (action, self._world.respond(visit, action, mind, visit.at_ms, implicit=implicit))
            for slot, action in enumerate(decided.actions)
            if action
        }
        self.tally.visited(visit, list(lived.values()))
        self._expected[visit.customer].update(response.outcome for _, response in lived.values())
        self._lately.append(_seen_accepted_ignored(self.tally))
        await self._live_through(visit, decided, {slot: response for slot, (_, response) in lived.items()}, tag)

    async def _live_through(self, visit: Visit, decided: Decided, responses: dict[int, Response], tag: str) -> None:
        """Report what the customer does, when the customer does it."""
        customer_id = self._world.customers[visit.customer].customer_id
        now_ms = 0
        for burst in _bursts(responses):
            await asyncio.sleep((burst[-1][1].delay_ms - now_ms) / 1000)
            now_ms = burst[-1][1].delay_ms
            events = [
                Event(
                    event_id=f"{tag}.{slot}.{step.type}",
                    type=step.type,
                    decision_id=decided.decision_id,
                    slot=slot,
                    customer_id=customer_id,
                    by=step.by,
                    reason=step.reason,
                )
                for slot, step in burst
            ]
            await self._faces.record(events, over_grpc=visit.is_call)

    def _note(self, seconds: float) -> str:
        """One line on how it goes."""
        seen, accepted, ignored = (
            (sum(column) for column in zip(*self._lately, strict=True)) if self._lately else (0, 0, 0)
        )
        times = self._faces.latencies_ms["HTTP"][-LATELY:]
        median_ms = float(np.median(times)) if times else 0.0
        parts = [f"{len(self.tally.visits) / max(seconds, 0.1):.0f}/s"]
        if seen:
            parts += [f"accepted {accepted / seen:.1%}", f"ignored {ignored / seen:.1%}"]
        parts.append(f"decide {median_ms:.1f} ms")
        if self._faces.errors:
            parts.append(f"{self._faces.errors.total()} errors")
        return " · ".join(parts)


def _seen_accepted_ignored(tally: Tally) -> tuple[int, int, int]:
    lived = tally.visits[-1]
    return lived.seen, lived.accepted, lived.outcomes.count("ignored")


def _bursts(responses: dict[int, Response]) -> Iterator[list[tuple[int, Step]]]:
    """Group all slots' steps, in time order, into calls."""
    steps = sorted(
        ((slot, step) for slot, response in responses.items() for step in response.steps), key=lambda s: s[1].delay_ms
    )
    burst: list[tuple[int, Step]] = []
    for slot, step in steps:
        if burst and step.delay_ms - burst[0][1].delay_ms > BURST_MS:
            yield burst
            burst = []
        burst.append((slot, step))
    if burst:
        yield burst


def _longest_ms(world: World, catalog: Catalog) -> int:
    """Return how long the last prompt's timers may run."""
    asked = {visit.placement for visit in world.visits}
    placements = [placement for placement in catalog.placements if placement.name in asked]
    attention = [placement.attention_ms for placement in placements]
    attention += [
        action.attention_ms for action in catalog.actions if any(asked & set(t.placements) for t in action.treatments)
    ]
    return max((placement.delivery_ms for placement in placements), default=0) + max(attention, default=0)


async def _each(items: list[T], call: Callable[[T], Awaitable[None]]) -> None:
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(item: T) -> None:
        async with gate:
            await call(item)

    await asyncio.gather(*(one(item) for item in items))


def _latency(times_ms: list[float]) -> Latency:
    p50, p99 = np.percentile(times_ms, [50, 99])
    return Latency(len(times_ms), float(p50), float(p99))


@contextlib.contextmanager
def _progress(console: Console) -> Iterator[Progress]:
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=14),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
        TextColumn("[dim]{task.fields[note]}"),
        console=console,
        refresh_per_second=4,
    ) as progress:
        yield progress
