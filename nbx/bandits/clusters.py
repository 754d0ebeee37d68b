"""Customers told apart online: `river.cluster.KMeans` over the declared features' columns of x, one answer at a time.

River's centres begin at random points, which seldom lie one in each group, and k-means never leaves such a start. So
the first `WARM_UP` answers wait: from their distinct vectors centres are seeded (k-means++, the best of `STARTS` runs
of Lloyd's), then they and all that follow are learned by River. With fewer different vectors than clusters each is a
centre, and the next different one becomes another. A centre moves by `RATE` of the distance to each vector that it is
nearest to, so it follows a group that changes within some hundred answers, and stands within √(RATE / 2) = 7 % of a
standard deviation of its mean.

Which clusters are learned is the latest release's word: the same features and count under a new release go on, with
columns that are new at 0; others begin anew. Answers under a release that says otherwise are passed over. Everything
depends on the answers and their order alone; the numbering of clusters stays as long as they are not begun anew.

Here is nothing that serving needs: `nbx.bandits.snapshot` finds the nearest centre.

References
----------
Arthur and Vassilvitskii, k-means++: the advantages of careful seeding (2007). River's `cluster.KMeans` is sequential
k-means with a constant rate (`halflife`).
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, TypedDict

import numpy as np
from msgspec import Struct, field

from nbx.bandits.river_parts import cluster
from nbx.bandits.tracks import Track

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from nbx.bandits.kernels import F64
    from nbx.bandits.snapshot import Step

WARM_UP = 128
"""Answers from which the first centres are made: enough that each of 16 groups has some."""
STARTS = 16
ROUNDS = 16
"""Of Lloyd's algorithm; few vectors settle in fewer."""
RATE = 0.01


class Answer(Struct, frozen=True, kw_only=True, array_like=True):
    """An outcome as far as it tells customers apart."""

    vector: bytes
    """float32[m], the declared columns of x in the order of `ClusteringState.columns`, as far as there were any."""
    balance: float
    """Of the relationship, when it was decided."""
    at_ms: int
    after: str
    """Action accepted last before."""
    action: str
    first: bool
    """The first outcome of its slot: later ones are no new answer."""
    accepted: bool
    """And none before of the slot was."""


class ClusteringState(Struct, kw_only=True):
    """What a checkpoint holds."""

    release: int = 0
    """Latest with clusters; 0: none yet."""
    features: tuple[str, ...] = ()
    count: int = 0
    columns: list[str] = field(default_factory=list)
    waiting: list[Answer] = field(default_factory=list)
    """Until there are `WARM_UP`."""
    centres: bytes = b""
    """float64[k, m]"""
    tracks: list[Track] = field(default_factory=list)
    """(k,)"""


class Told(TypedDict):
    """Fields of a snapshot."""

    cluster_columns: list[str]
    centres: bytes
    cluster_sizes: list[float]
    track: list[Step]


class Clustering:
    """Learns clusters and their touch tracks.

    Parameters
    ----------
    state
        What a checkpoint held; None: from the beginning.
    """

    def __init__(self, state: ClusteringState | None = None) -> None:
        self._state = state or ClusteringState()
        self._at: dict[int, NDArray[np.int64]] = {}
        """Release → where in its x each of the columns is; -1: it has no such column."""
        self._kmeans = cluster.KMeans(n_clusters=1, halflife=RATE, seed=0)
        self._use(self._centres(self._state.centres))

    def register(
        self, release: int, features: Sequence[str], count: int, layout: Sequence[str], columns: Sequence[str]
    ) -> None:
        """Say how a release tells customers apart.

        Parameters
        ----------
        release
            Its number.
        features, count
            As declared.
        layout, columns
            All columns of its x, and those of the features.
        """
        state, same = self._state, (tuple(features), count)
        if same != (self._state.features, self._state.count):
            if release < state.release:
                return
            state = self._state = ClusteringState(features=tuple(features), count=count)
            self._at.clear()
            self._use(np.empty((0, 0)))
        state.release = max(release, state.release)
        more = [name for name in columns if name not in state.columns]
        if more:
            state.columns += more
            self._use(np.pad(self._current(), ((0, 0), (0, len(more)))))
            for known, at in self._at.items():
                self._at[known] = np.append(at, np.full(len(more), -1))
        places = {name: place for place, name in enumerate(layout)}
        own = set(columns)
        self._at[release] = np.array([places[name] if name in own else -1 for name in state.columns], np.int64)

    @property
    def features(self) -> frozenset[str]:
        """By which customers are told apart."""
        return frozenset(self._state.features)

    def vector(self, release: int, x: bytes) -> bytes | None:
        """Take the declared columns out of x, float32[d]; None: this release tells customers apart otherwise."""
        at = self._at.get(release)
        if at is None:
            return None
        found = np.frombuffer(x, "<f4")[at]
        found[at < 0] = 0.0
        return found.tobytes()

    def learn(self, answer: Answer) -> None:
        """Take in an answer; those that wait are learned once there are enough."""
        state = self._state
        if not self._kmeans.centers:
            state.waiting.append(answer)
            if sum(each.first for each in state.waiting) == WARM_UP:
                waiting, state.waiting = state.waiting, []
                self._use(seeded(np.stack([self._row(each) for each in waiting if each.first]), state.count))
                for each in waiting:
                    self._take(each)
            return
        self._take(answer)

    def encode(self) -> ClusteringState:
        """Return what a checkpoint needs, to the bit; valid until the next answer."""
        self._state.centres = self._current().tobytes()
        return self._state

    def told(self) -> Told:
        """Return what a snapshot tells of the clusters."""
        tracks = self._state.tracks
        now_ms = max((track.size.at_ms for track in tracks), default=0)
        return {
            "cluster_columns": list(self._state.columns) if tracks else [],
            "centres": self._current().astype("<f4").tobytes(),
            "cluster_sizes": [track.size.at(now_ms) for track in tracks],
            "track": [step for k, track in enumerate(tracks) for step in track.steps(k, now_ms)],
        }

    def _take(self, answer: Answer) -> None:
        row = self._row(answer)
        x = dict(enumerate(row.tolist()))
        kmeans, tracks = self._kmeans, self._state.tracks
        if answer.first and len(tracks) < self._state.count and all(x != centre for centre in kmeans.centers.values()):
            self._use(np.vstack([self._current(), row]))
        cluster = kmeans.learn_predict_one(x) if answer.first else kmeans.predict_one(x)
        if answer.first:
            tracks[cluster].answered(answer.balance, answer.at_ms)
        if answer.accepted:
            tracks[cluster].accepted(answer.balance, answer.after, answer.action, answer.at_ms)

    def _row(self, answer: Answer) -> F64:
        given = np.frombuffer(answer.vector, "<f4").astype(np.float64)
        more = len(self._state.columns) - len(given)
        return np.pad(given, (0, more)) if more else given

    def _use(self, centres: F64) -> None:
        """Make River go on from some centres."""
        self._kmeans.n_clusters = len(centres)
        self._kmeans.centers = {k: defaultdict(float, enumerate(row)) for k, row in enumerate(centres.tolist())}
        self._state.tracks += [Track() for _ in range(len(centres) - len(self._state.tracks))]

    def _current(self) -> F64:
        m = len(self._state.columns)
        rows = [[centre[j] for j in range(len(centre))] for centre in self._kmeans.centers.values()]
        return np.array(rows, dtype=np.float64).reshape(len(rows), -1 if rows else m)

    def _centres(self, packed: bytes) -> F64:
        return np.frombuffer(packed).reshape(-1, max(len(self._state.columns), 1))


def seeded(vectors: F64, count: int) -> F64:
    """Return the centres that k-means finds among some vectors, by the best of several seeded starts.

    Parameters
    ----------
    vectors
        float64[n, m], n ≥ 1.
    count
        Clusters, ≥ 1.

    Returns
    -------
    ndarray of float64, shape (k, m)
        k ≤ count: of fewer different vectors each is a centre.

    Examples
    --------
    >>> seeded(np.array([[0.0], [9.0], [0.2], [9.2]]), 2).round(3).ravel().tolist()
    [0.1, 9.1]
    """
    different = np.unique(vectors, axis=0)
    if len(different) <= count:
        return different
    rng = np.random.default_rng(0)
    found = [_lloyd(vectors, _spread_out(vectors, count, rng)) for _ in range(STARTS)]
    _, best = min(found, key=lambda each: each[0])
    return best[np.lexsort(best.T[::-1])]


def _spread_out(vectors: F64, count: int, rng: np.random.Generator) -> F64:
    """Draw first centres, each with a chance in proportion to its squared distance from those drawn before."""
    chosen = [vectors[rng.integers(len(vectors))]]
    while len(chosen) < count:
        nearest = _apart(vectors, np.array(chosen)).min(axis=1)
        chosen.append(vectors[rng.choice(len(vectors), p=nearest / nearest.sum())])
    return np.array(chosen)


def _lloyd(vectors: F64, centres: F64) -> tuple[float, F64]:
    """Return the sum of squared distances, and the centres, after some rounds of Lloyd's algorithm."""
    for _ in range(ROUNDS):
        nearest = _apart(vectors, centres).argmin(axis=1)
        moved = [
            vectors[nearest == k].mean(axis=0) if (nearest == k).any() else centre for k, centre in enumerate(centres)
        ]
        centres = np.array(moved)
    return float(_apart(vectors, centres).min(axis=1).sum()), centres


def _apart(vectors: F64, centres: F64) -> F64:
    """Return squared distances, float64[n, k]."""
    apart: F64 = ((vectors[:, None, :] - centres[None, :, :]) ** 2).sum(axis=2)
    return apart
