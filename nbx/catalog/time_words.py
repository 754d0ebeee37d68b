"""Durations and times as people say them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo

_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}
_DURATION = re.compile(r"([0-9]{1,15})(ms|s|m|h|d|w)")
_UNITS = (("day", 86_400_000), ("hour", 3_600_000), ("minute", 60_000), ("second", 1000))
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def duration_ms(text: str) -> int | None:
    """Read a duration such as `90m` or `7d`, in milliseconds; None where it is none.

    Examples
    --------
    >>> duration_ms("7d"), duration_ms("500ms"), duration_ms("a week")
    (604800000, 500, None)
    """
    match = _DURATION.fullmatch(text)
    return int(match[1]) * _UNITS_MS[match[2]] if match else None


def duration(ms: int) -> str:
    """Write a duration; exact, "none" for 0.

    Examples
    --------
    >>> duration(7 * 86_400_000), duration(5_400_000), duration(500), duration(0)
    ('7 days', '1 hour 30 minutes', '500 ms', 'none')
    """
    parts, rest = [], ms
    for unit, size in _UNITS:
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count:,} {unit}{'' if count == 1 else 's'}")
    if rest:
        parts.append(f"{rest} ms")
    return " ".join(parts) or "none"


def per(ms: int) -> str:
    """Write the length of a window after "per".

    Examples
    --------
    >>> per(86_400_000), per(7 * 86_400_000)
    ('day', '7 days')
    """
    words = duration(ms)
    return words.removeprefix("1 ") if words.count(" ") == 1 else words


def moment(ms: int, zone: tzinfo | None = None) -> str:
    """Write a time; None: in UTC, which is then told.

    Examples
    --------
    >>> from zoneinfo import ZoneInfo
    >>> moment(1_798_131_600_000, ZoneInfo("Europe/Berlin")), moment(1_798_156_800_000)
    ('24 Dec 2026, 18:00', '25 Dec 2026 UTC')
    """
    try:
        at = (_EPOCH + timedelta(milliseconds=ms)).astimezone(zone or UTC)
    except OverflowError:
        return f"{ms} ms since 1970"
    words = f"{at.day} {at:%b} {at.year}"
    if at.microsecond:
        words += f", {at:%H:%M:%S}.{at.microsecond // 1000:03d}"
    elif at.second:
        words += f", {at:%H:%M:%S}"
    elif at.hour or at.minute:
        words += f", {at:%H:%M}"
    return words if zone else f"{words} UTC"
