"""From values to the vector x the models see.

A layout is compiled once per release. Column 0 is the constant 1, then the declared features in their order, then the
relationship, then the clusters. Column names are stable across releases (`age`, `tier=gold`, `city#3`), so a model
carries over what it learned about a column whatever else changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from struct import Struct

import numpy as np
from numpy.typing import NDArray

from nbx.features.aggregates import aggregate_value
from nbx.features.kernels import scale_values
from nbx.features.schema import PYTHON_TYPES, Aggregate, Encoding, Feature, Value
from nbx.features.state import CustomerState
from nbx.hashing import hash64

RELATIONSHIP = ("balance", "strain", "ignored_30d", "minutes_since_prompt")
"""Built-in features: names, and the order in which they are encoded last."""
CLUSTER_COLUMN = "cluster="
"""What the names of the columns begin with that tell the customer's cluster: the last ones, where there are any."""
_RELATIONSHIP_ENCODING = {
    "balance": Encoding(kind="standard", mean=0.0, sd=5.0),
    "strain": Encoding(kind="standard", mean=0.5, sd=0.5),
    "ignored_30d": Encoding(kind="log", sd=10.0),
    "minutes_since_prompt": Encoding(kind="log", sd=10_080.0),
}


_built_in = itemgetter(*RELATIONSHIP)


@lru_cache(maxsize=65_536)
def _bucket(name: str, value: str, buckets: int) -> int:
    return hash64(value, name) % buckets


class VectorLayout:
    """The columns of x and how to fill them.

    Attributes
    ----------
    columns : tuple of str
        Names; `len(columns)` is d.

    Examples
    --------
    >>> parts = Encoding(kind="onehot", categories=("a", "b"))
    >>> tier = Feature(name="tier", type="category", default="", encoding=parts)
    >>> layout = VectorLayout((tier,))
    >>> layout.columns[:3]
    ('bias', 'tier=a', 'tier=b')
    >>> layout.encode({"tier": "b"}, dict.fromkeys(RELATIONSHIP, 0.0))[:3].tolist()
    [1.0, 0.0, 1.0]
    """

    def __init__(self, features: Sequence[Feature], clusters: int = 0) -> None:
        columns = ["bias"]
        self._of: dict[str, tuple[str, ...]] = {}
        scaled: list[tuple[str, Encoding, int]] = []
        self._onehots: list[tuple[str, dict[Value, int]]] = []
        self._hashes: list[tuple[str, int, int]] = []
        for feature in features:
            encoding, offset = feature.encoding, len(columns)
            if encoding.kind == "onehot":
                places: dict[Value, int] = {name: offset + i for i, name in enumerate(encoding.categories)}
                self._onehots.append((feature.name, places))
            elif encoding.kind == "hash":
                self._hashes.append((feature.name, offset, encoding.buckets))
            elif encoding.kind != "none":
                scaled.append((feature.name, encoding, offset))
            self._of[feature.name] = tuple(_column_names(feature.name, encoding))
            columns += self._of[feature.name]
        self._scaled = _getter([name for name, _, _ in scaled])
        scaled += [(name, _RELATIONSHIP_ENCODING[name], len(columns) + i) for i, name in enumerate(RELATIONSHIP)]
        self.columns = (*columns, *(f"relationship.{name}" for name in RELATIONSHIP))
        self._first_cluster = len(self.columns)
        self.columns += tuple(f"{CLUSTER_COLUMN}{k}" for k in range(clusters))
        self._pack = Struct(f"{len(scaled)}d").pack
        self._blank = np.zeros(len(self.columns), dtype=np.float32)
        self._blank[0] = 1.0
        self._offset = np.array([offset for _, _, offset in scaled], dtype=np.int64)
        self._is_log = np.array([encoding.kind == "log" for _, encoding, _ in scaled], dtype=np.bool_)
        self._shift = np.array([e.mean if e.kind == "standard" else 0.0 for _, e, _ in scaled], dtype=np.float64)
        self._scale = np.array([_inverse_scale(encoding) for _, encoding, _ in scaled], dtype=np.float64)

    def encode(self, values: Mapping[str, Value], relationship: Mapping[str, float]) -> NDArray[np.float32]:
        """Encode resolved values.

        Parameters
        ----------
        values
            Feature name → value, one for every declared feature with an encoding (see `Resolver`).
        relationship
            The four built-in features by name.

        Returns
        -------
        ndarray of float32, shape (d,)
        """
        raw = self._pack(*self._scaled(values), *_built_in(relationship))  # half of what `numpy.array` takes
        x = self._blank.copy()
        scale_values(np.frombuffer(raw), self._is_log, self._shift, self._scale, self._offset, x)
        for name, places in self._onehots:
            place = places.get(values[name])
            if place is not None:
                x[place] = 1.0
        for name, offset, buckets in self._hashes:
            value = values[name]
            if value:
                x[offset + _bucket(name, str(value), buckets)] = 1.0
        return x

    def columns_of(self, features: Iterable[str]) -> tuple[str, ...]:
        """Return the names of the columns that some features take."""
        return tuple(column for name in features for column in self._of[name])

    def mark(self, x: NDArray[np.float32], cluster: int) -> None:
        """Note in `x`, in place, that the customer is of a cluster; -1: of none."""
        if cluster >= 0:
            x[self._first_cluster + cluster] = 1.0


class Resolver:
    """Gathers the values of a release's features for a decision."""

    def __init__(self, features: Sequence[Feature]) -> None:
        self._defaults: dict[str, Value] = {feature.name: feature.default for feature in features}
        self._context = frozenset(feature.name for feature in features if feature.origin == "context")
        self._profile = frozenset(feature.name for feature in features if feature.origin == "profile")
        self._aging = tuple(
            (feature.name, feature.max_age_ms)
            for feature in features
            if feature.name in self._profile and feature.max_age_ms
        )
        self._aggregates = {
            feature.name: (feature.origin, PYTHON_TYPES[feature.type])
            for feature in features
            if isinstance(feature.origin, Aggregate)
        }
        self._untouched = self._defaults.copy()
        for name, (aggregate, kind) in self._aggregates.items():
            nothing = aggregate_value(aggregate, None, 0)
            if nothing is not None and isinstance(nothing, kind):
                self._untouched[name] = nothing

    def resolve(
        self, state: CustomerState, context: Mapping[str, Value], now_ms: int, stale: list[str] | None = None
    ) -> dict[str, Value]:
        """Return every feature's value now: from context, profile or aggregates, else the default.

        A profile value older than the feature's `max_age_ms` counts as missing; `stale` gets the names of those.
        """
        values = self._untouched.copy()
        for name, value in context.items():
            if name in self._context:
                values[name] = value
        profile, declared = state.profile, self._profile
        if profile:
            values |= {name: known.value for name, known in profile.items() if name in declared}
            for name, max_age_ms in self._aging:
                if name in profile and now_ms - profile[name].at_ms > max_age_ms:
                    values[name] = self._untouched[name]
                    if stale is not None:
                        stale.append(name)
        for name, cells in state.aggregates.items():
            if name in self._aggregates:
                aggregate, kind = self._aggregates[name]
                told = aggregate_value(aggregate, cells, now_ms)
                # `last` keeps whatever the event held
                values[name] = told if told is not None and isinstance(told, kind) else self._defaults[name]
        return values


def _getter(names: Sequence[str]) -> Callable[[Mapping[str, Value]], tuple[Value, ...]]:
    """Return what takes the values of some names out of a mapping, in their order."""
    if len(names) < 2:  # of one name `itemgetter` gives the value, not a tuple
        return lambda values: tuple([values[name] for name in names])
    return itemgetter(*names)


def _column_names(name: str, encoding: Encoding) -> list[str]:
    if encoding.kind == "onehot":
        return [f"{name}={category}" for category in encoding.categories]
    if encoding.kind == "hash":
        return [f"{name}#{bucket}" for bucket in range(encoding.buckets)]
    return [] if encoding.kind == "none" else [name]


def _inverse_scale(encoding: Encoding) -> float:
    if encoding.kind == "log":
        return 1.0 / math.log1p(encoding.sd)
    return 1.0 / encoding.sd if encoding.kind == "standard" else 1.0
