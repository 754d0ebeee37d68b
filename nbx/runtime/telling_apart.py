"""Between the log's outcomes and the clusters: what of an outcome tells customers apart, and how a release does it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbx.bandits.clusters import Answer, Clustering
from nbx.experience.causes import POSITIVE

if TYPE_CHECKING:
    from nbx.catalog.plan import Plan
    from nbx.experience.entries import Outcome


def register(clusters: Clustering, plan: Plan) -> None:
    """Say how a release tells customers apart, if it does."""
    if (told := plan.catalog.clusters) is not None:
        columns = plan.layout.columns_of(told.features)
        clusters.register(plan.release, told.features, told.count, plan.layout.columns, columns)


def teach(clusters: Clustering, outcome: Outcome) -> None:
    """Let an outcome that may teach do so, if the customer may be known by the features and was."""
    accepted = outcome.outcome in POSITIVE and outcome.previous not in POSITIVE
    known = outcome.personalised and clusters.features.isdisjoint(outcome.quarantined)
    vector = clusters.vector(outcome.release, outcome.x) if known else None
    if vector is not None and (accepted or not outcome.revision):
        clusters.learn(
            Answer(
                vector=vector,
                balance=outcome.balance,
                at_ms=outcome.at_ms,
                after=outcome.after,
                action=outcome.action,
                first=not outcome.revision,
                accepted=accepted,
            )
        )
