"""Give and get: what the company asked of a customer, and what it gave.

Every prompt that was provably seen asks what its action asks; every first acceptance gives what its action gives. Both
count as of the decision, so the order of events does not matter. Decayed sums (half-life of the balance) serve
conditions and the guardrail `asks_per_give`; counts per name are for the customer to read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nbx.catalog.model import ExperiencePolicy
    from nbx.catalog.rules import Rules
    from nbx.features.state import CustomerState, Tally


def amount_at(tally: Tally, now_ms: int, policy: ExperiencePolicy) -> float:
    """Return a decayed sum as of `now_ms`; a moment before its newest addition counts as that one's.

    Examples
    --------
    >>> from nbx.catalog.model import ExperiencePolicy
    >>> from nbx.features.state import Tally
    >>> amount_at(Tally(4.0, 0), 100, ExperiencePolicy(half_life_ms=100))
    2.0
    """
    if not tally.amount:
        return 0.0
    return float(tally.amount * 2.0 ** (-max(now_ms - tally.at_ms, 0) / policy.half_life_ms))


def add(tally: Tally, amount: float, at_ms: int, policy: ExperiencePolicy) -> None:
    """Add something of time `at_ms` to a decayed sum, in place."""
    if at_ms >= tally.at_ms:
        tally.amount, tally.at_ms = amount_at(tally, at_ms, policy) + amount, at_ms
    else:
        tally.amount += amount * 2.0 ** ((at_ms - tally.at_ms) / policy.half_life_ms)


def asked(state: CustomerState, action: str, at_ms: int, rules: Rules, sign: int = 1) -> None:
    """Count what showing an action asked, in `state`; with sign −1 take it back."""
    known = rules.actions.get(action)
    if known is not None and known.asks:
        add(state.asked, float(sign * len(known.asks)), at_ms, rules.experience)
        _count(state.asks, known.asks, sign)


def given(state: CustomerState, action: str, at_ms: int, rules: Rules) -> None:
    """Count what accepting an action gave, in `state`."""
    known = rules.actions.get(action)
    if known is not None and known.gives:
        add(state.given, float(len(known.gives)), at_ms, rules.experience)
        _count(state.gives, known.gives, 1)


def _count(counts: dict[str, int], names: tuple[str, ...], sign: int) -> None:
    for name in names:
        counts[name] = counts.get(name, 0) + sign
        if counts[name] <= 0:
            del counts[name]
