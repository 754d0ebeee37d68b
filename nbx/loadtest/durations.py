"""Durations in scenario files: `250ms`, `1.5s`, `2m`, or a number of seconds."""

from __future__ import annotations

import re
from typing import Any

_UNITS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*(us|ms|s|m|h)")


class Seconds(float):
    """A length of time, seconds >= 0."""


def seconds(value: Any) -> Seconds:
    """Read a duration.

    Raises
    ------
    ValueError
        It is none; says what one looks like.

    Examples
    --------
    >>> seconds("250ms"), seconds("2m"), seconds(3)
    (0.25, 120.0, 3.0)
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9:
        return Seconds(value)
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r} is no duration such as 250ms, 10s or 5m")
    return Seconds(float(match[1]) * _UNITS_S[match[2]])


def written(length_s: float) -> str:
    """Write a duration for people, to three digits.

    Examples
    --------
    >>> written(0.25), written(90), written(0.0000213), written(0)
    ('250 ms', '90 s', '21.3 µs', '0 s')
    """
    if length_s == 0 or length_s >= 1:
        return f"{length_s:.3g} s" if length_s < 1000 else f"{length_s:.0f} s"
    return f"{length_s * 1e3:.3g} ms" if length_s >= 1e-3 else f"{length_s * 1e6:.3g} µs"
