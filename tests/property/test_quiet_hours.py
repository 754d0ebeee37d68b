"""Quiet hours against a scan minute by minute of what the clock on the wall shows."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st

from nbx.catalog.model import QuietHours
from nbx.decision.quiet_hours import next_quiet, quiet
from tests.reference.guardrails import says_quiet

MINUTE_MS = 60_000
YEARS = (2009, 2027)
SCANNED = 2 * 1440
"""Minutes."""
ZONES = (
    "Europe/Berlin",
    "America/New_York",
    "America/Sao_Paulo",  # changes at midnight
    "Australia/Lord_Howe",  # by half an hour
    "Pacific/Apia",  # skipped a day
    "Africa/Casablanca",  # twice around Ramadan
    "Asia/Kathmandu",
    "UTC",
)
MINUTES = st.sampled_from([0, 1, 60, 90, 119, 120, 121, 150, 180, 480, 1260, 1380, 1439]) | st.integers(0, 1439)
HOURS = st.builds(
    QuietHours,
    from_minute=MINUTES,
    to_minute=MINUTES,
    days=st.lists(st.integers(0, 6), unique=True, max_size=7).map(tuple),
    channels=st.sampled_from([(), ("web",), ("web", "phone"), ("phone",)]),
)


@cache
def transitions(zone: str) -> tuple[int, ...]:
    """Return when a zone's offset changes, to six hours, epoch seconds; without any, the years' middle."""
    clock = ZoneInfo(zone)
    first, last = (int(datetime(year, 1, 1, tzinfo=clock).timestamp()) for year in YEARS)
    steps = range(first, last, 6 * 3600)
    offsets = [datetime.fromtimestamp(at_s, clock).utcoffset() for at_s in steps]
    changed = [at_s for at_s, before, after in zip(steps, offsets, offsets[1:], strict=False) if before != after]
    return tuple(changed) or ((first + last) // 2,)


@settings(max_examples=80, deadline=None)
@given(hours=st.lists(HOURS, min_size=1, max_size=3).map(tuple), zone=st.sampled_from(ZONES), data=st.data())
def test_quiet_is_what_the_clock_on_the_wall_says(
    hours: tuple[QuietHours, ...], zone: str, data: st.DataObject
) -> None:
    around_s = data.draw(st.sampled_from(transitions(zone)))
    start_s = (around_s - data.draw(st.integers(0, SCANNED)) * 60) // 60 * 60
    minutes = [(start_s + 60 * n) * 1000 for n in range(SCANNED)]
    statement = [says_quiet(hours, "web", zone, at_ms) for at_ms in minutes]
    end_ms = next_ms = 0  # of the scan so far, from its end backwards; 0: beyond it
    after = statement[-1]
    for at_ms, holds in zip(reversed(minutes), reversed(statement), strict=True):
        if holds != after:
            end_ms, next_ms = (at_ms + MINUTE_MS, next_ms) if holds else (end_ms, at_ms + MINUTE_MS)
        after = holds
        for now_ms in (at_ms, at_ms + MINUTE_MS - 1):
            found = quiet(hours, "web", zone, now_ms)
            assert (found > 0) == holds
            assert not holds or (found == end_ms if end_ms else found > minutes[-1])
            begins_ms = next_quiet(hours, "web", zone, now_ms)
            assert begins_ms == next_ms if next_ms else begins_ms == 0 or begins_ms > minutes[-1]
