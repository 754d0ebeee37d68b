"""Encoding: every column equals its formula, and what is missing is its default."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nbx.errors import Invalid, TooLarge
from nbx.features.kernels import CLIP
from nbx.features.schema import Aggregate, Encoding, Feature, Value, checked_values
from nbx.features.state import CustomerState, ProfileValue
from nbx.features.vector import RELATIONSHIP, Resolver, VectorLayout, _bucket
from nbx.limits import CONTEXT_KEYS, NAME_LENGTH, TEXT_LENGTH

RELATION = {"balance": -2.5, "strain": 0.9, "ignored_30d": 3.0, "minutes_since_prompt": 60.0}
AGE = Feature(
    name="age", type="number", default=40.0, max_age_ms=1000, encoding=Encoding(kind="standard", mean=40.0, sd=10.0)
)
SPEND = Feature(name="spend", type="number", default=0.0, encoding=Encoding(kind="log", sd=100.0))
TIER = Feature(name="tier", type="category", default="a", encoding=Encoding(kind="onehot", categories=("a", "b")))
CITY = Feature(name="city", type="category", default="", encoding=Encoding(kind="hash", buckets=4))
PHONE = Feature(name="phone", type="boolean", default=False, origin="context", encoding=Encoding(kind="flag"))
HIDDEN = Feature(name="hidden", type="number", default=1.0, encoding=Encoding(kind="none"))
VISITS = Feature(
    name="visits",
    type="number",
    default=7.0,
    encoding=Encoding(kind="standard"),
    origin=Aggregate(event="view", kind="count", window_ms=24_000),
)
ALL = (AGE, SPEND, TIER, CITY, PHONE, HIDDEN, VISITS)


def test_columns_equal_their_formulas() -> None:
    layout = VectorLayout(ALL)
    values: dict[str, Value] = {
        "age": 55.0,
        "spend": 9.0,
        "tier": "b",
        "city": "Ghent",
        "phone": True,
        "hidden": 3.0,
        "visits": 2.0,
    }
    x = dict(zip(layout.columns, layout.encode(values, RELATION).tolist(), strict=True))
    expected = {
        "bias": 1.0,
        "age": 1.5,
        "spend": math.log(10.0) / math.log(101.0),
        "tier=a": 0.0,
        "tier=b": 1.0,
        "phone": 1.0,
        "visits": 2.0,
        "relationship.balance": -0.5,
        "relationship.strain": 0.8,
        "relationship.ignored_30d": math.log(4.0) / math.log(11.0),
        "relationship.minutes_since_prompt": math.log(61.0) / math.log(10_081.0),
    }
    expected |= {f"city#{i}": float(i == _bucket("city", "Ghent", 4)) for i in range(4)}
    assert x == pytest.approx(expected, abs=1e-6)
    assert layout.columns[-4:] == tuple(f"relationship.{name}" for name in RELATIONSHIP)


@pytest.mark.parametrize("value", [1e30, -1e30])
def test_outliers_are_clipped(value: float) -> None:
    layout = VectorLayout((AGE,))
    assert layout.encode({"age": value}, RELATION)[1] == np.sign(value) * CLIP


def test_unknown_category_and_empty_text_light_nothing() -> None:
    layout = VectorLayout((TIER, CITY))
    assert not layout.encode({"tier": "zzz", "city": ""}, RELATION)[1:7].any()


def test_values_come_from_their_origin_else_the_default() -> None:
    resolver = Resolver(ALL)
    state = CustomerState(profile={"age": ProfileValue(20.0, 5_000), "phone": ProfileValue(True, 0)})
    assert resolver.resolve(CustomerState(), {}, 0) == {
        "age": 40.0, "spend": 0.0, "tier": "a", "city": "", "phone": False, "hidden": 1.0, "visits": 0.0,
    }  # fmt: skip
    seen = resolver.resolve(state, {"phone": True, "age": 99.0}, 6_000)
    assert (seen["age"], seen["phone"]) == (20.0, True)
    assert resolver.resolve(state, {}, 6_001)["age"] == 40.0, "older than its max age"


@pytest.mark.parametrize(
    ("values", "field", "kind"),
    [
        ({"age": "old"}, "context.age", Invalid),
        ({"age": True}, "context.age", Invalid),
        ({"phone": 1}, "context.phone", Invalid),
        ({"x": math.nan}, "context.x", Invalid),
        ({"x": math.inf}, "context.x", Invalid),
        ({"x": "y" * (TEXT_LENGTH + 1)}, "context.x", TooLarge),
        ({"n" * (NAME_LENGTH + 1): 1}, "context", TooLarge),
        ({f"k{i}": 1 for i in range(CONTEXT_KEYS + 1)}, "context", TooLarge),
    ],
)
def test_bad_values_name_their_field(values: dict[str, bool | float | str], field: str, kind: type[Invalid]) -> None:
    with pytest.raises(kind) as caught:
        checked_values(values, {f.name: f for f in ALL}, "context")
    assert caught.value.field == field
