"""What scenarios leave to chance: values of contexts and profiles, delays, and which customer comes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from nbx.features.schema import Value
from nbx.loadtest.durations import Seconds

Share = Annotated[float, Meta(ge=0, le=1)]
Weight = Annotated[float, Meta(gt=0)]


class Draw(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a value is drawn: exactly one of the fields."""

    choice: list[bool | int | float | str] | dict[str, Weight] | None = None
    """One of a list, all alike, or text → weight."""
    uniform: tuple[float, float] | None = None
    whole: tuple[int, int] | None = None
    """A whole number, both ends included."""
    normal: tuple[float, float] | None = None
    """Mean and standard deviation."""
    chance: Share | None = None
    """True with this chance, else false."""

    def __post_init__(self) -> None:
        _exactly_one(self)
        for name in ("uniform", "whole"):
            pair = getattr(self, name)
            if pair is not None and pair[0] > pair[1]:
                raise ValueError(f"{name}: {pair[0]:g} is above {pair[1]:g}")
        if self.normal is not None and self.normal[1] < 0:
            raise ValueError("normal: the standard deviation is below 0")
        if self.choice is not None and not self.choice:
            raise ValueError("choice: is empty")


class Delay(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long something takes: exactly one of the fields, and at most `most`."""

    fixed: Seconds | None = None
    exponential: Seconds | None = None
    """Mean."""
    uniform: tuple[Seconds, Seconds] | None = None
    lognormal: tuple[Seconds, float] | None = None
    """Median, and standard deviation of the logarithm: 0.5 is a narrow, 1 a wide spread."""
    most: Seconds = Seconds(3600)

    def __post_init__(self) -> None:
        _exactly_one(self, but="most")
        if self.uniform is not None and self.uniform[0] > self.uniform[1]:
            raise ValueError(f"uniform: {self.uniform[0]:g} s is above {self.uniform[1]:g} s")
        if self.lognormal is not None and (self.lognormal[0] <= 0 or self.lognormal[1] < 0):
            raise ValueError("lognormal: the median must be above 0 and the spread at least 0")


class Hot(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A few customers who come far more often than others."""

    customers: Annotated[int, Meta(ge=1)] = 1
    share: Share
    """Of all requests that are theirs."""


class Customers(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who comes."""

    count: Annotated[int, Meta(ge=1, le=10_000_000)] = 10_000
    spread: Literal["uniform", "zipf"] = "uniform"
    exponent: Annotated[float, Meta(gt=0, le=5)] = 1.0
    """Of zipf: customer k comes in proportion to 1/k^exponent."""
    hot: Hot | None = None
    prefix: str = ""
    """Of their ids. Empty: a new one each run, so that runs compare: nobody is known from the run before."""
    profile: dict[str, bool | int | float | str | Draw] = {}
    """What the customer file says of them; told before the load begins."""

    def __post_init__(self) -> None:
        if self.hot is not None and self.hot.customers >= self.count:
            raise ValueError("hot.customers: must be fewer than count")


def draw_values(draw: Draw | Value, rng: np.random.Generator, count: int) -> list[Value]:
    """Draw so many values.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> draw_values("web", rng, 2), set(draw_values(Draw(whole=(1, 2)), rng, 50)) == {1, 2}
    (['web', 'web'], True)
    """
    if not isinstance(draw, Draw):
        return [draw] * count
    if draw.choice is not None:
        names = list(draw.choice)
        weights = np.array([*draw.choice.values()] if isinstance(draw.choice, dict) else [1.0] * len(names))
        return [names[i] for i in rng.choice(len(names), count, p=weights / weights.sum())]
    drawn: Any
    if draw.uniform is not None:
        drawn = rng.uniform(*draw.uniform, count)
    elif draw.whole is not None:
        drawn = rng.integers(*draw.whole, count, endpoint=True)
    elif draw.normal is not None:
        drawn = rng.normal(*draw.normal, count)
    else:
        assert draw.chance is not None
        drawn = rng.random(count) < draw.chance
    values: list[Value] = drawn.tolist()
    return values


def draw_dicts(draws: Mapping[str, Draw | Value], rng: np.random.Generator, count: int) -> list[dict[str, Value]]:
    """Draw so many sets of named values."""
    columns = [draw_values(draw, rng, count) for draw in draws.values()]
    return [dict(zip(draws, row, strict=True)) for row in zip(*columns, strict=True)] if columns else [{}] * count


def draw_delays_s(delay: Delay, rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Draw so many delays, seconds."""
    if delay.fixed is not None:
        drawn = np.full(count, float(delay.fixed))
    elif delay.exponential is not None:
        drawn = rng.exponential(delay.exponential, count)
    elif delay.uniform is not None:
        drawn = rng.uniform(*delay.uniform, count)
    else:
        assert delay.lognormal is not None
        median, spread = delay.lognormal
        drawn = median * np.exp(spread * rng.standard_normal(count))
    return np.asarray(np.minimum(drawn, delay.most))


def draw_customers(customers: Customers, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
    """Draw who comes: numbers from 0, the hot ones first, then the most frequent."""
    hot = customers.hot.customers if customers.hot else 0
    others = customers.count - hot
    if customers.spread == "zipf":
        sums = (1.0 / np.arange(1, others + 1) ** customers.exponent).cumsum()
        drawn = np.minimum(np.searchsorted(sums, rng.random(count) * sums[-1], side="right"), others - 1)
    else:
        drawn = rng.integers(0, others, count)
    drawn = drawn.astype(np.int64) + hot
    if customers.hot:
        drawn = np.where(rng.random(count) < customers.hot.share, rng.integers(0, hot, count), drawn)
    return np.asarray(drawn)


def _exactly_one(value: Struct, but: str = "") -> None:
    names = [name for name in value.__struct_fields__ if name != but]
    given = [name for name in names if getattr(value, name) is not None]
    if len(given) != 1:
        raise ValueError(f"needs exactly one of {', '.join(names)}, has {', '.join(given) or 'none'}")
