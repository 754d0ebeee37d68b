"""Typed readers: nodes to values, each with its own form and bounds.

A reader that meets a wrong value reports it and goes on with a default: hence all faults of a file in one run.
"""

from __future__ import annotations

import math
import re
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, TypeVar
from zoneinfo import ZoneInfo

from nbx import limits
from nbx.catalog.conditions import CONDITION_LENGTH, did_you_mean
from nbx.catalog.findings import Finding
from nbx.catalog.nodes import Node, Sink
from nbx.catalog.time_words import duration_ms

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nbx.features.schema import Value

DURATION_MS = 3650 * 86_400_000
"""Longest duration, ten years: sums of several stay far inside 64 bits."""
WHOLE = 1 << 53
"""Whole numbers in content stay below this: JavaScript would round them."""
NUMBER_LENGTH = 400
"""Characters of the longest number: the digits of the largest float, and some."""
ENTRIES = 10_000
"""Most entries of one list or of one mapping of names."""
BUDGET = 10**12
"""Most units of a budget. Like `COST` so that sums of all parts stay below `WHOLE`: Redis scripts count in floats."""
COST = 1e11
"""Largest cost of an action and largest money of a budget; 10^15 parts of `limits.MONEY_PARTS`."""
FACTOR = 1000.0
"""Largest lever or weight: sixteen of them and a worth of 10^12 still multiply to a finite number."""
YEARS = (2000, 2199)
"""First and last year of a date: others are slips of the finger."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_NUMBER = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2})?(?:Z|[-+][0-9]{2}:[0-9]{2})?)?")
_CLOCK = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")
_NOT_FINITE = re.compile(r"[-+]?\.?(?:inf|infinity|nan)", re.IGNORECASE)

_Word = TypeVar("_Word", bound=str)


class Reader:
    """Typed readers: a node that is missing or broken gives `otherwise`, a wrong one too and a finding."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.zone = ZoneInfo("UTC")
        """Of dates and times without an offset."""

    def fields(self, node: Node | None, known: Sequence[str], *, required: Sequence[str] = ()) -> dict[str, Node]:
        """Return the values of a mapping with fixed keys."""
        found: dict[str, Node] = {}
        for key, value in self._entries(node):
            if key.text in known:
                found[key.text] = value
            else:
                near = "" if self.sink.full else did_you_mean(key.text, known)
                hint = near or f" There are {', '.join(known)}"
                self.sink.add(key, "unknown_key", f"unknown key.{hint}")
        if node is not None and node.kind == "map":
            for name in required:
                if name not in found:
                    self.missing(node, name, "is missing: add it")
        return found

    def missing(self, node: Node, name: str, message: str) -> None:
        """Report that a mapping lacks a key."""
        path = f"{node.path}.{name}".lstrip(".")
        self.sink.add_at(Finding(path=path, code="missing", message=message), (node.line, node.column))

    def named(self, node: Node | None) -> Iterator[tuple[str, Node]]:
        """Yield name and value of a mapping whose keys are declared names."""
        for key, value in self._entries(self.few(node, ENTRIES)):
            if self._check_name(key):
                yield key.text, value

    def any_named(self, node: Node | None, *, most: int) -> Iterator[tuple[str, Node]]:
        """Yield name and value of a mapping whose keys are free text."""
        for key, value in self._entries(node):
            if not key.text.strip():
                self.fault(key, "missing", "must not be empty")
            elif len(key.text) > most:
                self.fault(key, "too_long", f"must have at most {most} characters, has {len(key.text)}")
            else:
                yield key.text, value

    def items(self, node: Node | None) -> Sequence[Node]:
        """Return the members of a list."""
        node = self.few(node, ENTRIES)
        if node is None or node.kind in ("broken", "list"):
            return node.items if node else ()
        self._wrong(node, "must be a list, such as [a, b]")
        return ()

    def few(self, node: Node | None, most: int) -> Node | None:
        """Return a list or mapping that may have so many entries; None when it has more."""
        count = len(node.items) + len(node.entries) if node is not None else 0
        if node is None or count <= most:
            return node
        self.fault(node, "too_many", f"must have at most {most} entries, has {count}")
        return None

    def some(self, node: Node | None) -> Sequence[Node]:
        """Return the members of a list that must have one, and none twice."""
        found = self.items(node)
        if node is not None and node.kind == "list" and not found:
            self.fault(node, "missing", "must name at least one")
        before: set[str] = set()
        for item in found:
            if item.kind == "scalar" and item.text in before:
                self.fault(item, "duplicate", f"{short(item)} is listed twice: keep one")
            before.add(item.text)
        return found

    def names(self, node: Node | None) -> tuple[str, ...]:
        """Return a list of different names, "" for what is none."""
        return tuple(self.name(item) for item in self.some(node))

    def choices(self, node: Node | None, options: Sequence[_Word]) -> tuple[_Word, ...]:
        """Return a list of different words of some."""
        return tuple(self.choice(item, options, options[0]) for item in self.some(node))

    def name(self, node: Node | None) -> str:
        """Return a declared or declarable name."""
        if node is None or node.kind == "broken":
            return ""
        if node.kind != "scalar":
            self._wrong(node, "must be a name")
            return ""
        return node.text if self._check_name(node) else ""

    def text(self, node: Node | None, *, most: int = limits.TEXT_LENGTH) -> str:
        """Return text."""
        if node is None or node.kind == "broken":
            return ""
        value = scalar(node) if node.kind == "scalar" else None
        if not isinstance(value, str):
            self._wrong(node, "must be text" + (": put it in quotes" if value is not None else ""))
            return ""
        if len(value) > most:
            self.sink.add(node, "too_long", f"must have at most {most} characters, has {len(value)}")
            return ""
        return value

    def event(self, node: Node | None) -> str:
        """Return the type of an event, or the name of one of its properties."""
        value = self.text(node, most=limits.NAME_LENGTH)
        if node is not None and node.kind == "scalar" and not node.text.strip():
            self.fault(node, "missing", "must not be empty")
        return value

    def condition(self, node: Node | None, *, needed: bool = False) -> str:
        """Return a condition's source; `needed`: it must not be empty."""
        if needed and node is not None and node.kind == "scalar" and not node.text.strip():
            self.fault(node, "missing", "must not be empty")
            return ""
        if node is not None and node.kind == "scalar" and node.text in ("true", "false") and not node.style:
            return node.text
        return self.text(node, most=CONDITION_LENGTH)

    def number(self, node: Node | None, otherwise: float, *, least: float = -math.inf, most: float = math.inf) -> float:
        """Return a finite number within bounds, both included."""
        if node is None or node.kind == "broken":
            return otherwise
        value = scalar(node) if node.kind == "scalar" else None
        if isinstance(value, bool) or not isinstance(value, int | float):
            if node.kind == "scalar" and _NOT_FINITE.fullmatch(node.text):
                self.sink.add(node, "not_finite", f"must be a finite number, found {node.text}")
            else:
                self._wrong(node, "must be a number")
            return otherwise
        if not math.isfinite(value):
            self.sink.add(node, "not_finite", f"must be a finite number, found {node.text[:40]}")
            return otherwise
        if not least <= value <= most:
            bounds = f">= {least:g}" if value < least else f"<= {most:g}"
            self.sink.add(node, "range", f"must be {bounds}, found {node.text[:40]}")
            return otherwise
        return float(value)

    def above_zero(self, node: Node | None, otherwise: float, *, most: float = math.inf) -> float:
        """Return a finite number > 0."""
        value = self.number(node, otherwise, most=most)
        if value <= 0 and node is not None:
            self.sink.add(node, "range", f"must be > 0, found {node.text[:40]}")
            return otherwise
        return value

    def whole(self, node: Node | None, otherwise: int, *, least: int, most: int) -> int:
        """Return a whole number within bounds, both included."""
        value = self.number(node, otherwise, least=least, most=most)
        if node is not None and not float(value).is_integer():
            self.sink.add(node, "range", f"must be a whole number, found {node.text[:40]}")
            return otherwise
        return int(value)

    def duration(self, node: Node | None, otherwise: int, *, least: int = 1) -> int:
        """Return milliseconds."""
        if node is None or node.kind == "broken":
            return otherwise
        ms = duration_ms(node.text) if node.kind == "scalar" else None
        if ms is None:
            self._wrong(node, "must be a duration: a whole number with ms, s, m, h, d or w, such as 30s, 12h or 7d")
            return otherwise
        if not least <= ms <= DURATION_MS:
            bounds = "longer than 0" if ms < least else "at most 3650d"
            self.sink.add(node, "range", f"must be {bounds}, found {node.text}")
            return otherwise
        return ms

    def money(self, node: Node | None, otherwise: float) -> float:
        """Return an amount ≥ 0 that whole parts of `limits.MONEY_PARTS` express."""
        value = self.number(node, otherwise, least=0.0, most=COST)
        if node is not None and round(value * limits.MONEY_PARTS) / limits.MONEY_PARTS != value:
            self.fault(node, "range", f"must have at most 4 decimals, found {node.text[:40]}")
            return otherwise
        return value

    def minute(self, node: Node | None, *, last: bool = False) -> int:
        """Return a minute of the day; `last`: 24:00 is one too, the next midnight."""
        if node is None or node.kind == "broken":
            return 0
        match = _CLOCK.fullmatch(node.text) if node.kind == "scalar" else None
        if match is not None:
            return int(match[1]) * 60 + int(match[2])
        if not (last and node.kind == "scalar" and node.text == "24:00"):
            self._wrong(node, 'must be a time of day, such as "21:30"')
        return 0

    def moment(self, node: Node | None, otherwise: int = 0) -> int:
        """Return epoch milliseconds of a date, or of a time in the catalog's zone or with an offset.

        A local time that comes twice is its first; one that is skipped is as much later as clocks are put forward.
        """
        if node is None or node.kind == "broken":
            return otherwise
        try:
            when = datetime.fromisoformat(node.text if _MOMENT.fullmatch(node.text) else "")
        except ValueError:
            self._wrong(node, "must be a date or a time, such as 2026-12-24, 2026-12-24T18:00 or 2026-12-24T18:00:00Z")
            return otherwise
        if not YEARS[0] <= when.year <= YEARS[1]:
            self.fault(node, "range", f"must lie between {YEARS[0]} and {YEARS[1]}, found {node.text}")
            return otherwise
        return int((when if when.tzinfo else when.replace(tzinfo=self.zone)).timestamp() * 1000)

    def use_zone(self, node: Node | None) -> str:
        """Return the name of a time zone, in which from now on times are read."""
        if node is None or node.kind == "broken":
            return self.zone.key
        if node.kind == "scalar" and node.text in time_zones():
            self.zone = ZoneInfo(node.text)
            return node.text
        city = f"/{node.text[:64].strip().replace(' ', '_')}".lower()
        near = sorted(name for name in time_zones() if f"/{name}".lower().endswith(city))
        hint = f" Did you mean `{near[0]}`?" if near and node.text else did_you_mean(node.text, sorted(time_zones()))
        self._wrong(node, "must be an IANA time zone, such as Europe/Berlin", hint)
        return self.zone.key

    def boolean(self, node: Node | None) -> bool:
        """Return true or false; false otherwise."""
        return self.choice(node, ("true", "false"), "false") == "true"

    def value(self, node: Node) -> Value:
        """Return the value of a feature."""
        found = scalar(node) if node.kind == "scalar" else None
        if isinstance(found, bool):
            return found
        if isinstance(found, int | float):
            return self.number(node, 0.0)
        if found is None and node.kind != "broken":
            self._wrong(node, "must be a number, text, true or false")
        return self.text(node)

    def choice(self, node: Node | None, options: Sequence[_Word], otherwise: _Word) -> _Word:
        """Return one of some words."""
        if node is None or node.kind == "broken":
            return otherwise
        for option in options:
            if node.kind == "scalar" and node.text == option:
                return option
        self._wrong(node, f"must be one of {', '.join(options)}", did_you_mean(node.text, options))
        return otherwise

    def any_value(self, node: Node) -> Any:
        """Return content as JSON has it."""
        if node.kind == "map":
            return {key.text: self.any_value(value) for key, value in node.entries}
        if node.kind == "list":
            return [self.any_value(item) for item in node.items]
        value = scalar(node) if node.kind == "scalar" else None
        if isinstance(value, int | float) and not isinstance(value, bool):
            if not math.isfinite(value) or (node.text.lstrip("+-").isdigit() and abs(value) >= WHOLE):
                self.sink.add(node, "range", f"too large a number: put it in quotes, found {node.text[:40]}")
                return 0
        elif isinstance(value, str) and not node.style and re.fullmatch(r"[-+]?\.(inf|nan)", value, re.IGNORECASE):
            self.sink.add(node, "not_finite", f"must be finite: put it in quotes, found {value}")
        return value

    def fault(self, node: Node, code: str, message: str) -> None:
        """Report at a node."""
        self.sink.add(node, code, message)

    def _entries(self, node: Node | None) -> Sequence[tuple[Node, Node]]:
        if node is None or node.kind in ("broken", "map") or is_nothing(node):
            return node.entries if node else ()
        self._wrong(node, "must be a mapping of key: value")
        return ()

    def _check_name(self, node: Node) -> bool:
        if len(node.text) <= limits.NAME_LENGTH and _NAME.fullmatch(node.text):
            return True
        form = f"a name is a-z, 0-9 and _, starts with a letter, has at most {limits.NAME_LENGTH} characters"
        self.sink.add(node, "name", f"{form}; found {short(node)}")
        return False

    def _wrong(self, node: Node, must: str, hint: str = "") -> None:
        self.sink.add(node, "type", f"{must}; found {short(node)}.{hint}" if hint else f"{must}; found {short(node)}")


def scalar(node: Node) -> bool | float | int | str | None:
    """Resolve a scalar as JSON would: quoted is text, and so is every word that is no JSON value."""
    if node.style:
        return node.text
    if node.text in ("", "~", "null"):
        return None
    if node.text in ("true", "false"):
        return node.text == "true"
    if len(node.text) > NUMBER_LENGTH or not _NUMBER.fullmatch(node.text):
        return node.text
    if len(node.text) <= 20 and node.text.lstrip("+-").isdigit():
        return int(node.text)
    return float(node.text)


def is_nothing(node: Node) -> bool:
    """Tell whether a key has no value."""
    return node.kind == "scalar" and scalar(node) is None


def short(node: Node) -> str:
    """Return what was written, in few characters."""
    if node.kind != "scalar":
        return "a list" if node.kind == "list" else "a mapping"
    if is_nothing(node):
        return "nothing"
    text = node.text if len(node.text) <= 40 else f"{node.text[:40]}…"
    return repr(text) if node.style or text != text.strip() else text


@cache
def time_zones() -> frozenset[str]:
    """Return the names of all time zones: those of the package `tzdata`, whatever the machine has."""
    return frozenset(files("tzdata").joinpath("zones").read_text().split())
