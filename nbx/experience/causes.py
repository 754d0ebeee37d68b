"""Why an outcome was negative, and what may learn from it.

Explicit causes win, then reason codes, then evidence that events and the decision itself bring (`nbx.bandits.evidence`
says how much each speaks for which cause). Without evidence, or where it contradicts itself, the cause is `unknown`:
nothing is guessed silently. The routing is the table of docs/design.md section 3.

Evidence is read off slot, decision and state as they are after an entry, never off the order in which entries came: a
sign that arrives late makes a new revision of the outcome. The one thing that only comes with other decisions, whether
the same action had been exposed within the minute before, is as known when the slot last changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from nbx.bandits.evidence import CAUSES, ROUTES, UNKNOWN_SHARE, bare, declared_admission, independent, inferred
from nbx.catalog.model import OutcomeName
from nbx.limits import CORRECTED_MS

if TYPE_CHECKING:
    from nbx.catalog.rules import Rules
    from nbx.experience.lifecycle import OpenDecision, OpenSlot
    from nbx.features.schema import Value
    from nbx.features.state import CustomerState

__all__ = [
    "CAUSES",
    "REASONS",
    "ROUTES",
    "UNKNOWN_SHARE",
    "Diagnosis",
    "diagnose",
    "diagnose_slot",
    "response_of",
    "signs_of",
]

POSITIVE: frozenset[OutcomeName] = frozenset({"accepted", "converted"})

REASONS = {
    "page_error": "execution",
    "render_error": "execution",
    "timeout": "execution",
    "late": "execution",
    "duplicate": "execution",
    "wrong_script": "execution",
    "skipped": "execution",
    "no_time": "execution",
    "stale_data": "information",
    "wrong_data": "information",
    "already_have_it": "information",
    "not_interested": "assumption",
    "too_expensive": "assumption",
    "unsuitable": "assumption",
    "bad_moment": "timing",
    "busy": "timing",
}
"""Reason code → cause; other reasons are free text and prove nothing."""
NAMING = frozenset({"stale_data", "wrong_data"})
"""Reasons that may say in the property `feature` which data it was."""
VIEWABLE = 0.5
"""Share of a prompt on screen below which it could not be taken in."""
DUPLICATE_S = 60
"""An action exposed again within so many seconds was shown twice."""


class Diagnosis(NamedTuple):
    """A cause with what it rests on."""

    cause: str
    """Empty for an outcome that is not negative."""
    confidence: float
    evidence: tuple[str, ...]
    """What was said first, then codes; of an outcome that is not negative those that do not depend on the answer."""
    rule: str = ""
    """`explicit_cause`, `reason_code`, or the code that says most; empty: none fired."""

    @property
    def response_weight(self) -> float:
        """Weight in the response model, as far as this outcome alone tells."""
        return min(ROUTES[self.cause].response, self.admission)

    @property
    def admission(self) -> float:
        """The same of a yes."""
        return declared_admission(bare(self.evidence))


_NOT_SHOWN: frozenset[OutcomeName] = frozenset({"not_seen", "not_delivered"})
_SEEN_AND_UNANSWERED: frozenset[OutcomeName] = frozenset({"declined", "dismissed", "ignored"})
_OF_DELIVERY = frozenset({"page_errors", "not_viewable", "slow_render", "late_delivery", "after_expiry"})
"""Codes that may explain why a prompt was not seen; what it said explains nothing then."""


def diagnose(outcome: OutcomeName, *, cause: str, reason: str, seen: bool, evidence: Iterable[str] = ()) -> Diagnosis:
    """Attribute an outcome to a cause.

    Parameters
    ----------
    outcome
        The terminal outcome.
    cause, reason
        As the event says; empty when it does not.
    seen
        Whether exposure was proved.
    evidence
        Codes of `nbx.bandits.evidence` but for `seen`, sorted.

    Examples
    --------
    >>> diagnose("failed", cause="", reason="page_error", seen=False)
    Diagnosis(cause='execution', confidence=1.0, evidence=('reason=page_error',), rule='reason_code')
    >>> diagnose("failed", cause="", reason="", seen=True).cause
    'unknown'
    >>> diagnose("declined", cause="", reason="", seen=True, evidence=("stale:tier",)).rule
    'stale'
    """
    found = tuple(evidence)
    if outcome in POSITIVE:
        return Diagnosis("", 1.0, tuple([each for each in found if independent(bare((each,)))]))
    if outcome in _NOT_SHOWN:
        found = tuple([each for each in found if each in _OF_DELIVERY])
    codes = bare(found)
    if not codes and seen and outcome in _SEEN_AND_UNANSWERED:
        found, codes = ("seen", outcome, *found), ("seen",)
    if cause:
        return Diagnosis(cause, 1.0, (f"cause={cause}", *found), "explicit_cause")
    if reason in REASONS:
        return Diagnosis(REASONS[reason], 1.0, (f"reason={reason}", *found), "reason_code")
    named, confidence, strongest = inferred(codes)
    return Diagnosis(named, confidence, found, strongest)


def diagnose_slot(state: CustomerState, decision: OpenDecision, slot: OpenSlot, rules: Rules) -> Diagnosis:
    """Attribute a slot's outcome to a cause, by all that is known; the slot has an outcome."""
    assert slot.outcome is not None
    found = {*slot.signs, *_of_delivery(state, decision, slot, rules), *_of_data(state, decision, rules)}
    if slot.seen_at_ms and _concerned(state, slot, rules):
        found.add("concern_open")
    return diagnose(
        slot.outcome, cause=slot.cause, reason=slot.reason, seen=bool(slot.seen_at_ms), evidence=sorted(found)
    )


def signs_of(reason: str, properties: Mapping[str, Value], latency_ms: int, rules: Rules) -> list[str]:
    """Return the codes that an event of a slot brings by what it says.

    Parameters
    ----------
    reason, properties
        Of the event; read are `viewable` (share on screen, 0..1), `errors` (count), `render_ms` and, with a reason of
        `NAMING`, `feature` (a declared profile feature).
    latency_ms
        Of the placement; 0: none is declared.
    """
    found = []
    if _number(properties, "viewable", 1.0) < VIEWABLE:
        found.append("not_viewable")
    if _number(properties, "errors", 0.0) > 0.0:
        found.append("page_errors")
    if latency_ms and _number(properties, "render_ms", 0.0) > latency_ms:
        found.append("slow_render")
    if reason in NAMING and (feature := properties.get("feature")) in rules.profile:
        found.append(f"named:{feature}")
    return found


def response_of(outcome: OutcomeName, *, accepted: bool) -> int | None:
    """Return what an outcome says about the response: 1, 0, or None for nothing.

    `accepted` tells whether the customer ever accepted in this slot: a failure after that is one of delivery, and the
    answer stays yes.
    """
    if accepted:
        return 1
    return None if outcome in _NOT_SHOWN else 0


def _of_delivery(state: CustomerState, decision: OpenDecision, slot: OpenSlot, rules: Rules) -> Iterable[str]:
    """Yield what the slot's own times say about how it was delivered."""
    if decision.degraded:
        yield "degraded"
    if slot.delivered_at_ms:
        placement = rules.placements.get(decision.placement)
        took_ms = slot.delivered_at_ms - decision.at_ms
        if placement is not None and 0 < placement.latency_ms < took_ms:
            yield "late_delivery"
        if took_ms > slot.delivery_ms:
            yield "after_expiry"
    times = state.exposures.get(slot.action, ())
    if slot.seen_at_ms and len(times) > 1:
        seen_s, own_s = slot.seen_at_ms // 1000, slot.exposed_at_ms // 1000
        near = [at_s for at_s in times if seen_s - DUPLICATE_S <= at_s <= seen_s]
        if len(near) > (own_s in near):
            yield "duplicate"


def _of_data(state: CustomerState, decision: OpenDecision, rules: Rules) -> Iterable[str]:
    """Yield which features the decision used were not what they should have been."""
    for name in decision.stale:
        if name not in decision.quarantined:
            yield f"stale:{name}"
    if state.corrected and decision.personalised:
        uses = rules.uses.get(decision.placement, frozenset())
        for name, at_ms in state.corrected.items():
            if name in uses and decision.at_ms < at_ms <= decision.at_ms + CORRECTED_MS:
                yield f"aside:{name}" if name in decision.quarantined else f"corrected:{name}"


def _concerned(state: CustomerState, slot: OpenSlot, rules: Rules) -> bool:
    """Tell whether a promotional action was seen while a concern was open, as far as its latest times tell."""
    action = rules.actions.get(slot.action)
    if not state.concerns or action is None or action.action_class != "promotional":
        return False
    at_ms = slot.seen_at_ms
    for name, (opened_ms, resolved_ms) in state.concerns.items():
        concern = rules.concerns.get(name)
        if concern is None or not 0 < opened_ms <= at_ms < opened_ms + concern.timeout_ms:
            continue
        if not opened_ms <= resolved_ms <= at_ms:
            return True
    return False


def _number(properties: Mapping[str, Value], name: str, missing: float) -> float:
    value = properties.get(name, missing)
    return missing if isinstance(value, bool | str) else float(value)
