"""Models as served: immutable arrays, published by the learner, aligned to a plan when a worker swaps them in.

A snapshot names its columns and actions; a plan has its own. `bind` aligns the two by name, once per swap, so a release
may add or drop columns and actions without retraining: a column the model never saw is at its prior and uncorrelated, a
column the plan dropped is marginalised (for a Gaussian: left out), an action never seen takes its group's pooled
posterior.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict

import msgspec
import numpy as np

from nbx.bandits import exploration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from nbx.bandits.kernels import F32

FORMAT = "nbx-snapshot/1"
CLUSTER_COLUMN = "cluster="
"""What the names of the columns begin with that tell the customer's cluster."""
TRACK_COUNT = 5.0
"""Transitions, after decay, before the most frequent one counts as the next touch: fewer are an accident."""


class Step(msgspec.Struct, frozen=True, array_like=True):
    """A transition on a cluster's touch track."""

    cluster: int
    after: str
    """Action accepted before; empty: none."""
    next: str
    """Action accepted then."""
    count: float
    """How often, those of long ago for less."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Every model at one step of the fold; arrays are little-endian float32 bytes, by rows."""

    format: str = FORMAT
    version: int
    """≥ 1, counts snapshots."""
    step: int
    """Observations folded."""
    columns: list[str]
    actions: list[str]
    groups: list[str]
    """Group of each action."""
    mean: bytes
    """float32[K, d]"""
    cov_packed: bytes
    """float32[K, d(d+1)/2], upper triangles by rows."""
    experience: bytes
    """float32[K, d], weights of the experience model."""
    evidence: list[float]
    """Observations behind each action, after forgetting."""
    group_names: list[str]
    group_mean: bytes
    """float32[G, d]: the pooled posterior of an action of this group that was never seen."""
    group_cov: bytes
    group_experience: bytes
    prior_precision: float
    values: list[float]
    """Mean money per acceptance of each action, of those that were reported; 0 without."""
    value_counts: list[float]
    """Acceptances behind it."""
    exploration: float
    """Calibrated scale of exploration."""
    half_life: float
    """Of evidence, in observations of an action; infinite while the world stands still."""
    changes: list[int]
    """How often each action's memory was cut because its answers changed."""
    quarantined: list[str] = []
    """Profile features that nobody may rely on, see `nbx.bandits.quarantine`."""
    cluster_columns: list[str] = []
    """Columns of x by which customers are told apart; empty: they are not."""
    centres: bytes = b""
    """float32[k, len(cluster_columns)]"""
    cluster_sizes: list[float] = []
    """Customers' answers behind each cluster, those of long ago for less."""
    track: list[Step] = []
    """What each cluster's best customers accepted next, by cluster, then by how often."""


@dataclass(frozen=True, slots=True)
class BoundModel:
    """A snapshot aligned to a plan: contiguous arrays, row k is the plan's action k."""

    mean: F32
    """float32[K, d]"""
    cov_packed: F32
    """float32[K, d(d+1)/2]"""
    experience: F32
    """float32[K, d]"""
    evidence: F32
    """float32[K], 0 for an action never seen."""
    value: F32
    """float32[K], mean money per acceptance as reported; 0 without."""
    value_count: F32
    """float32[K], acceptances behind it."""
    version: int
    """Of the snapshot; 0 is the prior."""
    step: int
    exploration: float = exploration.START
    """Calibrated scale of exploration, a multiple of posterior standard deviations."""
    half_life: float = math.inf
    """Of evidence, in observations of an action."""
    changes: tuple[int, ...] = ()
    """How often each action's memory was cut because its answers changed; empty: never."""
    quarantined: frozenset[str] = frozenset()
    """As in the snapshot."""
    cluster_at: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """int64[m], columns of x by which customers are told apart."""
    centres: F32 = field(default_factory=lambda: np.empty((0, 0), np.float32))
    """float32[k, m]; none: there are no clusters yet."""
    track: Mapping[tuple[int, str], str] = field(default_factory=dict)
    """Cluster and action accepted last → the next touch."""

    def cluster_of(self, x: F32) -> int:
        """Return the cluster whose centre is nearest to `x`, float32[d], the first of several; -1: there are none."""
        if not len(self.centres):
            return -1
        apart = self.centres - x[self.cluster_at]
        return int(np.einsum("km,km->k", apart, apart).argmin())


def encode(snapshot: Snapshot) -> bytes:
    """Encode as MessagePack."""
    return msgspec.msgpack.encode(snapshot)


def decode_snapshot(data: bytes) -> Snapshot:
    """Decode and check every shape.

    Raises
    ------
    ValueError
        When the bytes are not a snapshot, of another format, or an array does not fit its columns and actions.
    """
    try:
        snapshot = msgspec.msgpack.decode(data, type=Snapshot)
    except msgspec.DecodeError as error:
        raise ValueError(f"snapshot: not readable: {error}") from error
    if snapshot.format != FORMAT:
        raise ValueError(f"snapshot: format {snapshot.format!r}, this version reads {FORMAT!r}")
    d, actions, groups = len(snapshot.columns), len(snapshot.actions), len(snapshot.group_names)
    packed = d * (d + 1) // 2
    expected = {
        "mean": actions * d,
        "cov_packed": actions * packed,
        "experience": actions * d,
        "group_mean": groups * d,
        "group_cov": groups * packed,
        "group_experience": groups * d,
        "centres": len(snapshot.cluster_sizes) * len(snapshot.cluster_columns),
    }
    for name, count in expected.items():
        size = len(getattr(snapshot, name))
        if size != 4 * count:
            raise ValueError(f"snapshot: {name} has {size} bytes where {4 * count} are expected")
    per_action = (snapshot.groups, snapshot.evidence, snapshot.values, snapshot.value_counts, snapshot.changes)
    if any(len(column) != actions for column in per_action):
        raise ValueError("snapshot: groups, evidence and values need one entry per action")
    return snapshot


def bind(
    snapshot: Snapshot | None,
    columns: Sequence[str],
    actions: Sequence[str],
    groups: Sequence[str],
    prior_precision: float = 1.0,
) -> BoundModel:
    """Align a snapshot to a plan.

    Parameters
    ----------
    snapshot
        None: everything is at the prior, version 0.
    columns, actions
        The plan's, in its order.
    groups
        Group of each action.
    prior_precision
        λ when there is no snapshot; a snapshot brings its own.

    Examples
    --------
    >>> model = bind(None, ["one", "age"], ["offer"], ["offers"], prior_precision=2.0)
    >>> model.cov_packed.tolist(), model.version
    ([[0.5, 0.0, 0.5]], 0)
    """
    if len(actions) != len(groups):
        raise ValueError(f"groups: {len(groups)} given for {len(actions)} actions")
    d, count = len(columns), len(actions)
    upper = np.triu_indices(d)
    ridge = prior_precision if snapshot is None else snapshot.prior_precision
    mean = np.zeros((count, d), np.float32)
    experience = np.zeros((count, d), np.float32)
    evidence, value, value_count = (np.zeros(count, np.float32) for _ in range(3))
    cov = np.tile((np.eye(d, dtype=np.float32) / np.float32(ridge))[upper], (count, 1))
    if snapshot is None or not snapshot.columns:  # a learner that has seen nothing knows no column
        version, step = (0, 0) if snapshot is None else (snapshot.version, snapshot.step)
        return BoundModel(
            mean=mean,
            cov_packed=cov,
            experience=experience,
            evidence=evidence,
            value=value,
            value_count=value_count,
            version=version,
            step=step,
            quarantined=frozenset() if snapshot is None else frozenset(snapshot.quarantined),
        )
    source = _Rows(snapshot)
    known = {name: k for k, name in enumerate(snapshot.columns)}
    at = np.array([known.get(name, -1) for name in columns], np.int64)
    here = np.flatnonzero(at >= 0)
    there = at[here]
    rows = np.array([source.row(*named) for named in zip(actions, groups, strict=True)], np.int64)
    source_rows = rows.tolist()
    found = np.flatnonzero(rows >= 0)
    rows = rows[found]
    if list(columns) == snapshot.columns:
        mean[found], experience[found], cov[found] = source.mean[rows], source.experience[rows], source.cov[rows]
    else:
        both = np.flatnonzero((at[upper[0]] >= 0) & (at[upper[1]] >= 0))
        packed = source.packed_index[at[upper[0][both]], at[upper[1][both]]]
        mean[np.ix_(found, here)] = source.mean[np.ix_(rows, there)]
        experience[np.ix_(found, here)] = source.experience[np.ix_(rows, there)]
        cov[np.ix_(found, both)] = source.cov[np.ix_(rows, packed)]
    evidence[found], value[found], value_count[found] = source.counts[:, rows]
    return BoundModel(
        mean=mean,
        cov_packed=cov,
        experience=experience,
        evidence=evidence,
        value=value,
        value_count=value_count,
        version=snapshot.version,
        step=snapshot.step,
        exploration=snapshot.exploration,
        half_life=snapshot.half_life,
        changes=tuple(snapshot.changes[k] if 0 <= k < len(snapshot.changes) else 0 for k in source_rows),
        quarantined=frozenset(snapshot.quarantined),
        **_bound_clusters(snapshot, columns),
    )


class _Clusters(TypedDict, total=False):
    cluster_at: NDArray[np.int64]
    centres: F32
    track: dict[tuple[int, str], str]


def _bound_clusters(snapshot: Snapshot, columns: Sequence[str]) -> _Clusters:
    """Align the centres: over the columns that the plan has too, if it has room for so many clusters."""
    room = sum(name.startswith(CLUSTER_COLUMN) for name in columns)
    at = {name: k for k, name in enumerate(columns)}
    shared = [k for k, name in enumerate(snapshot.cluster_columns) if name in at]
    if not shared or not 0 < len(snapshot.cluster_sizes) <= room:
        return {}
    centres = np.frombuffer(snapshot.centres, "<f4").reshape(len(snapshot.cluster_sizes), -1)
    next_touch: dict[tuple[int, str], str] = {}
    for step in snapshot.track:
        if step.count >= TRACK_COUNT:
            next_touch.setdefault((step.cluster, step.after), step.next)
    return {
        "cluster_at": np.array([at[snapshot.cluster_columns[k]] for k in shared], np.int64),
        "centres": np.ascontiguousarray(centres[:, shared]),
        "track": next_touch,
    }


class _Rows:
    """A snapshot's actions, then its groups, as rows."""

    def __init__(self, snapshot: Snapshot) -> None:
        d = len(snapshot.columns)
        packed = d * (d + 1) // 2
        self.mean = np.frombuffer(snapshot.mean + snapshot.group_mean, "<f4").reshape(-1, d)
        self.experience = np.frombuffer(snapshot.experience + snapshot.group_experience, "<f4").reshape(-1, d)
        self.cov = np.frombuffer(snapshot.cov_packed + snapshot.group_cov, "<f4").reshape(-1, packed)
        groups = [0.0] * len(snapshot.group_names)
        per_action = (snapshot.evidence, snapshot.values, snapshot.value_counts)
        self.counts = np.array([column + groups for column in per_action], np.float32)
        """float32[3, rows]: evidence, mean value, acceptances behind it."""
        self.packed_index = np.zeros((d, d), np.int64)
        upper = np.triu_indices(d)
        self.packed_index[upper] = np.arange(packed)
        self.packed_index.T[upper] = np.arange(packed)
        self._actions = {name: k for k, name in enumerate(snapshot.actions)}
        self._groups = {name: k for k, name in enumerate(snapshot.group_names, start=len(snapshot.actions))}

    def row(self, action: str, group: str) -> int:
        """Where an action's model is: its own, else its group's, else nowhere, −1."""
        row = self._actions.get(action)
        return self._groups.get(group, -1) if row is None else row
