"""Consent: what a customer allows, per purpose, as last said in an event of type `consent`.

Purposes are `contact`, `contact:<channel>`, `personalise` and `learn`. Of everything said about one the latest holds,
whatever the order of arrival; of two said at the same moment, the no. What was said of a channel goes before what was
said of contact in general, but for a later no to all contact; and what was said goes before the catalog's default.

`personalise` is asked when deciding, `contact` per channel when deciding, `learn` when deciding and again with each
outcome: an outcome without it changes no model, and what was learned before stays until the customer is erased.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from nbx.catalog.model import ConsentPolicy
from nbx.errors import Invalid
from nbx.experience.entries import Event
from nbx.features.state import Consent, CustomerState

if TYPE_CHECKING:
    from nbx.experience.lifecycle import OpenDecision

CONSENT = "consent"
"""Type of the event; its boolean properties are purposes."""
CONTACT, PERSONALISE, LEARN = "contact", "personalise", "learn"


def contact_purpose(channel: str) -> str:
    """Return the purpose of contact on a channel.

    Examples
    --------
    >>> contact_purpose("email")
    'contact:email'
    """
    return f"{CONTACT}:{channel}"


def said_of(state: CustomerState, purpose: str) -> Consent | None:
    """Return what a customer said that holds of a purpose; None: nothing.

    Of a channel that is what was said of it, unless nothing was, or a no to all contact came later.
    """
    if not state.consent:
        return None
    said = state.consent.get(purpose)
    if not purpose.startswith(contact_purpose("")):
        return said
    general = state.consent.get(CONTACT)
    later_no = said is not None and general is not None and not general.granted and general.at_ms > said.at_ms
    return general if said is None or later_no else said


def may_contact(state: CustomerState, policy: ConsentPolicy, channel: str) -> bool:
    """Tell whether a customer may be contacted on a channel.

    Examples
    --------
    >>> opted_in = ConsentPolicy(channels={"email": "opt_in"})
    >>> may_contact(CustomerState(), opted_in, "email"), may_contact(CustomerState(), opted_in, "phone")
    (False, True)
    >>> anna = CustomerState(consent={"contact": Consent(False, 1), "contact:email": Consent(True, 1)})
    >>> may_contact(anna, opted_in, "email"), may_contact(anna, opted_in, "phone")
    (True, False)
    """
    said = said_of(state, contact_purpose(channel))
    return policy.channels.get(channel, policy.contact) == "opt_out" if said is None else said.granted


def may_personalise(state: CustomerState, policy: ConsentPolicy) -> bool:
    """Tell whether a decision may use what is known about a customer."""
    said = state.consent.get(PERSONALISE)
    return policy.personalise == "opt_out" if said is None else said.granted


def may_learn(state: CustomerState, policy: ConsentPolicy) -> bool:
    """Tell whether the models may learn from a customer.

    Examples
    --------
    >>> may_learn(CustomerState(), ConsentPolicy()), may_learn(CustomerState(), ConsentPolicy(learn="opt_in"))
    (True, False)
    """
    said = state.consent.get(LEARN)
    return policy.learn == "opt_out" if said is None else said.granted


def still_learns(state: CustomerState, decision: OpenDecision, policy: ConsentPolicy) -> bool:
    """Tell whether an outcome of `decision` teaches; once one did not, none of the decision does, noted there.

    A correction replaces what its predecessor taught. Were one passed over and the next one not, that would be counted
    twice.
    """
    decision.learns = decision.learns and may_learn(state, policy)
    return decision.learns


def fold_consent(state: CustomerState, event: Event, at_ms: int) -> None:
    """Take in what a customer said at a time, in `state`; what is no purpose with a yes or no is passed over.

    Examples
    --------
    >>> state = CustomerState()
    >>> fold_consent(state, Event(event_id="e", type="consent", properties={"learn": False}), 5)
    >>> fold_consent(state, Event(event_id="f", type="consent", properties={"learn": True}), 4)
    >>> state.consent["learn"]
    Consent(granted=False, at_ms=5)
    """
    for purpose, granted in event.properties.items():
        if not isinstance(granted, bool) or not _is_purpose(purpose):
            continue
        known = state.consent.get(purpose)
        if known is None or (at_ms, known.granted) > (known.at_ms, granted):
            state.consent[purpose] = Consent(granted, at_ms)


def check_consent(event: Event, channels: Collection[str]) -> None:
    """Check a consent event, besides what is checked of every event.

    Parameters
    ----------
    event
        Its properties are as they came in.
    channels
        Those of the placements.

    Raises
    ------
    Invalid
        It names a decision or a slot, no customer or no purpose, an unknown purpose or channel, or says neither yes
        nor no.
    """
    if event.decision_id or event.slot:
        field = "decision_id" if event.decision_id else "slot"
        raise Invalid(f"consent is about a customer, not about a decision: leave {field} out", field=field)
    if not event.customer_id:
        raise Invalid("a `consent` event needs customer_id", field="customer_id", code="customer_missing")
    known = (CONTACT, *(contact_purpose(channel) for channel in sorted(channels)), PERSONALISE, LEARN)
    if not event.properties:
        raise Invalid(f"properties is empty; it must say yes or no to one of {', '.join(known)}", field="properties")
    for purpose, granted in event.properties.items():
        if purpose not in known:
            raise Invalid(
                f"properties holds {purpose[:64]!r}, which is no purpose of consent: they are {', '.join(known)}",
                field="properties",
                code="purpose_unknown",
            )
        if not isinstance(granted, bool):
            raise Invalid(
                f"properties.{purpose} is {granted!r}; it must be true (yes) or false (no)",
                field=f"properties.{purpose}",
                code="consent_unclear",
            )


def _is_purpose(name: str) -> bool:
    return name in (CONTACT, PERSONALISE, LEARN) or name.startswith(contact_purpose(""))
