"""Why an outcome was negative, and what may learn from it.

Explicit causes win, then reason codes, then what the life cycle itself proves. Without evidence the cause is `unknown`:
nothing is guessed silently. The routing is the table of docs/design.md section 3.
"""

from __future__ import annotations

from typing import NamedTuple

from nbx.catalog.model import OutcomeName

CAUSES = ("assumption", "information", "execution", "timing", "unknown")
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

UNKNOWN_SHARE = 0.5
"""Share of outcomes of unknown cause that are really about the action: the prior of what the learner finds."""


class Diagnosis(NamedTuple):
    """A cause with what it rests on."""

    cause: str
    confidence: float
    evidence: tuple[str, ...]


class Route(NamedTuple):
    """Weights with which an outcome teaches the two models of its action."""

    response: float
    experience: float


ROUTES = {
    "": Route(1.0, 1.0),
    "assumption": Route(1.0, 1.0),
    "information": Route(0.0, 1.0),
    "execution": Route(0.0, 0.0),
    "timing": Route(0.5, 1.0),
    "unknown": Route(UNKNOWN_SHARE, 1.0),
}
"""Cause → weights; the empty cause is that of an outcome that is not negative."""

_NOT_SHOWN: frozenset[OutcomeName] = frozenset({"not_seen", "not_delivered"})
_SEEN_AND_UNANSWERED: frozenset[OutcomeName] = frozenset({"declined", "dismissed", "ignored"})


def diagnose(outcome: OutcomeName, *, cause: str, reason: str, seen: bool) -> Diagnosis:
    """Attribute an outcome to a cause.

    Parameters
    ----------
    outcome
        The terminal outcome.
    cause, reason
        As the event says; empty when it does not.
    seen
        Whether exposure was proved.

    Examples
    --------
    >>> diagnose("failed", cause="", reason="page_error", seen=False)
    Diagnosis(cause='execution', confidence=1.0, evidence=('reason=page_error',))
    >>> diagnose("failed", cause="", reason="", seen=True).cause
    'unknown'
    """
    if outcome in POSITIVE:
        return Diagnosis("", 1.0, ())
    if cause:
        return Diagnosis(cause, 1.0, (f"cause={cause}",))
    if reason in REASONS:
        return Diagnosis(REASONS[reason], 1.0, (f"reason={reason}",))
    if outcome in _SEEN_AND_UNANSWERED and seen:
        return Diagnosis("assumption", 0.8, ("seen", outcome))
    return Diagnosis("unknown", 0.0, ())


def response_of(outcome: OutcomeName, *, accepted: bool) -> int | None:
    """Return what an outcome says about the response: 1, 0, or None for nothing.

    `accepted` tells whether the customer ever accepted in this slot: a failure after that is one of delivery, and the
    answer stays yes.
    """
    if accepted:
        return 1
    return None if outcome in _NOT_SHOWN else 0
