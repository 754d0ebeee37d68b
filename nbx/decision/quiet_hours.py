"""Quiet hours: when a customer's own clock says that nobody is prompted now.

Quiet is a statement about what the clock on the customer's wall shows: an instant is quiet when its weekday and minute
lie in the hours. So a repeated hour counts in both its passes and a skipped one in none, and a span ends where the
statement stops being true, wherever the zone's offset jumps in between. Spans are found per UTC day and kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

from nbx.catalog.model import QuietHours
from nbx.features.schema import Value

FOREVER_MS = 253_402_300_799_000
"""End of quiet hours that leave no minute of the week: the last second of the year 9999."""
_MINUTE_MS = 60_000
_HOUR_MS = 60 * _MINUTE_MS
_DAY_MS = 24 * _HOUR_MS
_WEEK_MS = 7 * _DAY_MS
_MONDAY_MS = 4 * _DAY_MS
"""A Monday, midnight, in local milliseconds."""
_LOOK_DAYS = 16
"""Every minute of the week is shown within two weeks, even where a zone skipped a whole day."""


def known_zone(name: str) -> bool:
    """Tell whether a name is an IANA time zone; any text may be asked.

    Examples
    --------
    >>> known_zone("Europe/Berlin"), known_zone("Berlin"), known_zone("../etc/passwd")
    (True, False, False)
    """
    return _zone(name) is not None


def zone_of(value: Value | None, otherwise: str) -> str:
    """Return the zone of a customer: what the profile says when that is a time zone, else the catalog's.

    Examples
    --------
    >>> zone_of("Asia/Kathmandu", "UTC"), zone_of("Atlantis", "UTC"), zone_of(None, "UTC")
    ('Asia/Kathmandu', 'UTC', 'UTC')
    """
    return value if isinstance(value, str) and known_zone(value) else otherwise


def quiet(hours: tuple[QuietHours, ...], channel: str, zone: str, now_ms: int) -> int:
    """Return when the quiet hours that hold now are over, epoch milliseconds; 0 when none hold.

    Hours that meet or overlap are one; those that never end are over at `FOREVER_MS`.

    Parameters
    ----------
    hours
        The catalog's.
    channel
        That wants to prompt.
    zone
        Where the customer is; a `known_zone`.
    now_ms
        Epoch milliseconds.

    Raises
    ------
    zoneinfo.ZoneInfoNotFoundError, ValueError
        The zone is not known.

    Examples
    --------
    >>> night = (QuietHours(from_minute=21 * 60, to_minute=8 * 60),)
    >>> noon_ms = 1_767_225_600_000 + 12 * 3_600_000  # of the first day of 2026, UTC
    >>> quiet(night, "phone", "Europe/Berlin", noon_ms)
    0
    >>> (quiet(night, "phone", "Asia/Tokyo", noon_ms) - noon_ms) / 3_600_000  # 21:00 there
    11.0
    """
    if hours:
        for begin_ms, end_ms in _spans(hours, channel, zone, now_ms // _DAY_MS):
            if begin_ms > now_ms:
                break
            if now_ms < end_ms:
                return end_ms
    return 0


def next_quiet(hours: tuple[QuietHours, ...], channel: str, zone: str, now_ms: int) -> int:
    """Return when quiet hours next begin, later than now, epoch milliseconds; 0 when they never do.

    Parameters and errors are those of `quiet`.

    Examples
    --------
    >>> night = (QuietHours(from_minute=21 * 60, to_minute=8 * 60, channels=("phone",)),)
    >>> noon_ms = 1_767_225_600_000 + 12 * 3_600_000
    >>> (next_quiet(night, "phone", "Europe/Berlin", noon_ms) - noon_ms) / 3_600_000  # 13:00 there
    8.0
    >>> next_quiet(night, "web", "Europe/Berlin", noon_ms)
    0
    """
    if hours:
        for begin_ms, _ in _spans(hours, channel, zone, now_ms // _DAY_MS):
            if begin_ms > now_ms:
                return begin_ms
    return 0


@lru_cache(maxsize=1024)
def _zone(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # what a text that is no name of a zone can lead to
        return None


@lru_cache(maxsize=4096)
def _spans(hours: tuple[QuietHours, ...], channel: str, zone: str, day: int) -> tuple[tuple[int, int], ...]:
    """Return the quiet spans that meet a UTC day, from its start on, and (less far than it goes) the next one."""
    pattern = _pattern(hours, channel)
    spans: list[tuple[int, int]] = []
    if not pattern:
        return ()
    for each in range(day, day + _LOOK_DAYS):
        for begin_ms, end_ms in _quiet_on(pattern, zone, each):
            if spans and begin_ms <= spans[-1][1]:
                spans[-1] = (spans[-1][0], max(spans[-1][1], end_ms))
            else:
                spans.append((begin_ms, end_ms))
        if spans and spans[-1][0] >= (day + 1) * _DAY_MS:
            return tuple(spans)
    # a span that was never left has no end
    return tuple((b, FOREVER_MS if e == (day + _LOOK_DAYS) * _DAY_MS else e) for b, e in spans)


@lru_cache(maxsize=256)
def _pattern(hours: tuple[QuietHours, ...], channel: str) -> tuple[tuple[int, int], ...]:
    """Return begin and end of a channel's quiet hours, milliseconds since Monday; the end may be in the next week."""
    found = []
    for each in hours:
        if channel in each.channels or not each.channels:
            minutes = (each.to_minute - each.from_minute - 1) % 1440 + 1
            for weekday in each.days or range(7):
                begin_ms = weekday * _DAY_MS + each.from_minute * _MINUTE_MS
                found.append((begin_ms, begin_ms + minutes * _MINUTE_MS))
    return tuple(found)


def _quiet_on(pattern: tuple[tuple[int, int], ...], zone: str, day: int) -> list[tuple[int, int]]:
    """Return what of a UTC day is quiet, by begin; neighbours may meet or overlap."""
    found = []
    starts = _offsets(zone, day)
    ends = (*(start_ms for start_ms, _ in starts[1:]), (day + 1) * _DAY_MS)
    for (start_ms, offset_ms), end_ms in zip(starts, ends, strict=True):
        monday_ms = start_ms - (start_ms + offset_ms - _MONDAY_MS) % _WEEK_MS  # as an instant
        for week_ms in (monday_ms - _WEEK_MS, monday_ms, monday_ms + _WEEK_MS):
            for from_ms, to_ms in pattern:
                span = (max(start_ms, week_ms + from_ms), min(end_ms, week_ms + to_ms))
                if span[0] < span[1]:
                    found.append(span)
    return sorted(found)


@lru_cache(maxsize=16384)
def _offsets(zone: str, day: int) -> tuple[tuple[int, int], ...]:
    """Return the offsets from UTC in force on a UTC day: since when and how many milliseconds, earliest first."""
    return tuple(_changes(ZoneInfo(zone), day))


def _changes(zone: ZoneInfo, day: int) -> Iterator[tuple[int, int]]:
    start_s = day * 86_400
    offset_s = _offset_s(zone, start_s)
    yield start_s * 1000, offset_s * 1000
    for hour_s in range(start_s, start_s + 86_400, 3600):
        last_s = hour_s + 3599
        if (after_s := _offset_s(zone, last_s)) == offset_s:
            continue
        before_s = max(hour_s - 1, start_s)  # no zone changes twice within an hour
        while last_s - before_s > 1:
            middle_s = (before_s + last_s) // 2
            if _offset_s(zone, middle_s) == offset_s:
                before_s = middle_s
            else:
                last_s = middle_s
        offset_s = after_s
        yield last_s * 1000, offset_s * 1000


def _offset_s(zone: ZoneInfo, at_s: int) -> int:
    offset = datetime.fromtimestamp(at_s, zone).utcoffset()
    assert offset is not None
    return round(offset.total_seconds())
