"""Evidence for the cause of a negative outcome: codes, what each says before anything is learned, what causes teach.

A code is a word, or a word and the feature it is about (`stale:age`). What codes say together is naive Bayes over the
causes: `prior · Π P(code | cause)` over the codes that are there. The numbers are declared, coarse on purpose, and only
hold until `nbx.bandits.calibration` has seen enough outcomes whose cause somebody told.

Codes that do not depend on what the customer would have answered decide about a yes as about a no (`admission`). Would
only the negative outcomes of a slow page be left out, its acceptances would be counted and its refusals not, and every
estimate would rise. Left out together they cost evidence and no truth.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from msgspec import Struct

CAUSES = ("assumption", "information", "execution", "timing", "unknown")
KNOWN = CAUSES[:-1]
UNKNOWN_SHARE = 0.5
"""Share of outcomes of unknown cause that are really about the action: the prior of what the learner finds."""
SURE = 0.5
"""Least probability with which a cause is named; below it, it is unknown."""


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

PRIOR = {"assumption": 0.4, "information": 0.2, "execution": 0.2, "timing": 0.2}
"""Cause → its share among negative outcomes."""
_MEANS: dict[str, tuple[str, float, float]] = {
    "page_errors": ("execution", 0.4, 0.01),
    "not_viewable": ("execution", 0.3, 0.03),
    "slow_render": ("execution", 0.3, 0.03),
    "late_delivery": ("execution", 0.3, 0.03),
    "after_expiry": ("execution", 0.3, 0.01),
    "duplicate": ("execution", 0.3, 0.02),
    "degraded": ("execution", 0.3, 0.03),
    "stale": ("information", 0.4, 0.03),
    "corrected": ("information", 0.4, 0.01),
    "named": ("information", 0.5, 0.01),
    "concern_open": ("timing", 0.4, 0.06),
    "seen": ("assumption", 0.8, 0.1),
}
"""Code → (cause it speaks for, chance of it under that cause, under any other)."""
CODES = frozenset(_MEANS)
INDEPENDENT = CODES - {"seen", "named"}
"""Codes that are there or not whatever the customer would have answered."""
ABOUT_FEATURES = frozenset({"stale", "corrected", "named", "aside"})
"""Codes that name a feature. `aside`: it was corrected while nobody relied on it, which is evidence of no cause."""


def bare(evidence: Iterable[str]) -> tuple[str, ...]:
    """Return the codes of an evidence list, each once, sorted and without features; other evidence is left out.

    Examples
    --------
    >>> bare(("cause=timing", "stale:tier", "stale:age", "seen", "declined"))
    ('seen', 'stale')
    """
    return tuple(sorted({code for each in evidence if (code := each.partition(":")[0]) in CODES}))


@lru_cache(maxsize=4096)
def posterior(codes: tuple[str, ...]) -> dict[str, float]:
    """Return the declared probability of each known cause, given bare codes.

    Examples
    --------
    >>> {cause: round(share, 2) for cause, share in posterior(("page_errors",)).items()}
    {'assumption': 0.05, 'information': 0.02, 'execution': 0.91, 'timing': 0.02}
    """
    joint = dict(PRIOR)
    for code in codes:
        cause, under_it, otherwise = _MEANS[code]
        for each in joint:
            joint[each] *= under_it if each == cause else otherwise
    total = sum(joint.values())
    return {cause: weight / total for cause, weight in joint.items()}


@lru_cache(maxsize=4096)
def inferred(codes: tuple[str, ...]) -> tuple[str, float, str]:
    """Return the cause that bare codes speak for, its probability, and the code that says most for it.

    Examples
    --------
    >>> inferred(("corrected", "page_errors"))[0], inferred(())
    ('unknown', ('unknown', 0.0, ''))
    """
    if not codes:
        return "unknown", 0.0, ""
    shares = posterior(codes)
    cause = max(KNOWN, key=lambda each: shares[each])
    if shares[cause] < SURE:
        return "unknown", 0.0, ""
    speaking = [code for code in codes if _MEANS[code][0] == cause]
    return cause, shares[cause], max(speaking, key=lambda code: _MEANS[code][1] / _MEANS[code][2], default="")


def independent(codes: Iterable[str]) -> tuple[str, ...]:
    """Return those of some bare codes that do not depend on the answer."""
    return tuple(code for code in codes if code in INDEPENDENT)


def admission(shares: dict[str, float]) -> float:
    """Return the weight in the response model, 0..1, of any answer to a prompt with these probabilities of causes.

    A prompt that more likely than not went wrong says nothing of the action. Otherwise each cause counts by its route.

    Examples
    --------
    >>> admission(posterior(("page_errors", "stale"))), round(admission(posterior(("concern_open",))), 2)
    (0.0, 0.5)
    """
    if shares["execution"] + shares["information"] >= SURE:
        return 0.0
    return sum(share * ROUTES[cause].response for cause, share in shares.items())


def declared_admission(codes: Iterable[str]) -> float:
    """Return the admission that the declared numbers give an evidence's bare codes; 1 without independent ones."""
    found = independent(codes)
    return admission(posterior(found)) if found else 1.0


def features_in(evidence: Iterable[str]) -> frozenset[str]:
    """Return the features that an evidence list names as stale, corrected or wrong.

    Examples
    --------
    >>> sorted(features_in(("stale:tier", "corrected:age", "seen", "aside:city")))
    ['age', 'tier']
    """
    parts = (each.partition(":") for each in evidence)
    return frozenset(name for code, _, name in parts if name and code in ABOUT_FEATURES and code != "aside")


class CauseTable(Struct, frozen=True, kw_only=True):
    """What evidence is worth by now, and how well the rules do without being told; for people."""

    evidence: dict[str, dict[str, float]] = {}
    """Code → cause → probability when nothing else is known, 0..1."""
    told: dict[str, float] = {}
    """Code → outcomes with it whose cause was told, forgetting."""
    confusion: dict[str, dict[str, int]] = {}
    """Cause as told → cause the rules alone would have given → outcomes."""
    right_ratio: float | None = None
    """Share of these in which both agree; None: nothing was told."""
