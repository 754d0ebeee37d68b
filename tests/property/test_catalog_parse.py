from __future__ import annotations

import time
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from nbx.catalog.conditions import ConditionError, check_condition, compile_condition, vocabulary
from nbx.catalog.model import Catalog
from nbx.catalog.parse import CatalogFaults, Finding, parse_catalog

EXAMPLE = (Path(__file__).parents[2] / "examples" / "retail_bank.yaml").read_text()
LINES = EXAMPLE.splitlines(keepends=True)
CATALOG = parse_catalog(EXAMPLE)
SPLICES = st.sampled_from(
    [
        "- ",
        "? ",
        "*a",
        "&a ",
        "!x ",
        "{",
        "}",
        "[",
        "]",
        ": ",
        "\n",
        "'",
        '"',
        "|",
        "0",
        "-",
        ".inf",
        "~",
        "é",
        "\t",
        "#",
        "{}",
        "[]",
        "2026-02-30",
        "%TAG",
        "¶",
    ]
) | st.text(max_size=5)
WORDS = (
    st.sampled_from(
        ["customer", ".", "age", "tier", "customer.age", "request.hour", "relationship.balance", "request", "concern"]
    )
    | st.sampled_from(["(", ")", "[", "]", "{", "}", ",", "?", ":", "&&", "||", "!", "==", "<", "+", "-", "in", "//"])
    | st.sampled_from(["true", "null", "1", "1.5", "'a'", "r'\\'", "b'x'", '"""', "'", '"', "\n", "é"])
    | st.sampled_from(["exists(", ".all(x,", "has(", "size(", ".map("])
)


def findings_of(text: str) -> tuple[Finding, ...]:
    try:
        catalog = parse_catalog(text)
    except CatalogFaults as faults:
        return faults.findings
    assert msgspec.json.decode(msgspec.json.encode(catalog), type=Catalog) == catalog
    return ()


def check(text: str) -> None:
    start = time.process_time()
    findings = findings_of(text)
    assert time.process_time() - start < 1.0
    lines = sum(text.count(sign) for sign in "\n\r\x85\u2028\u2029")
    assert all(0 <= each.line <= lines + 2 and each.message and str(each) for each in findings)


@settings(deadline=None, max_examples=200)
@given(st.text())
def test_any_text_is_a_catalog_or_faults(text: str) -> None:
    check(text)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.integers(0, len(EXAMPLE)), st.integers(0, 20), SPLICES), min_size=1, max_size=4))
def test_a_damaged_catalog_is_a_catalog_or_faults(edits: list[tuple[int, int, str]]) -> None:
    text = EXAMPLE
    for start, length, splice in edits:
        text = text[:start] + splice + text[start + length :]
    check(text)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, len(LINES) - 1), max_size=10), st.integers(0, len(LINES)))
def test_lines_left_out_and_repeated(moved: list[int], cut: int) -> None:
    check("".join(LINES[:cut] + [LINES[i] for i in moved] + LINES[cut + len(moved) :]))


@settings(deadline=None, max_examples=400)
@given(st.lists(WORDS, max_size=12).map(" ".join) | st.text(max_size=30))
def test_any_condition_is_good_or_has_faults_inside_it(source: str) -> None:
    words = vocabulary(CATALOG.features, CATALOG.journeys, CATALOG.concerns, CATALOG.placements)
    faults = check_condition(source, words)
    assert all(0 <= fault.offset <= len(source) and fault.message for fault in faults)
    if not faults:
        assert compile_condition(source).paths <= words.keys()
    else:
        try:
            compile_condition(source)
        except ConditionError:
            assert faults[0].code == "condition_syntax"


ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "Africa/Cairo")


def days_of_change(zone: str) -> list[datetime]:
    """Midnights of the days since 2000 on which a zone's clocks change."""
    days = [datetime.fromisoformat("2000-01-02") + timedelta(days=number) for number in range(27 * 366)]
    offsets = [day.replace(tzinfo=ZoneInfo(zone)).utcoffset() for day in days]
    return [day for day, now, then in zip(days, offsets, offsets[1:], strict=False) if now != then]


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from([(zone, day) for zone in ZONES for day in days_of_change(zone)]),
    st.integers(0, 28 * 60),
)
def test_a_local_time_is_its_first_moment_or_as_much_later(change: tuple[str, datetime], minutes: int) -> None:
    zone, at = change[0], change[1] + timedelta(minutes=minutes)

    def shown(ms: int) -> datetime:
        return datetime.fromtimestamp(ms / 1000, ZoneInfo(zone)).replace(tzinfo=None)

    text = f"catalog: a\ntime_zone: {zone}\ngroups: {{g: {{starts: {at:%Y-%m-%dT%H:%M}}}}}"
    [group] = parse_catalog(text).groups
    late = shown(group.starts_ms) - at
    if not late:
        assert all(shown(group.starts_ms - back * 60_000) != at for back in (30, 60))
    else:
        assert late in (timedelta(minutes=30), timedelta(hours=1), timedelta(days=1)), "what the clock was put forward"
        assert shown(group.starts_ms - late // timedelta(milliseconds=1)) < at, "the time itself is never shown"
