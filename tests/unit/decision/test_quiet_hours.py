from __future__ import annotations

import timeit
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from nbx.catalog.model import QuietHours
from nbx.decision.quiet_hours import FOREVER_MS, known_zone, next_quiet, quiet, zone_of

HOUR_MS = 3_600_000
NIGHT = (QuietHours(from_minute=21 * 60, to_minute=8 * 60),)
BERLIN = "Europe/Berlin"


def at(text: str, zone: str = "UTC", fold: int = 0) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp() * 1000)


@pytest.mark.parametrize(
    ("evening", "morning", "hours"),
    [
        ("2026-01-10T21:00", "2026-01-11T08:00", 11),
        ("2026-03-28T21:00", "2026-03-29T08:00", 10),  # an hour is skipped
        ("2026-10-24T21:00", "2026-10-25T08:00", 12),  # an hour is repeated
    ],
)
def test_a_night_is_as_long_as_the_clock_says(evening: str, morning: str, hours: int) -> None:
    begin_ms, end_ms = at(evening, BERLIN), at(morning, BERLIN)
    assert end_ms - begin_ms == hours * HOUR_MS
    assert quiet(NIGHT, "phone", BERLIN, begin_ms - 1) == 0
    assert quiet(NIGHT, "phone", BERLIN, begin_ms) == end_ms
    assert quiet(NIGHT, "phone", BERLIN, end_ms - 1) == end_ms
    assert quiet(NIGHT, "phone", BERLIN, end_ms) == 0
    assert next_quiet(NIGHT, "phone", BERLIN, begin_ms - 1) == begin_ms
    assert next_quiet(NIGHT, "phone", BERLIN, begin_ms) == at(evening, BERLIN) + (24 + hours - 11) * HOUR_MS


def test_a_repeated_hour_counts_twice_and_a_skipped_one_not_at_all() -> None:
    hours = (QuietHours(from_minute=2 * 60, to_minute=2 * 60 + 30),)
    first_ms, second_ms = (at("2026-10-25T02:00", BERLIN, fold) for fold in (0, 1))
    assert second_ms - first_ms == HOUR_MS
    for begin_ms in (first_ms, second_ms):
        assert quiet(hours, "web", BERLIN, begin_ms) == begin_ms + HOUR_MS // 2
    assert quiet(hours, "web", BERLIN, first_ms + HOUR_MS // 2) == 0
    assert next_quiet(hours, "web", BERLIN, first_ms) == second_ms
    assert next_quiet(hours, "web", BERLIN, at("2026-03-28T02:00", BERLIN)) == at("2026-03-30T02:00", BERLIN)


def test_days_are_those_on_which_they_begin() -> None:
    friday = (QuietHours(from_minute=22 * 60, to_minute=6 * 60, days=(4,)),)
    assert quiet(friday, "web", "UTC", at("2026-01-09T23:00")) == at("2026-01-10T06:00")
    assert quiet(friday, "web", "UTC", at("2026-01-10T05:59")) == at("2026-01-10T06:00")
    assert quiet(friday, "web", "UTC", at("2026-01-09T05:00")) == 0, "belongs to Thursday"
    assert quiet(friday, "web", "UTC", at("2026-01-10T23:00")) == 0
    assert next_quiet(friday, "web", "UTC", at("2026-01-09T22:00")) == at("2026-01-16T22:00")


def test_the_day_that_a_zone_skipped_has_no_hours() -> None:
    friday = (QuietHours(from_minute=10 * 60, to_minute=11 * 60, days=(4,)),)
    assert next_quiet(friday, "web", "Pacific/Apia", at("2011-12-23T12:00", "Pacific/Apia")) == at(
        "2012-01-06T10:00", "Pacific/Apia"
    )
    night_ms = at("2011-12-29T21:00", "Pacific/Apia")
    assert (
        quiet(NIGHT, "web", "Pacific/Apia", night_ms)
        == night_ms + 11 * HOUR_MS
        == at("2011-12-31T08:00", "Pacific/Apia")
    )


def test_equal_times_are_a_whole_day_and_neighbours_are_one() -> None:
    sunday = (QuietHours(from_minute=0, to_minute=0, days=(6,)),)
    assert quiet(sunday, "web", "UTC", at("2026-01-11T00:00")) == at("2026-01-12T00:00")
    meeting = (
        QuietHours(from_minute=22 * 60, to_minute=0),
        QuietHours(from_minute=0, to_minute=6 * 60),
        QuietHours(from_minute=5 * 60, to_minute=7 * 60, days=(0,)),
    )
    assert quiet(meeting, "web", "UTC", at("2026-01-11T22:00")) == at("2026-01-12T07:00")
    assert quiet(meeting, "web", "UTC", at("2026-01-12T22:00")) == at("2026-01-13T06:00")
    assert next_quiet(meeting, "web", "UTC", at("2026-01-11T22:00")) == at("2026-01-12T22:00")


def test_hours_within_others_end_with_them() -> None:
    hours = (QuietHours(from_minute=20 * 60, to_minute=23 * 60), QuietHours(from_minute=21 * 60, to_minute=22 * 60))
    assert quiet(hours, "web", "UTC", at("2026-01-11T20:00")) == at("2026-01-11T23:00")


def test_an_offset_may_change_at_any_second() -> None:
    """In Monrovia 44:30 minutes after midnight UTC, when the clock there was about to show midnight."""
    hours = (QuietHours(from_minute=44, to_minute=50),)
    begin_ms = at("1972-01-07T00:44:30")
    assert next_quiet(hours, "web", "Africa/Monrovia", at("1972-01-06T12:00")) == begin_ms
    assert quiet(hours, "web", "Africa/Monrovia", begin_ms - 1) == 0
    assert quiet(hours, "web", "Africa/Monrovia", begin_ms) == at("1972-01-07T00:50:00")


def test_hours_without_end() -> None:
    always = (QuietHours(from_minute=9 * 60, to_minute=9 * 60, channels=("phone",)),)
    for zone in (BERLIN, "Pacific/Apia"):
        assert quiet(always, "phone", zone, at("2011-12-25T00:00")) == FOREVER_MS
        assert next_quiet(always, "phone", zone, at("2011-12-25T00:00")) == 0


def test_only_of_their_channels() -> None:
    phone = (QuietHours(from_minute=21 * 60, to_minute=8 * 60, channels=("phone", "email")),)
    midnight_ms = at("2026-01-11T00:00")
    assert quiet(phone, "email", "UTC", midnight_ms) == quiet(phone, "phone", "UTC", midnight_ms) > 0
    assert quiet(phone, "web", "UTC", midnight_ms) == next_quiet(phone, "web", "UTC", midnight_ms) == 0
    assert quiet((), "web", "UTC", midnight_ms) == next_quiet((), "web", "UTC", midnight_ms) == 0


@pytest.mark.parametrize("name", ["", "Berlin", "America", "../UTC", "/etc/localtime", "a\0b", "\ud800", "x" * 5000])
def test_what_is_no_zone(name: str) -> None:
    assert not known_zone(name)
    assert zone_of(name, BERLIN) == BERLIN


def test_the_zone_of_a_customer() -> None:
    assert known_zone("Asia/Kathmandu")
    assert zone_of("Asia/Kathmandu", BERLIN) == "Asia/Kathmandu"
    assert zone_of(None, BERLIN) == zone_of(True, BERLIN) == zone_of(3.0, BERLIN) == BERLIN


def test_asking_again_is_quick() -> None:
    """2 µs each where nothing else runs; here the bound only tells keeping from computing."""
    noon_ms = at("2026-01-11T12:00")
    calls = 2000
    taken_s = min(timeit.repeat(lambda: quiet(NIGHT, "phone", BERLIN, noon_ms), number=calls, repeat=5))
    assert taken_s / calls < 20e-6
