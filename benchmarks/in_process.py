"""A service without sockets or Redis, so that only what nbx itself does is timed; its store answers at once."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

import msgspec

from nbx.audit.slow_decisions import SlowDecisions
from nbx.bandits.snapshot import BoundModel, bind
from nbx.catalog.model import Catalog
from nbx.catalog.plan import Plan
from nbx.clock import ManualClock
from nbx.decision.service import DecisionService
from nbx.decision.serving import Served
from nbx.features.state import CustomerState, ProfileValue, encode_state
from nbx.features.store import VERSION_BYTES, Commit, Committed, Verdict

NOW_MS = 1_767_268_800_000
SALT = "nbx"
CUSTOMERS = 64
"""States that are decided on in turn."""


class AtOnceStore:
    """Gives everybody's state, takes every commit and forgets it."""

    def __init__(self, packed: Sequence[bytes]) -> None:
        self._packed = packed
        self._turn = 0
        self.last: Commit | None = None

    async def read(self, keys: Sequence[str], timeout_ms: float) -> list[bytes | None]:  # noqa: ARG002 - never late
        """Return the next customer's state for the first key, nothing for the others."""
        self._turn += 1
        return [self._packed[self._turn % len(self._packed)], *([None] * (len(keys) - 1))]

    async def commit(self, commit: Commit, timeout_ms: float) -> Committed:  # noqa: ARG002 - never late
        """Say that it is done."""
        self.last = commit
        return Committed(Verdict.DONE)


class Fixed:
    """Serves one plan for good."""

    def __init__(self, plan: Plan, model: BoundModel) -> None:
        self._served = Served(plan, model)

    def current(self) -> Served:
        """Return it."""
        return self._served

    async def plan_of(self, number: int) -> Plan:  # noqa: ARG002 - there is one
        """Return it."""
        return self._served.plan


def served(catalog: Catalog) -> tuple[Plan, BoundModel]:
    """Compile a catalog; its model has learned nothing, which costs a decision as much as any."""
    plan = Plan(catalog, 1)
    return plan, bind(None, plan.layout.columns, plan.action_names, plan.action_groups)


def past(plan: Plan, number: int, actions: int = 10) -> CustomerState:
    """Return a customer who has met some actions, three times each, and told a profile."""
    now_s = NOW_MS // 1000
    met = [plan.action_names[(number * 7 + k) % len(plan.action_names)] for k in range(actions)]
    return CustomerState(
        profile={name: ProfileValue(float(number % 9), NOW_MS - 1000) for name in plan.profile_features},
        exposures={name: [now_s - 86_400 * (2 * j + 1) for j in range(3)][::-1] for name in met},
        touches={"web": sorted(now_s - 40_000 * (j + 1) for j in range(20))},
    )


def packed_states(plan: Plan) -> list[bytes]:
    """Return states as they lie in the store."""
    version = (3).to_bytes(VERSION_BYTES, "big")
    return [version + encode_state(past(plan, number)) for number in range(CUSTOMERS)]


def bodies(plan: Plan) -> list[bytes]:
    """Return requests as they come over HTTP."""
    names = sorted(plan.context_features)[:4]
    return [
        msgspec.json.encode({"customer_id": f"c{n}", "placement": "hero", "context": dict.fromkeys(names, n % 7 / 7)})
        for n in range(CUSTOMERS)
    ]


def service(plan: Plan, model: BoundModel, store: AtOnceStore) -> DecisionService:
    """Return the service as an api process wires it."""
    clock = ManualClock(NOW_MS)
    return DecisionService(
        store,  # type: ignore[arg-type] # what deciding needs of it is there
        Fixed(plan, model),
        clock,
        partitions=16,
        deadline_ms=10_000,
        request_ttl_ms=86_400_000,
        salt=SALT,
        observe=SlowDecisions(0, clock).observe,
        build="bench",
    )


def result_of(work: Awaitable[bytes]) -> bytes:
    """Run what never waits to its end, without an event loop."""
    steps = work.__await__()
    try:
        next(steps)
    except StopIteration as end:
        return bytes(end.value)
    raise AssertionError("it waited")
