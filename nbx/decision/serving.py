"""What is served now: a plan and a model bound to it, swapped together as one value.

`refresh` compares two small numbers with the store and loads what changed. Requests in flight keep the pair they began
with, so no decision mixes releases, and none waits for a swap.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from nbx.bandits.snapshot import BoundModel, Snapshot, bind, decode_snapshot
from nbx.catalog.plan import Plan
from nbx.catalog.releases import decode_release
from nbx.errors import NotReady
from nbx.features.keys import CATALOG_CURRENT, MODEL_SNAPSHOT, MODEL_VERSION, release_key
from nbx.features.store import Store

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
        self._plans: dict[int, Plan] = {}

    def current(self) -> Served:
        """Return what is served; `NotReady` before the first release is loaded."""
        if self._served is None:
            raise NotReady("no catalog is published yet: run `nbx catalog publish FILE`", code="release_missing")
        return self._served

    def plan(self) -> Plan:
        """Return the plan in force; `NotReady` before there is one."""
        return self.current().plan

    async def plan_of(self, number: int) -> Plan:
        """Return the plan of any release, compiled once."""
        if number not in self._plans:
            packed = (await self._store.read([release_key(number)], TIMEOUT_MS))[0]
            if packed is None:
                raise NotReady(f"release {number} is in force but cannot be read", code="release_missing")
            release = decode_release(packed)
            self._plans[number] = Plan(release.catalog, number)
        return self._plans[number]

    async def refresh(self) -> bool:
        """Load what changed; True when something was swapped. Raises `Unavailable` when the store is away."""
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
        if loaded != wanted:
            (packed,) = await self._store.read([MODEL_SNAPSHOT], TIMEOUT_MS)
            self._snapshot = decode_snapshot(packed) if packed is not None else None
        model = bind(self._snapshot, plan.layout.columns, plan.action_names, plan.action_groups)
        self._served = Served(plan, model)
        return True
