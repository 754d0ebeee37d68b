"""How likely customers are to accept an action, with causes of failure told apart and with all failures alike.

Alike: every answer weighs 1. By cause: what was not about the action weighs nothing or half (`nbx.experience.causes`),
as in the response models; for an unknown cause this is the declared weight, not yet what the learner found about the
placement. The difference of the two rests on the same answers, so its interval is that of the difference of their
influences, summed per customer.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from nbx.audit.clustered import F64, I64, half_width, portion
from nbx.audit.experienced import Lived
from nbx.audit.intervals import wilson

FLAG_RATIO = 0.1
"""Relative difference of the two estimates from which on it is pointed out."""


class Acceptance(Struct, frozen=True, kw_only=True):
    """Two estimates of one action's acceptance."""

    action: str
    group: str
    responses: int
    """Answers of customers who agree to learning."""
    excused: int
    """Of them, those that are not, or not wholly, about the action."""
    weight: float
    """Sum of the weights by cause."""
    alike: float
    alike_low: float
    alike_high: float
    by_cause: float | None
    """None when no answer is about the action."""
    by_cause_low: float | None
    by_cause_high: float | None
    difference: float | None
    """By cause less alike."""
    difference_low: float | None
    difference_high: float | None
    flagged: bool
    """They differ by more than a tenth of the estimate that takes all failures alike."""


def acceptances(told: Lived) -> tuple[Acceptance, ...]:
    """Estimate each action's acceptance both ways, where some failure is excused; the largest differences first."""
    rows: dict[tuple[str, str], list[int]] = {}
    for i, (slot, outcome) in enumerate(zip(told.slots, told.told, strict=True)):
        if outcome.response is not None and outcome.learns:
            rows.setdefault((slot.action, slot.group), []).append(i)
    found = [_acceptance(*names, told, np.array(of_one, dtype=np.int64)) for names, of_one in sorted(rows.items())]
    return tuple(sorted((each for each in found if each.excused), key=lambda each: -abs(each.difference or 0.0)))


def _acceptance(action: str, group: str, told: Lived, rows: I64) -> Acceptance:
    y = np.array([float(told.told[i].response or 0) for i in rows.tolist()])
    w = np.array([told.told[i].weight for i in rows.tolist()])
    who = told.who[rows]
    alike = portion(y > 0.0, who)
    assert alike.share is not None
    assert alike.low is not None
    assert alike.high is not None
    total = float(w.sum())
    by_cause = float(w @ y) / total if total > 0.0 else None
    low, high = _interval(by_cause, y, w, who) if by_cause is not None else (None, None)
    apart = None if by_cause is None else by_cause - alike.share
    half = None if by_cause is None else half_width(w * (y - by_cause) / total - (y - alike.share) / len(y), who)
    return Acceptance(
        action=action,
        group=group,
        responses=len(rows),
        excused=int((w < 1.0).sum()),
        weight=total,
        alike=alike.share,
        alike_low=alike.low,
        alike_high=alike.high,
        by_cause=by_cause,
        by_cause_low=low,
        by_cause_high=high,
        difference=apart,
        difference_low=None if apart is None or half is None else apart - half,
        difference_high=None if apart is None or half is None else apart + half,
        flagged=apart is not None and abs(apart) > FLAG_RATIO * alike.share,
    )


def _interval(share: float, y: F64, w: F64, who: I64) -> tuple[float, float]:
    """Wilson's interval on the effective number: that of the weights, or less where customers' answers are alike."""
    told = w > 0.0
    w, y, who = w[told], y[told], who[told]
    total, n = float(w.sum()), len(w)
    count = total * total / float(w @ w)
    customers = int(np.count_nonzero(np.bincount(who)))
    spread = w * (y - share) / total
    alone = float(spread @ spread)
    if alone <= 0.0 or customers < 2:
        return wilson(min(max(share, 0.0), 1.0), min(count, float(customers)))
    together = float(np.square(np.bincount(who, weights=spread)).sum()) * customers / (customers - 1)
    excess = alone * n / (n - 1) / together if together > 0.0 else 1.0
    return wilson(min(max(share, 0.0), 1.0), float(count * min(excess, 1.0)))
