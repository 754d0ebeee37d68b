"""What each feature did to the chance of a yes: contributions to a candidate's log-odds that add up to what was logged.

The zero point is a customer of whom nothing is known, who asks at the same time: every feature at its default and no
relationship yet. `base` are that customer's log-odds, and what a feature adds is weight × (x − x of that customer),
its columns together. So base and contributions are w·x, whatever the encoding.

Weights are not in the record, only the version of their snapshot, and there are several a second. Those that are served
are called those of the decision when they give back what was logged: mean, deviation and experience of the candidate.
Otherwise they stand in, and the answer says so.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct

from nbx.bandits import kernels
from nbx.decision.arbitration import utility
from nbx.decision.goals import unpack_goal
from nbx.decision.plain_words import spoken
from nbx.decision.record import unpack_factors
from nbx.experience.relationship import relationship_features
from nbx.features.schema import Value
from nbx.features.state import CustomerState

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from nbx.bandits.snapshot import BoundModel
    from nbx.catalog.plan import Plan
    from nbx.experience.entries import DecisionEntry

AS_DECIDED = "as_decided"
TOLERANCE = 1e-5
"""Relative: what is logged was added up in single precision."""
TOLD = 3
"""Features told in words, those that moved the chance most."""
_CLUSTER = "relationship.cluster"


class FeaturePart(Struct, frozen=True, kw_only=True):
    """What one feature did, its columns together."""

    feature: str
    """As conditions write it: `customer.age`."""
    value: Value | None
    """As the decision saw it; None: not known any more."""
    log_odds: float
    """Added to the log-odds of a yes."""
    chance: float
    """Added to the chance of a yes: what it is, less what it would be without."""
    money: float
    """The same as worth of an acceptance, money."""
    points: float
    """Added to the expected experience, points."""


class Contributions(Struct, frozen=True, kw_only=True):
    """Where a candidate's chance of a yes comes from: base + sum of `log_odds` = total."""

    action: str
    weights: str
    """`as_decided`: they give back what was logged; `of_snapshot_N`: of a model that has learned since."""
    base: float
    """Log-odds of a customer of whom nothing is known."""
    total: float
    logged: float
    """Mean of the log-odds in the record."""
    parts: tuple[FeaturePart, ...]
    """Every feature that moved anything, the strongest first."""
    words: tuple[str, ...]


def contributions(
    entry: DecisionEntry, plan: Plan, model: BoundModel, action: str, seen: Mapping[str, Value]
) -> Contributions | None:
    """Split a candidate's log-odds by feature.

    Parameters
    ----------
    entry
        The record.
    plan
        Of the release that decided.
    model
        Bound to it; of the snapshot that decided, or another one.
    action
        A candidate of the record.
    seen
        Path → value, as far as known.

    Returns
    -------
    Contributions
        None when the action was no candidate, or the record holds no x of this plan.
    """
    x = np.frombuffer(entry.x, dtype=np.float32).astype(np.float64)
    if action not in entry.actions or action not in plan.action_names or len(x) != len(plan.layout.columns):
        return None
    row, at = plan.action_names.index(action), entry.actions.index(action)
    nobody = relationship_features(CustomerState(), entry.at_ms, plan.rules.experience)
    from_ = plan.layout.encode(plan.untouched, nobody).astype(np.float64)
    moved, experience = model.mean[row].astype(np.float64), model.experience[row].astype(np.float64)
    base = float(moved @ from_)
    odds, points = moved * (x - from_), experience * (x - from_)
    total, logged = base + float(odds.sum()), float(unpack_factors(entry)[0].mean[at])
    parts = tuple(
        sorted(
            _parts(entry, plan, at, odds, points, seen),
            key=lambda part: (-abs(part.log_odds), -abs(part.points), part.feature),
        )
    )
    return Contributions(
        action=action,
        weights=AS_DECIDED if _gives_back(entry, model, row, at) else f"of_snapshot_{model.version}",
        base=base,
        total=total,
        logged=logged,
        parts=parts,
        words=tuple(_words(part, entry, at) for part in parts[:TOLD] if part.log_odds),
    )


def _gives_back(entry: DecisionEntry, model: BoundModel, row: int, at: int) -> bool:
    """Tell whether a model scores a candidate as it was scored."""
    scored = tuple(np.empty(1, np.float32) for _ in range(3))
    x = np.frombuffer(entry.x, dtype=np.float32)
    kernels.score(x, model.mean, model.cov_packed, model.experience, np.array([row], np.int32), *scored)
    factors, _ = unpack_factors(entry)
    logged = (factors.mean[at], factors.sd[at], factors.experience[at])
    return all(
        math.isclose(float(mine[0]), float(theirs), rel_tol=TOLERANCE, abs_tol=TOLERANCE)
        for mine, theirs in zip(scored, logged, strict=True)
    )


def columns_by_feature(plan: Plan) -> dict[str, list[int]]:
    """Return the columns of x by what they tell of, as conditions write it; the constant is nobody's.

    Examples
    --------
    >>> from nbx.catalog.model import Catalog
    >>> from nbx.catalog.plan import Plan
    >>> columns_by_feature(Plan(Catalog(name="bank"), 1))["relationship.strain"]
    [2]
    """
    at = {name: k for k, name in enumerate(plan.layout.columns)}
    found = {
        f"{'request' if feature.origin == 'context' else 'customer'}.{feature.name}": [
            at[name] for name in plan.layout.columns_of([feature.name])
        ]
        for feature in plan.catalog.features
    }
    mine = {k for columns in found.values() for k in columns}
    for name, k in at.items():
        if k and k not in mine:
            found.setdefault(name if name.startswith("relationship.") else _CLUSTER, []).append(k)
    return {name: columns for name, columns in found.items() if columns}


def _parts(
    entry: DecisionEntry,
    plan: Plan,
    at: int,
    odds: np.ndarray,
    points: np.ndarray,
    seen: Mapping[str, Value],
) -> Iterator[FeaturePart]:
    factors, _ = unpack_factors(entry)
    gain = float(utility(factors, entry.policy, unpack_goal(entry)).gain[at])
    for name, columns in columns_by_feature(plan).items():
        log_odds, felt = float(odds[columns].sum()), float(points[columns].sum())
        if log_odds or felt:
            without, with_ = _chances(entry, at, log_odds)
            yield FeaturePart(
                feature=name,
                value=seen.get(name),
                log_odds=log_odds,
                chance=with_ - without,
                money=(with_ - without) * gain,
                points=felt,
            )


def _chances(entry: DecisionEntry, at: int, log_odds: float) -> tuple[float, float]:
    """Return the chance of a yes without a contribution, and as it was."""
    factors, _ = unpack_factors(entry)
    mean, sd = float(factors.mean[at]), float(factors.sd[at])
    both = np.array([mean - log_odds, mean], np.float32)
    without, with_ = kernels.response_probability(both, np.full(2, sd, np.float32)).tolist()
    return without, with_


def _words(part: FeaturePart, entry: DecisionEntry, at: int) -> str:
    without, with_ = _chances(entry, at, part.log_odds)
    verb = "raises" if part.chance >= 0 else "lowers"
    return (
        f"{feature_words(part.feature, part.value)} {verb} the chance of a yes from {without:.1%} to {with_:.1%} "
        f"({part.money:+,.2f})"
    )


def feature_words(path: str, value: Value | None) -> str:
    """Return a feature and its value as people say them.

    Examples
    --------
    >>> feature_words("customer.card_tier", "gold"), feature_words("relationship.balance", None)
    ('card tier gold', 'balance of the relationship')
    """
    root, _, name = path.partition(".")
    built_in = root == "relationship" and path != _CLUSTER
    label = f"{spoken(name)} of the relationship" if built_in else spoken(name)
    return label if value is None else f"{label} {value_words(value)}"


def value_words(value: Value) -> str:
    """Return a value as people say it.

    Examples
    --------
    >>> value_words(True), value_words(42.0), value_words(""), value_words("gold")
    ('yes', '42', 'not known', 'gold')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    return (value or "not known") if isinstance(value, str) else f"{value:.6g}"
