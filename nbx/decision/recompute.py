"""A decision made again from what it rests on, and compared with its record field by field, bit for bit.

Two things of a record do not follow from release, model, state and request, and are read from the record: how long it
took, and what budgets had left. Budgets are shared by all customers and workers and are counted in leases, of which no
customer's log tells. That nothing was left is on record where it mattered, as actions removed and as allowances of a
slate; both follow from a purse that has just so much, so what a decision took itself is compared but for the lease.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from msgspec import Struct, structs

from nbx.bandits.snapshot import BoundModel
from nbx.catalog.plan import Plan
from nbx.decision.again import purse_of
from nbx.decision.choice import Allowed, allowed, decide
from nbx.decision.contact_policy import Contacts, shared_limits
from nbx.decision.degraded import degraded_entry
from nbx.decision.messages import DecideRequest
from nbx.decision.record import decision_entry
from nbx.decision.replayed import Difference
from nbx.experience.entries import FACTORS, DecisionEntry, Spent
from nbx.features.state import CustomerState

READ = frozenset({"took_us", "spent", "state_version", "release_digest", "build"})
"""Fields that are not recomputed here; but for the first they are compared in a way of their own."""
BARE = frozenset({"learns", "personalised", "holdout", "channel", "stakes", "segments", "after", "continues"})
"""Fields that follow without a model."""
SHOWN = 40
"""Differences told of one decision: the first ones say enough."""
_LONG = 120


def request_of(entry: DecisionEntry) -> DecideRequest:
    """Return what was asked."""
    asked = entry.request
    return DecideRequest(
        customer_id=entry.customer_id,
        placement=asked.placement,
        slots=asked.slots,
        context=asked.context,
        exclude=asked.exclude,
        request_id=asked.request_id,
    )


def decide_again(entry: DecisionEntry, plan: Plan, model: BoundModel, state: CustomerState) -> DecisionEntry:
    """Make the decision of a record again; `READ` fields are those of the record."""
    request = request_of(entry)
    purse = whole_purse(entry, plan, model, state)
    choice = decide(plan, model, state, request, entry.decision_id, entry.at_ms, salt=entry.policy.salt, purse=purse)
    again = decision_entry(
        choice,
        request,
        entry.decision_id,
        entry.at_ms,
        release=plan.release,
        snapshot=model.version,
        state_version=entry.state_version,
        took_us=entry.took_us,
        release_digest=entry.release_digest,
        build=entry.build,
    )
    return structs.replace(again, spent=_spent_again(entry, again, plan))


def degrade_again(entry: DecisionEntry, plan: Plan, salt: str) -> DecisionEntry:
    """Make a degraded decision again; `salt` is the installation's, as such a record does not hold it."""
    placement = plan.placements[entry.request.placement]
    reason = entry.degraded[0]
    again = degraded_entry(plan, placement, request_of(entry), entry.decision_id, entry.at_ms, reason, salt)
    return structs.replace(again, **{name: getattr(entry, name) for name in READ})


def whole_purse(entry: DecisionEntry, plan: Plan, model: BoundModel, state: CustomerState) -> dict[str, int]:
    """Return what budgets had left, by what was removed and by what the slate was allowed."""
    placement = plan.placements[entry.request.placement]
    left = purse_of(entry, plan)
    if placement.budgets and entry.shared:
        left |= _allowances(entry, plan, allowed(
            plan, state, request_of(entry), entry.at_ms, salt=entry.policy.salt, purse=left, model=model
        ), state)  # fmt: skip
    return left


def _allowances(entry: DecisionEntry, plan: Plan, found: Allowed, state: CustomerState) -> dict[str, int]:
    """Return the least that pays for what the slate was allowed of each resource that bounded it."""
    placement, positions = plan.placements[entry.request.placement], found.candidates.positions
    contacts = Contacts(state, plan.rules, entry.at_ms)
    other = len(shared_limits(contacts, placement, positions, entry.request.slots))
    waiting = list(entry.shared[other:])
    left = {}
    for use in placement.budgets:
        amounts = use.amounts[positions]
        members = np.flatnonzero(amounts).tolist()
        if waiting and waiting[0].members == tuple(members):
            dearest = sorted(amounts[members].tolist(), reverse=True)
            left[use.plan.resource] = sum(dearest[: waiting.pop(0).allowance])
    return left


def _spent_again(entry: DecisionEntry, again: DecisionEntry, plan: Plan) -> tuple[Spent, ...]:
    """Return what the slots cost, by the leases on record as far as there are any."""
    leases = {each.resource: each.lease for each in entry.spent}
    chosen = [slot.action for slot in again.slots if slot.action]
    plans = [use.plan for use in plan.placements[entry.request.placement].budgets]
    costs = [(each.resource, sum(each.amounts.get(action, 0) for action in chosen)) for each in plans]
    return tuple([Spent(resource, leases.get(resource, "?"), amount) for resource, amount in costs if amount])


def differences(
    entry: DecisionEntry, again: DecisionEntry, plan: Plan, only: frozenset[str] | None = None
) -> list[Difference]:
    """Compare every field, arrays element by element; `only`: no other fields than these.

    Returns
    -------
    list of Difference
        In the order of the fields, at most `SHOWN`; empty: the same bits.
    """
    found: list[Difference] = []
    for name in DecisionEntry.__struct_fields__:
        if only is not None and name not in only:
            continue
        recorded, recomputed = getattr(entry, name), getattr(again, name)
        if _packed(recorded) == _packed(recomputed):
            continue
        if name == "factors" and entry.actions == again.actions:
            found += _cells(entry, again)
        elif name == "x" and len(entry.x) == len(again.x) == 4 * len(plan.layout.columns):
            columns = plan.layout.columns
            found += _numbers("x", columns, entry.x, again.x)
        else:
            found += _parts(name, recorded, recomputed)
    return found[:SHOWN]


def _packed(value: Any) -> bytes:
    return msgspec.msgpack.encode(value)


def _cells(entry: DecisionEntry, again: DecisionEntry) -> list[Difference]:
    names = [f"candidates[{action}].{column}" for action in entry.actions for column in FACTORS]
    return _numbers("", names, entry.factors, again.factors)


def _numbers(what: str, names: Any, recorded: bytes, recomputed: bytes) -> list[Difference]:
    one, other = np.frombuffer(recorded, np.float32), np.frombuffer(recomputed, np.float32)
    if len(one) != len(other) or len(one) != len(names):
        return [Difference(what or "factors", f"{len(one)} numbers", f"{len(other)} numbers")]
    at = np.flatnonzero(one.view(np.uint32) != other.view(np.uint32)).tolist()
    words = [f"{what}[{names[k]}]" if what else names[k] for k in at]
    return [Difference(word, repr(float(one[k])), repr(float(other[k]))) for word, k in zip(words, at, strict=True)]


def _parts(what: str, recorded: Any, recomputed: Any) -> list[Difference]:
    """Go down to the smallest part that differs."""
    if _packed(recorded) == _packed(recomputed):
        return []
    if isinstance(recorded, Struct) and type(recorded) is type(recomputed):
        names = recorded.__struct_fields__
        return [d for n in names for d in _parts(f"{what}.{n}", getattr(recorded, n), getattr(recomputed, n))]
    if isinstance(recorded, dict) and isinstance(recomputed, dict):
        names = tuple(recorded.keys() | recomputed.keys())
        found = [d for n in sorted(names) for d in _parts(f"{what}.{n}", recorded.get(n), recomputed.get(n))]
        return found or [Difference(f"{what}: order", _told(list(recorded)), _told(list(recomputed)))]
    if isinstance(recorded, tuple) and isinstance(recomputed, tuple) and len(recorded) == len(recomputed):
        pairs = enumerate(zip(recorded, recomputed, strict=True))
        return [d for k, (one, other) in pairs for d in _parts(f"{what}[{k}]", one, other)]
    return [Difference(what, _told(recorded), _told(recomputed))]


def _told(value: Any) -> str:
    if isinstance(value, bytes):
        return f"{len(value)} bytes {value[:8].hex()}"
    text = repr(value) if value != "" else "none"
    return text if len(text) <= _LONG else f"{text[: _LONG - 1]}…"
