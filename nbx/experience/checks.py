"""What an event must be to be taken in: checked alone, then against the decision it names."""

from __future__ import annotations

import math
from datetime import UTC

from msgspec import structs

from nbx.catalog.rules import Rules
from nbx.errors import Expired, Invalid, NbxError, TooLarge, Unknown
from nbx.experience.causes import CAUSES
from nbx.experience.consent import CONSENT, check_consent
from nbx.experience.controls import CONTROL, check_control
from nbx.experience.entries import Event
from nbx.experience.lifecycle import AGENT_EVENTS, SLOT_EVENTS, OpenDecision
from nbx.experience.obligations import RESOLVED_EVENT
from nbx.experience.promises import BROKEN, KEPT, PROMISE, due_of
from nbx.features.schema import checked_values
from nbx.ids import checked_id, decision_ref
from nbx.limits import FUTURE_MS, MONEY, NAME_LENGTH, PAST_MS, TEXT_LENGTH


def checked_event(event: Event, now_ms: int, rules: Rules) -> tuple[Event, int]:
    """Check what can be checked without the store; returns the event and when it happened.

    `rules` are those in force.
    """
    checked_id(event.event_id, "event_id")
    if not event.type or len(event.type) > NAME_LENGTH or not event.type.isprintable():
        raise Invalid(f"type must be a name of 1 to {NAME_LENGTH} printable characters", field="type")
    if event.customer_id:
        checked_id(event.customer_id, "customer_id")
    if not event.customer_id and not event.decision_id:
        raise Invalid("an event needs customer_id or decision_id", field="customer_id", code="customer_missing")
    if event.type in SLOT_EVENTS and not event.decision_id:
        raise Invalid(f"a `{event.type}` event needs its decision_id", field="decision_id", code="decision_missing")
    if event.by not in ("customer", "agent"):
        raise Invalid(f"by is {event.by!r}; it must be customer or agent", field="by")
    if event.type in AGENT_EVENTS and event.by != "agent":
        raise Invalid(f"`{event.type}` is what an agent does: send by: agent", field="by")
    if event.by == "agent" and event.type in SLOT_EVENTS - AGENT_EVENTS - {"delivered", "failed"}:
        raise Invalid(
            f"an agent cannot answer `{event.type}` for the customer: send by: customer for the customer's own answer, "
            f"or one of {', '.join(sorted(AGENT_EVENTS))}",
            field="by",
            code="agent_cannot_answer",
        )
    if event.type == CONSENT:
        check_consent(event, rules.channels)
    if event.type in (PROMISE, KEPT, BROKEN, RESOLVED_EVENT):
        _check_promise(event, _at_ms(event, now_ms))
    if event.cause and event.cause not in CAUSES:
        raise Invalid(f"cause is {event.cause!r}; it must be one of {', '.join(CAUSES)}", field="cause")
    if len(event.reason) > TEXT_LENGTH:
        raise TooLarge(f"reason has more than {TEXT_LENGTH} characters", field="reason")
    if len(event.text) > TEXT_LENGTH:
        raise TooLarge(f"text has {len(event.text)} characters, at most {TEXT_LENGTH} are allowed", field="text")
    _check_range(event.value, "value", -MONEY, MONEY)
    _check_range(event.sentiment, "sentiment", -1.0, 1.0)
    _check_range(event.effort, "effort", 1.0, 7.0)
    properties = checked_values(event.properties, {}, "properties")
    at_ms = _at_ms(event, now_ms)
    if event.type == CONTROL:
        check_control(event, rules, at_ms)
    return structs.replace(event, properties=properties, at=at_ms), at_ms


def _check_promise(event: Event, at_ms: int) -> None:
    """Check what is said about a promise or an obligation."""
    said = event.properties
    if event.type == BROKEN:
        raise Invalid(f"`{BROKEN}` happens by itself when a promise runs out: do not send it", field="type")
    for name in ("what", "topic"):
        named = said.get(name, "")
        if not isinstance(named, str) or len(named) > NAME_LENGTH or not named.isprintable():
            words = f"properties.{name} must be a name of at most {NAME_LENGTH} printable characters"
            raise Invalid(words, field=f"properties.{name}")
    if event.type != RESOLVED_EVENT and not said.get("what"):
        raise Invalid(f"`{event.type}` needs properties.what: what is promised", field="properties.what")
    if event.type != PROMISE:
        return
    try:
        due_of(said["due"], at_ms)
    except KeyError:
        raise Invalid("`promise` needs properties.due: when", field="properties.due", code="due_missing") from None
    except (ValueError, OverflowError) as error:
        raise Invalid(
            f"properties.due must be epoch milliseconds, a time with a zone or a duration such as 2d: {error}",
            field="properties.due",
            code="due_invalid",
        ) from None


def _check_range(number: float | None, field: str, low: float, high: float) -> None:
    if number is not None and not (math.isfinite(number) and low <= number <= high):
        raise Invalid(f"{field} is {number}; it must be a finite number in [{low}, {high}]", field=field)


def _at_ms(event: Event, now_ms: int) -> int:
    at = event.at
    if at is None:
        return now_ms
    if not isinstance(at, int):
        if at.tzinfo is None:
            raise Invalid("at has no time zone; end it with Z or an offset", field="at")
        try:
            at = int(at.astimezone(UTC).timestamp() * 1000)
        except OverflowError:
            raise Invalid(f"at is {event.at}, which no clock shows", field="at") from None
    if at > now_ms + FUTURE_MS:
        raise Invalid(
            f"at is {(at - now_ms) // 1000} s in the future; more than {FUTURE_MS // 1000} s is a wrong clock",
            field="at",
            code="event_from_future",
        )
    past_ms = now_ms if event.type in (CONSENT, CONTROL) else PAST_MS  # these hold until something else is said
    if at < now_ms - past_ms:
        raise Invalid(f"at is more than {past_ms // 86_400_000} days ago", field="at", code="event_too_old")
    return min(at, now_ms)


def check_slot(event: Event, decision: OpenDecision | None, customer_id: str, remember_ms: int, now_ms: int) -> None:
    """Check an event against the decision it names."""
    if not event.decision_id:
        return
    if decision is None:
        raise missing(event, now_ms, remember_ms)
    if decision.customer_id != customer_id:
        raise foreign(event)
    if event.type not in SLOT_EVENTS:
        return
    if not 0 <= event.slot < len(decision.slots):
        raise Invalid(
            f"slot is {event.slot}; decision {event.decision_id} has slots 0 to {len(decision.slots) - 1}",
            field="slot",
            code="slot_out_of_range",
        )
    withdrawn = event.type == "skipped" and decision.goal is not None and decision.goal.slot == event.slot
    if not decision.slots[event.slot].action and not withdrawn:
        raise Invalid(
            f"slot {event.slot} of decision {event.decision_id} is silent: nothing can have happened to it",
            field="slot",
            code="slot_silent",
        )


def missing(event: Event, now_ms: int, remember_ms: int) -> NbxError:
    """Return the error of an event whose decision is not there."""
    ref = decision_ref(event.decision_id)
    if remember_ms and now_ms - ref.at_ms > remember_ms:
        return Expired(
            f"decision {event.decision_id} can no longer be corrected: its window has closed",
            field="decision_id",
            code="decision_expired",
        )
    return Unknown(
        f"decision {event.decision_id} is not known here: it was never made, or its customer was erased",
        field="decision_id",
        code="decision_unknown",
    )


def foreign(event: Event) -> NbxError:
    """Return the error of an event that names another customer's decision."""
    return Invalid(
        f"decision {event.decision_id} was made for another customer", field="customer_id", code="decision_foreign"
    )
