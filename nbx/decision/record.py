"""From a choice to what is logged and what is answered."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nbx.catalog.plan import Option
from nbx.catalog.vocabulary import CLUSTER
from nbx.decision.arbitration import Factors
from nbx.decision.choice import Choice
from nbx.decision.goals import goal_record
from nbx.decision.messages import DecideReply, DecideRequest, SlotReply
from nbx.experience.entries import FACTORS, DecisionEntry, GoalRecord, RequestRecord, SlotRecord


def decision_entry(  # noqa: PLR0913 - each is told once, by name
    choice: Choice,
    request: DecideRequest,
    decision_id: str,
    now_ms: int,
    *,
    release: int,
    snapshot: int,
    state_version: int,
    took_us: int,
    release_digest: str = "",
    build: str = "",
) -> DecisionEntry:
    """Build the complete record of a choice."""
    placement, positions = choice.placement, choice.positions
    whole = len(positions) == len(placement.names)
    rows = range(len(positions)) if whole else positions.tolist()
    return DecisionEntry(
        customer_id=request.customer_id,
        at_ms=now_ms,
        release=release,
        decision_id=decision_id,
        snapshot=snapshot,
        state_version=state_version,
        request=RequestRecord(
            placement=request.placement,
            slots=request.slots,
            context=request.context,
            exclude=request.exclude,
            request_id=request.request_id,
        ),
        policy=choice.policy,
        x=choice.x.tobytes(),
        relationship=choice.relationship,
        removed=choice.removed,
        actions=placement.names if whole else tuple([placement.names[row] for row in rows]),
        treatments=placement.treatment_names
        if whole and not choice.treatments
        else tuple([treatment_of(choice, row).name for row in rows]),
        factors=_pack_factors(choice),
        none_probability=float(choice.slate.probability[-1]),
        mandatory=tuple(placement.names[row] for row in rows if placement.mandatory[row]) if placement.forces else (),
        shared=choice.shared,
        slots=tuple(_slot_records(choice, now_ms)),
        holdout=choice.holdout,
        degraded=(),
        took_us=took_us,
        goal=_goal_record(choice),
        learns=choice.learns,
        personalised=choice.personalised,
        channel=placement.placement.channel,
        stale=choice.stale,
        quarantined=choice.quarantined,
        stakes=choice.stakes,
        cluster=int(choice.relationship.get(CLUSTER, -1)),
        segments=choice.segments,
        after=choice.after,
        continues=choice.continues,
        release_digest=release_digest,
        build=build,
    )


def treatment_of(choice: Choice, position: int) -> Option:
    """Return the treatment that an action of the placement has in a choice."""
    return choice.treatments.get(position) or choice.placement.options[position][0]


def unpack_factors(entry: DecisionEntry) -> tuple[Factors, NDArray[np.float32]]:
    """Return the logged factors, and all logged columns as float32[n, len(FACTORS)]."""
    table = np.frombuffer(entry.factors, dtype=np.float32).reshape(len(entry.actions), len(FACTORS))
    columns = {name: np.ascontiguousarray(table[:, i]) for i, name in enumerate(FACTORS)}
    return Factors(**{name: columns[name] for name in Factors.__struct_fields__}), table


def reply(entry: DecisionEntry, choice: Choice, explanation: Any) -> DecideReply:
    """Build the answer to the caller."""
    return DecideReply(
        decision_id=entry.decision_id,
        slots=tuple(_slot_reply(number, slot, choice) for number, slot in enumerate(entry.slots)),
        holdout=entry.holdout,
        degraded=entry.degraded,
        release=entry.release,
        snapshot=entry.snapshot,
        took_ms=entry.took_us / 1000,
        explanation=explanation,
        continues=entry.continues,
    )


def _pack_factors(choice: Choice) -> bytes:
    if choice.table is not None:
        return choice.table.tobytes("F")
    factors = choice.factors
    table = np.empty((len(choice.positions), len(FACTORS)), dtype=np.float32)
    for i, name in enumerate(Factors.__struct_fields__):
        table[:, i] = getattr(factors, name)
    table[:, -2] = choice.slate.probability[:-1]
    table[:, -1] = choice.utility.expected()
    return table.tobytes()


def _goal_record(choice: Choice) -> GoalRecord | None:
    if choice.goal is None:
        return None
    slot = choice.slate.arbitrated
    index = choice.slate.chosen[slot] if slot >= 0 else -1
    action = choice.placement.names[choice.positions[index]] if index >= 0 else ""
    return goal_record(choice.goal, choice.placement, action, slot)


def _slot_records(choice: Choice, now_ms: int) -> list[SlotRecord]:
    placement = choice.placement.placement
    implicit = placement.impressions == "implicit"
    quiet_in_ms = choice.quiet_from_ms - now_ms if choice.quiet_from_ms else placement.delivery_ms
    quieted = choice.placement.quieted
    records = []
    for index, propensity in zip(choice.slate.chosen, choice.slate.propensity, strict=True):
        position = int(choice.positions[index]) if index >= 0 else -1
        action = choice.placement.actions[position] if index >= 0 else None
        delivery_ms = placement.delivery_ms
        if action and quiet_in_ms < delivery_ms and position in quieted:  # after that it must not be shown any more
            delivery_ms = quiet_in_ms
        records.append(
            SlotRecord(
                action=action.name if action else "",
                treatment=treatment_of(choice, position).name if action else "",
                group=action.group if action else "",
                p_response=float(choice.utility.p_response[index]) if action else 0.0,
                propensity=propensity,
                none="" if action else choice.slate.silence,
                implicit=implicit,
                delivery_ms=delivery_ms,
                attention_ms=(action.attention_ms if action else 0) or placement.attention_ms,
                expires_at_ms=now_ms + delivery_ms,
            )
        )
    return records


def _slot_reply(number: int, slot: SlotRecord, choice: Choice) -> SlotReply:
    if not slot.action:
        return SlotReply(slot=number, none=slot.none, propensity=slot.propensity)
    position = choice.placement.position[slot.action]
    action = choice.placement.actions[position]
    return SlotReply(
        slot=number,
        action=slot.action,
        treatment=slot.treatment,
        content=treatment_of(choice, position).content,
        gives=action.gives,
        asks=action.asks,
        p_response=slot.p_response,
        propensity=slot.propensity,
        expires_at=slot.expires_at_ms,
    )
