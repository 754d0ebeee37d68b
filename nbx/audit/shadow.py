"""Shadow runs: what a draft of the catalog would have done with the latest decisions, beside the release in force.

Both decide by `nbx.decision.choice.decide` on the same customers as they were (`nbx.audit.rebuilding`), with the same
model, that which is served now, bound to each release, and with the same draws, as decision ids and salt are those on
record. So a difference is the draft's doing, and the same question gets the same answer. Nothing is written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from heapq import nlargest
from typing import NamedTuple

from msgspec import Struct, structs

from nbx.audit.judging import Maturity
from nbx.audit.reading import erased_by, outcomes_of, read_log
from nbx.audit.rebuilding import Rebuilder, Rebuilt
from nbx.audit.shadow_pricing import Pricing
from nbx.audit.shadow_report import ShadowReport
from nbx.audit.shadow_tally import Tally
from nbx.bandits.snapshot import BoundModel, Snapshot, bind, decode_snapshot
from nbx.catalog.plan import Plan
from nbx.decision.again import asked_again, purse_of
from nbx.decision.choice import Choice, decide
from nbx.errors import Invalid, Unknown
from nbx.experience.entries import DecisionEntry, Entry
from nbx.features.keys import MODEL_SNAPSHOT
from nbx.features.state import CustomerState
from nbx.features.store import Store
from nbx.limits import SHADOW_DECISIONS

TIMEOUT_MS = 2_000.0
LAST = 10_000
"""Decisions replayed when nobody says."""
_FIRST_LOOK_MS = 60_000
_STEP = 64
"""Entries worked off between two returns to the event loop: a service that ends does not wait long for the thread."""


class ShadowQuestion(Struct, frozen=True, kw_only=True):
    """What is asked of a shadow run."""

    now_ms: int
    last: int = LAST
    """Latest live decisions to replay, 1 to `limits.SHADOW_DECISIONS`."""
    placement: str = ""
    """Empty: all."""
    by: tuple[str, ...] = ()
    """Features of the draft whose values are segments; empty: its one-hot profile features."""


class _Wanted(NamedTuple):
    """A decision to replay; by time."""

    at_ms: int
    decision_id: str
    customer_id: str
    erased: bool = False
    """The customer was erased since: what the log still holds of it counts no more."""


async def shadow(
    store: Store,
    partitions: int,
    plan_of: Callable[[int], Awaitable[Plan]],
    draft: Plan,
    base: Plan,
    question: ShadowQuestion,
) -> ShadowReport:
    """Replay the latest live decisions through a draft and through the release in force.

    The log is read twice: from its end until there are enough decisions, then from its start for their customers. Work
    is done in a thread: 10,000 decisions take some 15 s of one core.

    Parameters
    ----------
    store
        Only read.
    partitions
        Of the store.
    plan_of
        Gives the plan of a release by number.
    draft, base
        What is asked about, and what it is compared with.
    question
        Which decisions, and by which segments.

    Raises
    ------
    Invalid
        `last` is out of range.
    Unknown
        A feature or placement that the draft does not have.
    """
    _check(question, draft)
    (packed,) = await store.read([MODEL_SNAPSHOT], TIMEOUT_MS)
    snapshot = decode_snapshot(packed) if packed is not None else None
    wanted = await _latest(store, partitions, question)
    plans: dict[int, Plan] = {}
    run = await asyncio.to_thread(_Run, wanted, draft, base, snapshot, plans, question)
    async for entries in read_log(store, partitions, 0, question.now_ms):
        mine = [entry for entry in entries if entry.customer_id in run.customers]
        for number in {entry.release for entry in mine} - plans.keys():
            plans[number] = await plan_of(number)
        for at in range(0, len(mine), _STEP):
            await asyncio.to_thread(run.take, mine[at : at + _STEP])
    return await asyncio.to_thread(run.report)


def _check(question: ShadowQuestion, draft: Plan) -> None:
    if not 1 <= question.last <= SHADOW_DECISIONS:
        raise Invalid(f"last is {question.last}; it must be 1 to {SHADOW_DECISIONS}", field="last")
    if question.placement and question.placement not in draft.placements:
        raise Unknown(
            f"the draft has no placement {question.placement[:64]!r}; it has {', '.join(draft.placements)}",
            field="placement",
            code="placement_unknown",
        )
    declared = {feature.name for feature in draft.catalog.features}
    for name in question.by:
        if name not in declared:
            raise Unknown(
                f"the draft has no feature {name[:64]!r}; it has {', '.join(sorted(declared)) or 'none'}",
                field="by",
                code="feature_unknown",
            )


async def _latest(store: Store, partitions: int, question: ShadowQuestion) -> dict[str, _Wanted]:
    """Find the decisions to replay, by id. Looks ever further back until there are enough.

    A customer who was erased was erased after the decision, so that is seen on the way.
    """
    heads = await asyncio.gather(*(store.log_range(p, "-", "+", 1) for p in range(partitions)))
    began_ms = min((int(head[0].entry_id.partition("-")[0]) for head in heads if head), default=question.now_ms)
    found: dict[str, _Wanted] = {}
    erased_ms: dict[str, int] = {}
    until_ms, look_ms = question.now_ms, _FIRST_LOOK_MS
    since_ms = until_ms + 1
    while len(found) < question.last and since_ms > began_ms:
        since_ms = max(until_ms - look_ms, began_ms)
        async for entries in read_log(store, partitions, since_ms, until_ms):
            for entry in entries:
                if isinstance(entry, DecisionEntry) and _replayed(entry, question):
                    found[entry.decision_id] = _Wanted(entry.at_ms, entry.decision_id, entry.customer_id)
                elif customer := erased_by(entry):
                    erased_ms[customer] = max(entry.at_ms, erased_ms.get(customer, 0))
        until_ms, look_ms = since_ms, look_ms * 2
    latest = nlargest(question.last, found.values())
    return {
        each.decision_id: each._replace(erased=each.at_ms <= erased_ms.get(each.customer_id, -1)) for each in latest
    }


def _replayed(entry: DecisionEntry, question: ShadowQuestion) -> bool:
    return not entry.degraded and question.placement in ("", entry.request.placement)


class _Run:
    """Takes the log of some customers in its order, and decides their decisions anew."""

    def __init__(
        self,
        wanted: Mapping[str, _Wanted],
        draft: Plan,
        base: Plan,
        snapshot: Snapshot | None,
        plans: Mapping[int, Plan],
        question: ShadowQuestion,
    ) -> None:
        self.customers = frozenset(each.customer_id for each in wanted.values() if not each.erased)
        self._wanted = {decision_id for decision_id, each in wanted.items() if not each.erased}
        self._draft, self._base = draft, base
        self._draft_model, self._base_model = _bound(snapshot, draft), _bound(snapshot, base)
        self._plans = plans
        self._past = Rebuilder(self.customers, base, draft, plans.__getitem__)
        self._pricing = Pricing(draft, base, self._draft_model)
        self._maturity = Maturity(question.now_ms, young=False)
        self._tally = Tally(draft, base, question.by)
        self._snapshot = snapshot.version if snapshot is not None else 0
        self._question = question
        for decision_id, each in wanted.items():
            if each.erased:
                self._tally.leave_out("erased", decision_id)

    def take(self, entries: list[Entry]) -> None:
        """Take in log entries."""
        for entry in entries:
            rebuilt = self._past.take(entry)
            if rebuilt is not None and rebuilt.entry.decision_id in self._wanted:
                self._maturity.note(rebuilt.entry)
                self._replay(rebuilt)
            self._past.fold(entry)
            for outcome in outcomes_of(entry):
                self._tally.tell(outcome)

    def _replay(self, rebuilt: Rebuilt) -> None:
        entry = rebuilt.entry
        name = entry.request.placement
        if rebuilt.doubt:
            self._tally.leave_out(rebuilt.doubt, entry.decision_id)
            return
        if name not in self._draft.placements or name not in self._base.placements:
            self._tally.leave_out("placement", entry.decision_id)
            return
        purse = purse_of(entry, self._plans[entry.release])
        seen = self._past.seen_by_the_other(rebuilt)
        before = _decided(entry, self._base, self._base_model, rebuilt.state, purse)
        after = _decided(entry, self._draft, self._draft_model, seen, purse)
        values = self._draft.resolver.resolve(seen, asked_again(entry, self._draft).context, entry.at_ms)
        self._tally.add(entry, before, after, values, self._pricing.price(entry, before, after))

    def report(self) -> ShadowReport:
        """Sum up."""
        return structs.replace(
            self._tally.report(self._maturity),
            release=self._base.release,
            snapshot=self._snapshot,
            asked=self._question.last,
            placement=self._question.placement,
        )


def _bound(snapshot: Snapshot | None, plan: Plan) -> BoundModel:
    return bind(snapshot, plan.layout.columns, plan.action_names, plan.action_groups)


def _decided(
    entry: DecisionEntry, plan: Plan, model: BoundModel, state: CustomerState, purse: Mapping[str, int]
) -> Choice:
    """Decide what is on record anew, with the same luck."""
    request, salt = asked_again(entry, plan), entry.policy.salt
    if model.quarantined != set(entry.quarantined):  # what was not to be trusted is of the time, not of the model
        model = replace(model, quarantined=frozenset(entry.quarantined))
    return decide(plan, model, state, request, entry.decision_id, entry.at_ms, salt=salt, purse=purse)
