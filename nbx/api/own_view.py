"""The customer's own view over the store: what it reads, and how a control becomes an event or a changed value."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import defaultdict
from typing import Literal

import msgspec
from msgspec import Struct

from nbx.api.wiring import Services
from nbx.catalog.plan import Plan
from nbx.decision.own_view import OwnView, Prompt, own_view
from nbx.errors import Invalid, NotReady, Unavailable, Unknown
from nbx.experience.consent import CONSENT
from nbx.experience.controls import CONTROL
from nbx.experience.entries import DecisionEntry, Event, decode_entry
from nbx.experience.lifecycle import decode_open
from nbx.features.keys import partition_keys
from nbx.features.schema import Value
from nbx.features.state import CustomerState, Recent
from nbx.ids import checked_id, decision_ref

TIMEOUT_MS = 1_000.0
EARLY_MS = 5
"""How much before its own time a decision may stand in the log: clocks differ."""
LATE_MS = 600_000
"""How much after it: a degraded one waits for the store."""
PAGE = 16
"""Log entries read at a time; a decision is among the first as a rule, as it is logged within milliseconds."""
PAGES = 8
"""Pages read for one decision: beyond, the view does without it."""
PURSE_MS = 5.0
"""What asking for budgets may take: what is not known in time counts as used up, as for a decision."""


class OwnControl(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a customer says in the view."""

    action: Literal["stop", "pause", "resume", "correct", "consent"]
    scope: str = ""
    """Of stop, pause and resume."""
    pause: int | str = ""
    """Of pause: a duration such as `7d`, or until when, epoch milliseconds."""
    feature: str = ""
    """Of correct."""
    value: Value | None = None
    """Of correct: the right value; null: forget what is on file."""
    purpose: str = ""
    """Of consent."""
    granted: bool | None = None
    """Of consent."""


async def read_own_view(services: Services, customer_id: str) -> OwnView:
    """Read a customer's own view; `Unknown` when nothing was ever known of the customer."""
    checked_id(customer_id, "customer_id")
    customer_id, version, state = await services.events.merging.peek(customer_id)
    if not version or state == CustomerState():
        raise Unknown(f"customer {customer_id} is not known here", field="customer_id", code="customer_unknown")
    (plan, model), now_ms = services.serving.current(), services.clock.now_ms()
    prompts, purse = await asyncio.gather(_prompts(services, state.recent), _purse(services, plan, now_ms))
    facts = plan, state, customer_id, prompts, now_ms
    # beside the event loop: decisions do not wait for it
    return await asyncio.to_thread(own_view, *facts, salt=services.settings.salt, purse=purse, model=model)


async def apply_control(services: Services, customer_id: str, said: OwnControl, by: str) -> None:
    """Do what was said; it holds from the next decision on.

    Raises
    ------
    Invalid
        Something is missing or unknown; the field is named and nothing is written.
    """
    checked_id(customer_id, "customer_id")
    if said.action == "correct":
        if not said.feature:
            raise Invalid("feature is empty: say which value is wrong", field="feature")
        await services.events.change_profile(customer_id, {said.feature: said.value}, by=by)
        return
    properties: dict[str, Value] = {"scope": said.scope}
    if said.action == "consent":
        if said.granted is None:
            raise Invalid("granted is missing: say true (yes) or false (no)", field="granted")
        properties = {said.purpose: said.granted}
    elif said.action == "pause":
        properties["pause"] = said.pause
    else:
        properties[said.action] = True
    event = Event(
        event_id=f"own-{secrets.token_hex(16)}",
        type=CONSENT if said.action == "consent" else CONTROL,
        customer_id=customer_id,
        by=by,
        properties=properties,
    )
    (result,) = await services.events.record([event])
    if result.status == "rejected":
        field = result.field.rpartition("properties.")[2] if "properties." in result.field else said.action
        raise Invalid(result.detail, field="purpose" if said.action == "consent" else field, code=result.code)


async def _prompts(services: Services, latest: list[Recent]) -> list[Prompt]:
    """Find the latest prompts, newest first; those no longer on record are left out."""
    by_partition: dict[int, list[str]] = defaultdict(list)
    for prompt in latest:
        by_partition[decision_ref(prompt.decision_id).partition].append(prompt.decision_id)
    opened: dict[str, bytes | None] = {}
    for partition, ids in by_partition.items():
        keys = [partition_keys(partition).decision(each) for each in ids]
        opened |= zip(ids, await services.store.read(keys, TIMEOUT_MS), strict=True)
    entries = await asyncio.gather(*(_entry(services, prompt.decision_id) for prompt in latest))
    found = []
    for entry in reversed([each for each in entries if each is not None]):
        try:
            plan = await services.serving.plan_of(entry.release)
        except NotReady:
            continue
        packed = opened[entry.decision_id]
        found.append(Prompt(entry, decode_open(packed) if packed is not None else None, plan))
    return found


async def _entry(services: Services, decision_id: str) -> DecisionEntry | None:
    ref, wanted = decision_ref(decision_id), decision_id.encode()
    cursor, end = f"{max(ref.at_ms - EARLY_MS, 0)}", f"{ref.at_ms + LATE_MS}"
    for _ in range(PAGES):
        page = await services.store.log_range(ref.partition, cursor, end, PAGE)
        for each in page:
            if wanted in each.payload[:512]:
                try:
                    entry = decode_entry(each.payload)
                except msgspec.DecodeError:
                    return None
                if isinstance(entry, DecisionEntry) and entry.decision_id == decision_id:
                    return entry
        if len(page) < PAGE:
            break
        cursor = f"({page[-1].entry_id}"
    return None


async def _purse(services: Services, plan: Plan, now_ms: int) -> dict[str, int]:
    """Return what is in hand of the budgets, as a decision of one slot would find it."""
    purse: dict[str, int] = {}
    for placement in plan.placements.values():
        uses = placement.budgets
        if uses and services.ledger.falls_short(uses, 1, now_ms):
            with contextlib.suppress(Unavailable):
                await services.ledger.fill(uses, 1, now_ms, PURSE_MS)
        purse |= services.ledger.purse(uses, now_ms)
    return purse
