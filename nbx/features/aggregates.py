"""Aggregates of behaviour events: one event folds in in O(window buckets), and the order of events does not matter.

Cells of each kind (a flat list, to be small when packed):

- count, sum: `[bucket, amount, bucket, amount, …]`, buckets ascending; a bucket is window / `limits.BUCKETS` long,
  numbered from the epoch. Those more than a window behind the newest are dropped, so a customer at rest costs what one
  window holds.
- last: `[value, at_ms]`; of events with equal times the larger value stays.
- time_since: `[at_ms]`.
- decayed_mean: `[Σ w·v, Σ w, at_ms]` with w = 2^(−age / half_life) as of at_ms.
"""

from __future__ import annotations

from collections.abc import Mapping

from nbx.features.schema import Aggregate, Value
from nbx.limits import BUCKETS

HOUR_MS = 3_600_000


def fold_event(aggregate: Aggregate, cells: list[Value], properties: Mapping[str, Value], at_ms: int) -> list[Value]:
    """Return the cells after one event of the aggregate's type.

    An event without the property the aggregate reads, or with one that is no number where a number is needed, changes
    nothing.

    Examples
    --------
    >>> visits = Aggregate(event="visit", kind="count", window_ms=24_000)
    >>> cells = fold_event(visits, [], {}, 5_000)
    >>> aggregate_value(visits, fold_event(visits, cells, {}, 5_500), 6_000)
    2.0
    """
    if aggregate.kind == "time_since":
        return [max(at_ms, _number(cells[0]) if cells else 0)]
    value: Value | None = properties.get(aggregate.property) if aggregate.property else 1.0
    if value is None:
        return cells
    if aggregate.kind == "last":
        newer = not cells or (at_ms, str(value)) > (_number(cells[1]), str(cells[0]))
        return [value, at_ms] if newer else cells
    if isinstance(value, str):
        return cells
    if aggregate.kind == "decayed_mean":
        return _fold_mean(cells, float(value), at_ms, aggregate.half_life_ms)
    return _fold_window(cells, 1.0 if aggregate.kind == "count" else float(value), at_ms, aggregate.window_ms)


def aggregate_value(aggregate: Aggregate, cells: list[Value] | None, now_ms: int) -> Value | None:
    """Return the feature's value now; None where there is nothing to tell, so that the default applies.

    A count or sum over an empty window is 0, not None: nothing happened, and that is known.
    """
    if not cells:
        return 0.0 if aggregate.kind in ("count", "sum") else None
    if aggregate.kind == "last":
        return cells[0]
    if aggregate.kind == "time_since":
        return max(now_ms - _number(cells[0]), 0) / HOUR_MS
    if aggregate.kind == "decayed_mean":
        return _number(cells[0]) / _number(cells[1])
    oldest = now_ms * BUCKETS // aggregate.window_ms - BUCKETS
    return float(sum(_number(cells[i + 1]) for i in range(0, len(cells), 2) if _number(cells[i]) > oldest))


def merge_cells(aggregate: Aggregate, mine: list[Value], theirs: list[Value]) -> list[Value]:
    """Return the cells of all the events that led to either; both must hold some.

    Examples
    --------
    >>> visits = Aggregate(event="visit", kind="count", window_ms=24_000)
    >>> merge_cells(visits, [5, 2.0], [5, 1.0, 6, 1.0])
    [5, 3.0, 6, 1.0]
    """
    if aggregate.kind == "time_since":
        return [max(_number(mine[0]), _number(theirs[0]))]
    if aggregate.kind == "last":
        return max(mine, theirs, key=lambda cells: (_number(cells[1]), str(cells[0])))
    if aggregate.kind == "decayed_mean":
        older, newer = sorted((mine, theirs), key=lambda cells: _number(cells[2]))
        decay = 2.0 ** ((_number(older[2]) - _number(newer[2])) / aggregate.half_life_ms)
        return [*(_number(newer[i]) + _number(older[i]) * decay for i in (0, 1)), newer[2]]
    amounts: dict[int, float] = {}
    for cells in (mine, theirs):
        for i in range(0, len(cells), 2):
            bucket = int(_number(cells[i]))
            amounts[bucket] = amounts.get(bucket, 0.0) + _number(cells[i + 1])
    return _window_cells(amounts)


def _fold_window(cells: list[Value], amount: float, at_ms: int, window_ms: int) -> list[Value]:
    bucket = at_ms * BUCKETS // window_ms
    amounts = {int(_number(cells[i])): _number(cells[i + 1]) for i in range(0, len(cells), 2)}
    amounts[bucket] = amounts.get(bucket, 0.0) + amount
    return _window_cells(amounts)


def _window_cells(amounts: Mapping[int, float]) -> list[Value]:
    oldest = max(amounts) - BUCKETS
    return [cell for number in sorted(amounts) if number > oldest for cell in (number, amounts[number])]


def _fold_mean(cells: list[Value], value: float, at_ms: int, half_life_ms: int) -> list[Value]:
    if not cells:
        return [value, 1.0, at_ms]
    total, weight, as_of = _number(cells[0]), _number(cells[1]), _number(cells[2])
    if at_ms >= as_of:
        decay = 2.0 ** ((as_of - at_ms) / half_life_ms)
        return [total * decay + value, weight * decay + 1.0, at_ms]
    late = 2.0 ** ((at_ms - as_of) / half_life_ms)
    return [total + value * late, weight + late, as_of]


def _number(cell: Value) -> float | int:
    assert not isinstance(cell, str)
    return cell
