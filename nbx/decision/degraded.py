"""The answer when state or model cannot be had in time: the placement's declared default, or silence.

What needs no state still holds: exclusions, terms, the holdout's hash, and quiet hours (where the customer's own zone
would have to be looked up, the default stays away from a channel that has any). Consent, limits and pauses cannot be
known; the catalog is warned about defaults that depend on them.
"""

from __future__ import annotations

from typing import Any

from nbx.catalog.plan import Option, PlacementPlan, Plan
from nbx.decision.messages import DecideReply, DecideRequest, SlotReply
from nbx.decision.quiet_hours import quiet
from nbx.experience.entries import DecisionEntry, PolicyRecord, RequestRecord, SlotRecord
from nbx.experience.holdout import assignment
from nbx.features.state import CustomerState


def degraded_entry(
    plan: Plan, placement: PlacementPlan, request: DecideRequest, decision_id: str, now_ms: int, reason: str, salt: str
) -> DecisionEntry:
    """Build the record of a degraded decision: the default in slot 0, silence in the others."""
    spot = placement.placement
    shown = _default(plan, placement, request, now_ms, salt)
    slots = []
    for number in range(request.slots):
        position, option = shown if shown is not None and number == 0 else (-1, None)
        slots.append(
            SlotRecord(
                action=placement.names[position] if option else "",
                treatment=option.name if option else "",
                group=placement.actions[position].group if option else "",
                p_response=0.0,
                propensity=1.0,
                none="" if option else reason,
                implicit=spot.impressions == "implicit",
                delivery_ms=spot.delivery_ms,
                attention_ms=spot.attention_ms,
                expires_at_ms=now_ms + spot.delivery_ms,
            )
        )
    return DecisionEntry(
        customer_id=request.customer_id,
        at_ms=now_ms,
        release=plan.release,
        decision_id=decision_id,
        snapshot=0,
        state_version=0,
        request=RequestRecord(
            placement=request.placement,
            slots=request.slots,
            context=request.context,
            exclude=request.exclude,
            request_id=request.request_id,
        ),
        policy=PolicyRecord(exchange=0.0, strain=0.0, scale=0.0, floor=0.0, salt=""),
        x=b"",
        relationship={},
        removed=(),
        actions=(),
        treatments=(),
        factors=b"",
        none_probability=0.0,
        mandatory=(),
        shared=(),
        slots=tuple(slots),
        holdout=assignment(request.customer_id, CustomerState(), plan.catalog.holdout, salt),
        degraded=(reason,),
        took_us=0,
        channel=spot.channel,
        release_digest=plan.digest,
    )


def degraded_reply(entry: DecisionEntry, placement: PlacementPlan) -> DecideReply:
    """Build the answer to the caller."""
    return DecideReply(
        decision_id=entry.decision_id,
        slots=tuple(_slot_reply(number, slot, placement) for number, slot in enumerate(entry.slots)),
        holdout=entry.holdout,
        degraded=entry.degraded,
        release=entry.release,
        took_ms=entry.took_us / 1000,
    )


def _default(
    plan: Plan, placement: PlacementPlan, request: DecideRequest, now_ms: int, salt: str
) -> tuple[int, Option] | None:
    """Return position and treatment of the default when it may be shown."""
    default = placement.placement.default
    if default is None or default.action in request.exclude or default.action not in placement.position:
        return None
    position = placement.position[default.action]
    option = next((each for each in placement.options[position] if each.name == default.treatment), None)
    if option is None:
        return None
    terms = [(option.starts_ms, option.ends_ms)]
    terms += [(term.starts_ms, term.ends_ms) for term in placement.terms if position in term.positions]
    if any(now_ms < starts_ms or (ends_ms and now_ms >= ends_ms) for starts_ms, ends_ms in terms):
        return None
    held_out = assignment(request.customer_id, CustomerState(), plan.catalog.holdout, salt)
    if held_out == "silent" and not placement.mandatory[position]:
        return None
    return None if position in placement.quieted and _quiet(plan, placement, now_ms) else (position, option)


def _quiet(plan: Plan, placement: PlacementPlan, now_ms: int) -> bool:
    channel, catalog = placement.placement.channel, plan.catalog
    hours = catalog.contact.quiet_hours
    if catalog.time_zone_feature:
        return any(channel in each.channels or not each.channels for each in hours)
    return bool(quiet(hours, channel, catalog.time_zone, now_ms))


def _slot_reply(number: int, slot: SlotRecord, placement: PlacementPlan) -> SlotReply:
    if not slot.action:
        return SlotReply(slot=number, none=slot.none)
    position = placement.position[slot.action]
    action = placement.actions[position]
    content: Any = next(each.content for each in placement.options[position] if each.name == slot.treatment)
    return SlotReply(
        slot=number,
        action=slot.action,
        treatment=slot.treatment,
        content=content,
        gives=action.gives,
        asks=action.asks,
        expires_at=slot.expires_at_ms,
    )
