"""Puts an api process together: the one place that knows which adapter serves which port."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field

from redis.asyncio import Redis

from nbx.api.auth import KeyRing, list_keys
from nbx.api.tracing import Tracing
from nbx.audit.customer_log import CustomerLog
from nbx.audit.metrics import flush, observe_outcome
from nbx.audit.slow_decisions import SlowDecisions
from nbx.audit.whole_log import WholeLog
from nbx.build import current_build
from nbx.clock import Clock, SystemClock
from nbx.decision.ledger import Ledger
from nbx.decision.recovery import recover
from nbx.decision.service import DecisionService
from nbx.decision.serving import Serving
from nbx.decision.stages import Stages
from nbx.errors import NbxError, Unavailable
from nbx.experience.entries import DecisionEntry
from nbx.experience.erasure import ErasureService
from nbx.experience.service import EventService
from nbx.features.budget_redis import RedisBudgets
from nbx.features.builds import note_build
from nbx.features.connection import RedisConnection
from nbx.features.keys import KEYS_VERSION
from nbx.features.store_redis import RedisStore
from nbx.runtime.known_settings import tell_settings
from nbx.runtime.process import check_partitions, log, pause
from nbx.settings import Settings

TIMEOUT_MS = 2_000.0
TEND_S = 0.2
"""Between two looks at the leases of budgets, which idle for two seconds at most and last five, and at what was
counted."""


@dataclass
class Services:
    """Everything the faces need. Made before Redis answers: until then every call is refused as not ready."""

    settings: Settings
    clock: Clock
    connection: RedisConnection
    store: WholeLog
    """For all that reads the log; deciding and recording go to Redis itself."""
    serving: Serving
    budgets: RedisBudgets
    ledger: Ledger
    decisions: DecisionService
    events: EventService
    erasures: ErasureService
    history: CustomerLog
    keys: KeyRing
    admin: Redis
    """redis-py client for what is not hot."""
    tracing: Tracing | None = None
    """None: nobody asked for traces."""
    keys_version: bytes | None = None
    begun: bool = False
    """The connection was made once; it restores itself from then on."""
    connected: bool = False
    """And what is behind it fits these settings."""
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self, stop: asyncio.Event) -> None:
        """Begin connecting, and from then on keep releases, snapshots, keys and leases of budgets current."""
        self.tasks.append(asyncio.create_task(self._keep_current(stop)))
        self.tasks.append(asyncio.create_task(self._tend(stop)))

    async def close(self) -> None:
        """End the background tasks and the connections; what is left of budgets goes back."""
        for task in self.tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        flush()
        waiting = len(self.decisions.degraded)
        if waiting and await recover(self.decisions, self.events) < waiting:
            log.error("%d degraded decisions could not be logged: Redis is away", len(self.decisions.degraded))
        with contextlib.suppress(Unavailable):
            await self.ledger.close()
        await self.connection.close()
        await self.admin.aclose()

    async def _tend(self, stop: asyncio.Event) -> None:
        while not await pause(stop, TEND_S):
            flush()
            try:
                await self.ledger.tend(self.clock.now_ms())
            except Unavailable:
                pass  # the other loop says so
            except Exception:  # noqa: BLE001 - this loop ends with the process only
                log.exception("tending leases of budgets")

    async def _keep_current(self, stop: asyncio.Event) -> None:
        told = ""
        while not stop.is_set():
            try:
                if not self.begun:
                    await self.connection.connect()
                    self.begun = True
                if not self.connected:
                    await check_partitions(self.connection, self.settings.partitions)
                    await tell_settings(self.connection, self.settings, "api", self.clock)
                    await note_build(self.connection, current_build(), "nbx api", self.clock.now_ms())
                    self.connected = True
                await self.refresh()
                await recover(self.decisions, self.events)
                if told:
                    log.info("Redis is back; degraded decisions lost as too many waited: %d", self.decisions.dropped)
                told = ""
            except Unavailable as error:
                if not told:
                    log.warning("Redis is away: %s", error)
                told = str(error)
            except Exception as error:  # noqa: BLE001 - this loop ends with the process only
                if told != str(error):
                    log.error("keeping current: %s", error, exc_info=None if isinstance(error, NbxError) else error)
                told = str(error)
            await pause(stop, self.settings.poll_interval_ms / 1000)

    async def refresh(self) -> None:
        """Load what changed: keys, release, snapshot."""
        (version,) = await self.store.read([KEYS_VERSION], TIMEOUT_MS)
        if version != self.keys_version and not self.keys.is_open:
            self.keys.replace(await list_keys(self.admin))
            self.keys_version = version
        if await self.serving.refresh():
            plan, model = self.serving.current()
            log.debug("serving release %d, snapshot %d", plan.release, model.version)


def wire(settings: Settings) -> Services:
    """Make the services of an api process; nothing is connected yet."""
    clock = SystemClock()
    connection = RedisConnection(settings.effective_redis_url)
    store = RedisStore(connection)
    whole = WholeLog(store, settings.archive_path)
    history = CustomerLog(whole, settings.archive_path)
    whole.load()
    serving = Serving(store)
    budgets = RedisBudgets(connection)
    ledger = Ledger(budgets, settings.partitions)
    ttl_ms = settings.request_ttl_s * 1000
    slow = SlowDecisions(settings.slow_ms, clock)
    tracing = Tracing(settings.otel_endpoint, clock) if settings.otel_endpoint else None
    return Services(
        settings=settings,
        clock=clock,
        connection=connection,
        store=whole,
        serving=serving,
        budgets=budgets,
        ledger=ledger,
        decisions=DecisionService(
            store,
            serving,
            clock,
            partitions=settings.partitions,
            deadline_ms=settings.deadline_ms,
            request_ttl_ms=ttl_ms,
            salt=settings.salt,
            observe=_observer(slow, tracing),
            ledger=ledger,
            build=current_build().fingerprint,
        ),
        events=EventService(
            store,
            serving.plan,
            clock,
            partitions=settings.partitions,
            dedupe_ms=ttl_ms,
            observe=observe_outcome,
            salt=settings.salt,
        ),
        erasures=ErasureService(
            store,
            serving.plan,
            clock,
            partitions=settings.partitions,
            history=history.rows,
            kept_ms=settings.erased_keep_s * 1000,
        ),
        history=history,
        tracing=tracing,
        keys=KeyRing(None, is_open=settings.auth == "off"),
        admin=Redis.from_url(settings.effective_redis_url),
    )


def _observer(slow: SlowDecisions, tracing: Tracing | None) -> Callable[[DecisionEntry, Stages], None]:
    """Return what is told of every decision."""
    if tracing is None:
        return slow.observe

    def observe(entry: DecisionEntry, stages: Stages) -> None:
        slow.observe(entry, stages)
        tracing.observe(entry, stages)

    return observe
