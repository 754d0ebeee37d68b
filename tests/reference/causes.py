"""The slow twin of `nbx.experience.causes.diagnose_slot`: a cause straight from all that happened, in no order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nbx.experience.causes import REASONS
from nbx.experience.lifecycle import ANSWERS, RANK

MINUTE_S = 60
DAY_MS = 86_400_000
PRIOR = {"assumption": 0.4, "information": 0.2, "execution": 0.2, "timing": 0.2}
MEANS = {
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


@dataclass
class Happened:
    """An event of the slot."""

    kind: str
    at_ms: int
    cause: str = ""
    reason: str = ""
    properties: Mapping[str, object] = field(default_factory=dict)


@dataclass
class Background:
    """What is known beside the slot's events."""

    decided_ms: int
    delivery_ms: int
    latency_ms: int
    other_exposures_s: Sequence[int]
    """Of the same action, by other decisions."""
    stale: Sequence[str] = ()
    quarantined: Sequence[str] = ()
    corrected: Mapping[str, int] = field(default_factory=dict)
    """Feature that the placement uses → when it was corrected."""
    concern: tuple[int, int, int] = (0, 0, 0)
    """Opened, resolved, timeout."""


def evidence_of(events: Sequence[Happened], known: Background) -> set[str]:
    """Return every code that speaks, without `seen`."""
    found = set()
    for event in events:
        viewable, errors, render = (event.properties.get(name) for name in ("viewable", "errors", "render_ms"))
        found |= {"not_viewable"} if isinstance(viewable, float) and viewable < 0.5 else set()
        found |= {"page_errors"} if isinstance(errors, float) and errors > 0 else set()
        found |= {"slow_render"} if isinstance(render, float) and 0 < known.latency_ms < render else set()
        if event.reason in ("stale_data", "wrong_data") and event.properties.get("feature") in ("age", "tier"):
            found.add(f"named:{event.properties['feature']}")
    delivered = [event.at_ms for event in events if event.kind not in ("failed", "complained")]
    if delivered and known.latency_ms and min(delivered) - known.decided_ms > known.latency_ms:
        found.add("late_delivery")
    if delivered and min(delivered) - known.decided_ms > known.delivery_ms:
        found.add("after_expiry")
    if seen := [event.at_ms for event in events if event.kind not in ("delivered", "failed", "complained")]:
        at_s = min(seen) // 1000
        if any(at_s - MINUTE_S <= other <= at_s for other in known.other_exposures_s):
            found.add("duplicate")
        opened, resolved, timeout = known.concern
        lasts = opened + timeout if resolved < opened else min(resolved, opened + timeout)
        if opened and opened <= min(seen) < lasts:
            found.add("concern_open")
    found |= {f"stale:{name}" for name in known.stale if name not in known.quarantined}
    for name, at_ms in known.corrected.items():
        if known.decided_ms < at_ms <= known.decided_ms + DAY_MS:
            found.add(f"{'aside' if name in known.quarantined else 'corrected'}:{name}")
    return found


def cause_of(events: Sequence[Happened], known: Background) -> str:
    """Return the cause; the events hold at least one answer, each kind of answer once."""
    answers = sorted((event for event in events if event.kind in ANSWERS), key=lambda e: RANK[ANSWERS[e.kind]])
    final = answers[-1]
    if final.kind in ("accepted", "converted"):
        return ""
    if final.cause:
        return final.cause
    if final.reason in REASONS:
        return REASONS[final.reason]
    codes = {each.partition(":")[0] for each in evidence_of(events, known)} & set(MEANS)
    if not codes and final.kind in ("declined", "dismissed"):
        codes = {"seen"}
    if not codes:
        return "unknown"
    weights = dict(PRIOR)
    for code in codes:
        for cause in weights:
            weights[cause] *= MEANS[code][1] if cause == MEANS[code][0] else MEANS[code][2]
    best = max(weights, key=lambda cause: weights[cause])
    return best if weights[best] / sum(weights.values()) > 0.5 - 1e-9 else "unknown"
