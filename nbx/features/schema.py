"""Features as declared: type, encoding, default, origin. Compiled to a vector layout by `nbx.features.vector`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from nbx.errors import Invalid, TooLarge
from nbx.limits import CONTEXT_KEYS, NAME_LENGTH, TEXT_LENGTH

Value = bool | int | float | str
"""A feature value. Whole numbers are numbers: they are kept as float."""

FeatureType = Literal["number", "boolean", "category"]
AggregateKind = Literal["count", "sum", "last", "time_since", "decayed_mean"]
Origin = Literal["profile", "context"]


class Aggregate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A feature folded from behaviour events.

    `count` and `sum` need `window_ms`, `decayed_mean` needs `half_life_ms`; `sum`, `last` and `decayed_mean` read
    `property` of the event. `time_since` is in hours. A count without a property counts events.
    """

    event: str
    """Type of the behaviour event, e.g. `page_view`."""
    kind: AggregateKind
    property: str = ""
    window_ms: int = 0
    half_life_ms: int = 0


class Encoding(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a value becomes columns of x.

    number: `standard` → (v − mean) / sd, clipped to ±5; `log` → log1p(max(v, 0)) / log1p(sd); `none` → not in x.
    boolean: 0 or 1. category: `onehot` over `categories` (others → all zero), or `hash` into `buckets` columns.
    """

    kind: Literal["standard", "log", "flag", "onehot", "hash", "none"]
    mean: float = 0.0
    sd: float = 1.0
    categories: tuple[str, ...] = ()
    buckets: int = 0


class Feature(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One declared feature."""

    name: str
    type: FeatureType
    encoding: Encoding
    default: Value
    """Used when the value is missing or older than `max_age_ms`; of the feature's type."""
    max_age_ms: int = 0
    """Milliseconds after which a profile value is stale; 0: never."""
    origin: Origin | Aggregate = "profile"
    description: str = ""
    personal: bool | None = None
    """Whether it may only be used with consent to personalise; None: all but those from the context."""
    controllable: bool = False
    """The customer's own choice: conditions on it can be met by the customer alone. Only of a profile feature."""

    @property
    def is_personal(self) -> bool:
        """Whether deciding on it needs the customer's consent to personalise."""
        return self.origin != "context" if self.personal is None else self.personal


def checked_values(values: dict[str, Value], features: Mapping[str, Feature], field: str) -> dict[str, Value]:
    """Return values as they are kept: whole numbers as float, everything bounded and of its declared type.

    Where nothing is to be changed they are returned themselves.

    Names that no feature declares are kept too: they are part of the record, only nothing reads them.

    Raises
    ------
    TooLarge
        More than `limits.CONTEXT_KEYS` values, a name or text beyond its bound.
    Invalid
        A number that is not finite, or a value of another type than its feature's.

    Examples
    --------
    >>> checked_values({"hour": 7}, {}, "context")
    {'hour': 7.0}
    """
    if len(values) > CONTEXT_KEYS:
        raise TooLarge(f"{field} has {len(values)} keys, at most {CONTEXT_KEYS} are allowed", field=field)
    for name, value in values.items():
        feature = features.get(name)
        if type(value) is not float or feature is None or feature.type != "number" or not -math.inf < value < math.inf:
            break
    else:
        return values  # the common case: declared numbers, as they are kept
    checked: dict[str, Value] = {}
    for name, value in values.items():
        feature = features.get(name)
        path = f"{field}.{name[:NAME_LENGTH]}"
        if len(name) > NAME_LENGTH or not name.isprintable():
            raise TooLarge(f"{path}… is not a name of at most {NAME_LENGTH} printable characters", field=field)
        if isinstance(value, str):
            if len(value) > TEXT_LENGTH:
                raise TooLarge(f"{path} has {len(value)} characters, at most {TEXT_LENGTH} are allowed", field=path)
        elif not _fits_float(value):
            words = f"{path} is no finite number that a float can hold"
            raise Invalid(words, field=path, code="not_finite")
        kept = value if isinstance(value, bool | str) else float(value)
        if feature is not None and not isinstance(kept, PYTHON_TYPES[feature.type]):
            raise Invalid(f"{path} is {value!r}; feature {name} is a {feature.type}", field=path, code="feature_type")
        checked[name] = kept
    return checked


def _fits_float(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False


PYTHON_TYPES: dict[FeatureType, type] = {"number": float, "boolean": bool, "category": str}
