"""What is served now: a plan and a model bound to it, swapped together as one value.

`refresh` compares two small numbers with the store and loads what changed. Requests in flight keep the pair they began
with, so no decision mixes releases, and none waits for a swap. Compiling a release and binding a model take longer than
a decision may, so they are done beside the event loop.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import NamedTuple

from nbx.bandits.snapshot import BoundModel, Snapshot, bind, decode_snapshot
from nbx.catalog.plan import Plan
from nbx.catalog.releases import decode_release, digest_of
from nbx.errors import NotReady
from nbx.features.keys import CATALOG_CURRENT, MODEL_SNAPSHOT, MODEL_VERSION, release_key
from nbx.features.store import Store
from nbx.limits import PLANS

TIMEOUT_MS = 2_000.0


class Served(NamedTuple):
    """A release and the model bound to it."""

    plan: Plan
    model: BoundModel


class Serving:
    """Holds what is served and keeps it current.

    Parameters
    ----------
    store
        Where releases and snapshots are.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._served: Served | None = None
        self._snapshot: Snapshot | None = None
        self._plans: OrderedDict[int, Plan] = OrderedDict()
        """Those used last are at the end; at most `limits.PLANS` besides the one that is served."""
        self._compiling = asyncio.Lock()
        self._refreshing = asyncio.Lock()

    def current(self) -> Served:
        """Return what is served; `NotReady` before the first release is loaded."""
        if self._served is None:
            raise NotReady("no catalog is published yet: run `nbx catalog publish FILE`", code="release_missing")
        return self._served

    def plan(self) -> Plan:
        """Return the plan in force; `NotReady` before there is one."""
        return self.current().plan

    async def plan_of(self, number: int) -> Plan:
        """Return the plan of any release, compiled once while it is in use."""
        if number not in self._plans:
            async with self._compiling:
                if number not in self._plans:
                    self._keep(number, await self._compiled(number))
        self._plans.move_to_end(number)
        return self._plans[number]

    async def _compiled(self, number: int) -> Plan:
        packed = (await self._store.read([release_key(number)], TIMEOUT_MS))[0]
        if packed is None:
            raise NotReady(f"release {number} is in force but cannot be read", code="release_missing")
        return await asyncio.to_thread(lambda: Plan(decode_release(packed).catalog, number, digest_of(packed)))

    def _keep(self, number: int, plan: Plan) -> None:
        if self._served is not None and self._served.plan.release in self._plans:
            self._plans.move_to_end(self._served.plan.release)
        while len(self._plans) > PLANS:
            self._plans.popitem(last=False)
        self._plans[number] = plan

    async def refresh(self) -> bool:
        """Load what changed; True when something was swapped. Raises `Unavailable` when the store is away."""
        async with self._refreshing:  # else a slow one could put an older release in force again
            return await self._refresh()

    async def _refresh(self) -> bool:
        (current,), (version,) = await asyncio.gather(
            self._store.read([CATALOG_CURRENT], TIMEOUT_MS), self._store.read([MODEL_VERSION], TIMEOUT_MS)
        )
        if current is None:
            return False
        served = self._served
        number, wanted = int(current), int(version or 0)
        loaded = self._snapshot.version if self._snapshot is not None else 0
        if served is not None and served.plan.release == number and loaded == wanted:
            return False
        plan = await self.plan_of(number)
        snapshot, packed = self._snapshot, None
        if loaded != wanted:
            (packed,) = await self._store.read([MODEL_SNAPSHOT], TIMEOUT_MS)

        def bound() -> tuple[Snapshot | None, BoundModel]:
            found = snapshot if loaded == wanted else decode_snapshot(packed) if packed is not None else None
            return found, bind(found, plan.layout.columns, plan.action_names, plan.action_groups)

        self._snapshot, model = await asyncio.to_thread(bound)
        self._served = Served(plan, model)
        return True
