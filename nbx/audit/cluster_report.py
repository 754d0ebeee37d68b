"""What a snapshot knows of clusters, in words of the catalog."""

from __future__ import annotations

import math

import numpy as np

from nbx.audit.journeys import ClusterReport, Touch
from nbx.bandits.snapshot import TRACK_COUNT, Snapshot
from nbx.catalog.plan import Plan
from nbx.features.schema import Encoding

TOUCHES = 20
"""Most transitions told of a cluster, the most frequent."""


def cluster_reports(snapshot: Snapshot | None, plan: Plan) -> tuple[ClusterReport, ...]:
    """Tell the clusters of a snapshot, those with most answers first; nothing where a release has none."""
    if snapshot is None or plan.catalog.clusters is None or not snapshot.cluster_sizes:
        return ()
    encodings = {
        column: feature.encoding
        for feature in plan.catalog.features
        for column in plan.layout.columns_of([feature.name])
    }
    centres = np.frombuffer(snapshot.centres, "<f4").reshape(len(snapshot.cluster_sizes), -1).tolist()
    found = []
    for cluster, (size, centre) in enumerate(zip(snapshot.cluster_sizes, centres, strict=True)):
        steps = [step for step in snapshot.track if step.cluster == cluster]
        following: set[str] = set()
        touches = []
        for step in steps:
            on_track = step.after not in following and step.count >= TRACK_COUNT
            following.add(step.after)
            touches.append(Touch(after=step.after, next=step.next, count=step.count, on_track=on_track))
        named = zip(snapshot.cluster_columns, centre, strict=True)
        found.append(
            ClusterReport(
                cluster=cluster,
                size=size,
                centre={name: in_units(encodings[name], value) for name, value in named if name in encodings},
                track=tuple(touches[:TOUCHES]),
            )
        )
    return tuple(sorted(found, key=lambda each: -each.size))


def in_units(encoding: Encoding, value: float) -> float:
    """Turn what a column holds back into the feature's unit; of a category or a flag it is the share.

    Examples
    --------
    >>> in_units(Encoding(kind="standard", mean=42.0, sd=15.0), -1.0)
    27.0
    >>> round(in_units(Encoding(kind="log", sd=500.0), 1.0))
    500
    """
    if encoding.kind == "standard":
        return encoding.mean + encoding.sd * value
    if encoding.kind == "log":
        return math.expm1(value * math.log1p(encoding.sd))
    return value
