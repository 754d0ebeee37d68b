"""From values to the vector x the models see.

A layout is compiled once per release. Column 0 is the constant 1, then the declared features in their order, then the
relationship. Column names are stable across releases (`age`, `tier=gold`, `city#3`), so a model carries over what it
learned about a column whatever else changes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from nbx.features.aggregates import aggregate_value
from nbx.features.schema import Aggregate, Encoding, Feature, Value
from nbx.features.state import CustomerState
from nbx.hashing import hash64

RELATIONSHIP = ("balance", "strain", "ignored_30d", "minutes_since_prompt")
"""Built-in features: names, and the order in which they are encoded last."""
_RELATIONSHIP_ENCODING = {
    "balance": Encoding(kind="standard", mean=0.0, sd=5.0),
    "strain": Encoding(kind="standard", mean=0.5, sd=0.5),
    "ignored_30d": Encoding(kind="log", sd=10.0),
    "minutes_since_prompt": Encoding(kind="log", sd=10_080.0),
}
_CLIP = 5.0


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
    >>> tier = Feature(name="tier", type="category", default="", encoding=Encoding(kind="onehot", categories=("a",
    "b"))) >>> layout = VectorLayout((tier,))
    >>> layout.columns[:3]
    ('bias', 'tier=a', 'tier=b')
    >>> layout.encode({"tier": "b"}, dict.fromkeys(RELATIONSHIP, 0.0))[:3].tolist()
    [1.0, 0.0, 1.0]
    """

    def __init__(self, features: Sequence[Feature]) -> None:
        columns = ["bias"]
        self._encoded: list[tuple[str, Encoding, int]] = []
        for feature in features:
            if feature.encoding.kind != "none":
                self._encoded.append((feature.name, feature.encoding, len(columns)))
                columns += _column_names(feature.name, feature.encoding)
        self._relationship_offset = len(columns)
        self.columns = (*columns, *(f"relationship.{name}" for name in RELATIONSHIP))
        self._positions = {
            name: {category: offset + i for i, category in enumerate(encoding.categories)}
            for name, encoding, offset in self._encoded
            if encoding.kind == "onehot"
        }

    def encode(self, values: Mapping[str, Value], relationship: Mapping[str, float]) -> NDArray[np.float32]:
        """Encode resolved values.

        Parameters
        ----------
        values
            Feature name → value, one for every declared feature with an encoding (see `resolve`).
        relationship
            The four built-in features by name.

        Returns
        -------
        ndarray of float32, shape (d,)
        """
        x = [0.0] * len(self.columns)
        x[0] = 1.0
        for name, encoding, offset in self._encoded:
            value = values[name]
            kind = encoding.kind
            if kind == "onehot":
                position = self._positions[name].get(value)  # type: ignore[arg-type] # a wrong type is no category
                if position is not None:
                    x[position] = 1.0
            elif kind == "hash":
                if value:
                    x[offset + _bucket(name, str(value), encoding.buckets)] = 1.0
            elif not isinstance(value, str):
                x[offset] = _scaled(encoding, value)
        for i, name in enumerate(RELATIONSHIP, self._relationship_offset):
            x[i] = _scaled(_RELATIONSHIP_ENCODING[name], relationship[name])
        return np.array(x, dtype=np.float32)


def resolve(
    features: Sequence[Feature], state: CustomerState, context: Mapping[str, Value], now_ms: int
) -> dict[str, Value]:
    """Return every feature's value now: from context, profile or aggregates, else the default.

    A profile value older than the feature's `max_age_ms` counts as missing.
    """
    values: dict[str, Value] = {}
    for feature in features:
        origin = feature.origin
        value: Value | None
        if origin == "context":
            value = context.get(feature.name)
        elif isinstance(origin, Aggregate):
            value = aggregate_value(origin, state.aggregates.get(feature.name), now_ms)
        else:
            known = state.profile.get(feature.name)
            fresh = known is not None and not (feature.max_age_ms and now_ms - known.at_ms > feature.max_age_ms)
            value = known.value if known is not None and fresh else None
        values[feature.name] = feature.default if value is None else value
    return values


def _column_names(name: str, encoding: Encoding) -> list[str]:
    if encoding.kind == "onehot":
        return [f"{name}={category}" for category in encoding.categories]
    if encoding.kind == "hash":
        return [f"{name}#{bucket}" for bucket in range(encoding.buckets)]
    return [name]


def _scaled(encoding: Encoding, value: float) -> float:
    if encoding.kind == "standard":
        return min(max((value - encoding.mean) / encoding.sd, -_CLIP), _CLIP)
    if encoding.kind == "log":
        return min(math.log1p(max(value, 0.0)) / math.log1p(encoding.sd), _CLIP)
    return 1.0 if value else 0.0
