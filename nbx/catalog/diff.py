"""What changes between two catalogs, in marketers' words: one sentence per change, in a fixed order.

Complete by construction: the walk goes over the fields of the structs, so a field without words of its own is told by
its name, and whatever differs yields a sentence. The tables below only make it read well. Times are told in the time
zone of the later catalog.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Struct, structs

from nbx.catalog.model import (
    LAYERS,
    Action,
    Budget,
    Catalog,
    ContextWeight,
    Exploration,
    Holdout,
    JourneyStep,
    Limit,
    Pause,
    Placement,
    Policy,
    QuietHours,
    Treatment,
)
from nbx.catalog.time_words import duration, moment, per

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

LONG = 160
"""Characters of a text that are shown: enough to see what changed, from shortly before the first difference."""
_ORDER = ("name", "actions", "groups", "contact", "consent", "budgets", "holdout", "experience", "exploration")
"""Fields of a catalog that are told first."""
_LABELS = {
    "action_class": "class",
    "attribution_ms": "attribution",
    "context_weights": "weights",
    "channels": "contact by",
    "does": "the customer does",
    "does_within_ms": "the customer's time",
    "exclusive": "never together in one slate",
    "exempt": "exempt classes",
    "half_life_ms": "half-life",
    "not_with": "never together with",
    "origin": "from",
    "overall": "",
    "obligation_ms": "time-out of obligations",
    "pause_group": "pause of the whole group",
    "resolves": "makes good",
    "within_ms": "within",
    "owes": "the company owes",
    "owes_within_ms": "the company's time",
    "per_slate": "most in one slate",
    "points": "points for",
    "track_weight": "weight of the next touch",
    "value_strength": "acceptances the declared value counts for",
}
_NOUNS = {"Action": "", "JourneyStep": "step "}
_SHARES = {
    (Holdout, "silent"),
    (Holdout, "random"),
    (Exploration, "floor"),
    (Placement, "stakes"),
    (JourneyStep, "stakes"),
}
_TIMES = {"starts_ms", "ends_ms", "at_ms"}
_DURATIONS = {"seen"}
"""Besides all that end in `_ms`."""
_NOTHING = {
    (Action, "pause"): "the group's",
    (Action, "topic"): "the group's",
    (Action, "attention_ms"): "the placement's",
    (Placement, "latency_ms"): "no bound",
    (Budget, "units"): "no bound",
    (Budget, "money"): "no bound",
    (JourneyStep, "does_within_ms"): "whenever",
}
"""Words for what is not set, where "none" would mislead."""
_CONSENT = {"opt_in": "only after a yes", "opt_out": "until a no"}
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def diff(before: Catalog | None, after: Catalog) -> tuple[str, ...]:
    """Say what changes; nothing when the catalogs are equal.

    Parameters
    ----------
    before
        None: there is none yet.

    Examples
    --------
    >>> before = Catalog(name="bank", holdout=Holdout(silent=0.05))
    >>> diff(before, Catalog(name="bank", attribution_ms=3_600_000))
    ('holdout: silent 5 % → 0 %', 'catalog: attribution 7 days → 1 hour')
    """
    if before is None:
        counts = [_counted(len(getattr(after, noun + "s")), noun) for noun in ("action", "group", "placement")]
        return (f"catalog: new, {after.name}, with {', '.join(counts)}",)
    return tuple(_Walk(after.time_zone).catalog(before, after))


class _Walk:
    """The walk over two catalogs. `subject` is what a sentence is about, `lead` what its words begin with."""

    def __init__(self, time_zone: str) -> None:
        self._zone: ZoneInfo | None
        try:
            self._zone = ZoneInfo(time_zone)
        except (OSError, ValueError, KeyError):  # a catalog that was never checked
            self._zone = None

    def catalog(self, before: Catalog, after: Catalog) -> Iterator[str]:
        """Every change, one sentence each."""
        names = sorted(before.__struct_fields__, key=lambda n: _ORDER.index(n) if n in _ORDER else len(_ORDER))
        for name in names:
            a, b = getattr(before, name), getattr(after, name)
            if a != b:
                yield from self._field(name if isinstance(a, Struct) else "catalog", "", before, name, a, b)

    def _fields(self, subject: str, lead: str, before: Struct, after: Struct) -> Iterator[str]:
        """Tell every field that differs."""
        told: list[str] = []
        if isinstance(before, Budget) and isinstance(after, Budget):
            told = list(_amounts(subject, before, after))
            yield from told
        for name in before.__struct_fields__:
            a, b = getattr(before, name), getattr(after, name)
            if a != b and not (told and name in ("units", "money", "per_ms")):
                yield from self._field(subject, lead, before, name, a, b)

    def _field(self, subject: str, lead: str, owner: Struct, name: str, a: Any, b: Any) -> Iterator[str]:
        """Tell a field that differs: what is special about it, else `label old → new`."""
        kind = type(owner)
        told = False
        for sentence in self._special(subject, lead, owner, name, a, b):
            told = True
            yield sentence
        if not told:
            old, new = self._words(kind, name, a), self._words(kind, name, b)
            yield _changed(f"{subject}: {lead}{_label(name)}", old, new, a, b)

    def _special(self, subject: str, lead: str, owner: Struct, name: str, a: Any, b: Any) -> Iterator[str]:
        if isinstance(owner, Policy) and (name in LAYERS or name in _TIMES):
            yield self._policy(subject, name, a, b)
        elif isinstance(a, Pause) and isinstance(b, Pause):
            yield from _pauses(f"{subject}: {lead}{_label(name)} after ", a, b)
        elif isinstance(a, Struct) and type(a) is type(b):
            label = "" if subject == name or not _label(name) else f"{_label(name)} "
            yield from self._fields(subject, f"{lead}{label}", a, b)
        elif isinstance(a, dict) and isinstance(b, dict):
            yield from self._mapping(subject, lead, owner, name, a, b)
        elif isinstance(a, tuple) and isinstance(b, tuple):
            (sample,) = (a or b)[:1]
            if hasattr(sample, "name"):
                yield from self._named("" if isinstance(owner, Catalog) else f"{subject}, ", a, b)
            elif type(sample) in _TUPLES:
                yield from _TUPLES[type(sample)](subject, lead, a, b)
            elif isinstance(sample, tuple):
                for row in (row for row in b if row not in a):
                    yield f"{subject}: {lead}{_label(name)} {', '.join(row) or 'nothing'} (new)"
                for row in (row for row in a if row not in b):
                    yield f"{subject}: {lead}{_label(name)} {', '.join(row) or 'nothing'} removed"

    def _named(self, place: str, a: tuple[Any, ...], b: tuple[Any, ...]) -> Iterator[str]:
        """Tell things that have names: new ones, changed ones, and those that are gone."""
        was, now = ({each.name: each for each in side} for side in (a, b))
        for name, each in now.items():
            subject = f"{place}{_subject(each)}"
            if name not in was:
                yield f"{subject}: new{self._presented(each)}"
            elif was[name] != each:
                yield from self._fields(subject, "", was[name], each)
        for name, each in was.items():
            if name not in now:
                noun = " action" if isinstance(each, Action) else ""
                yield f"{place}{_subject(each)}:{noun} removed"
        kept = [each.name for each in a if each.name in now]
        if kept and kept != [each.name for each in b if each.name in was]:
            noun = type(a[0]).__name__.lower()
            yield f"{place or 'catalog: '}{noun}s in another order: {', '.join(now)}".replace(", : ", ": ")

    def _presented(self, each: Struct) -> str:
        if isinstance(each, Action):
            placements = dict.fromkeys(place for treatment in each.treatments for place in treatment.placements)
            return f" action in group {each.group} ({', '.join(placements)})"
        if isinstance(each, Treatment):
            return f" for {', '.join(each.placements)}"
        described = self._described(each)
        return f", {described}" if described else ""

    def _mapping(
        self, subject: str, lead: str, owner: Struct, name: str, a: Mapping[str, Any], b: Mapping[str, Any]
    ) -> Iterator[str]:
        """Tell the keys that differ; those of contact policy are what their sentences are about."""
        rules = any(isinstance(value, Struct) for value in (*a.values(), *b.values()))
        for key in dict.fromkeys((*b, *a)):
            if key in a and key in b and a[key] == b[key]:
                continue
            if rules:
                place, words = f"{key} actions" if name == "classes" else key, "contact "
            else:
                place, words = subject, f"{lead}{_label(name)}".strip() + " "
            if key not in a:
                yield f"{place}: {words}{'rule' if rules else key} new, {self._words(type(owner), name, b[key])}"
            elif key not in b:
                yield (
                    f"{place}: {words}{'rule' if rules else key} removed (was {self._words(type(owner), name, a[key])})"
                )
            elif rules:
                yield from self._fields(place, words, a[key], b[key])
            elif isinstance(a[key], dict) and isinstance(b[key], dict):
                yield from self._mapping(place, f"{words}{key} ", owner, "", a[key], b[key])
            else:
                old, new = (self._words(type(owner), name, side[key]) for side in (a, b))
                yield _changed(f"{place}: {words}{key}", old, new, a[key], b[key])

    def _policy(self, subject: str, name: str, a: Any, b: Any) -> str:
        """Tell who may get something, and when it is on offer."""
        if name == "starts_ms":
            if not b:
                return f"{subject}: offered at once (was from {self._time(a)})"
            was = f" (was {self._time(a)})" if a else ""
            return f"{subject}: offered only from {self._time(b)}{was}"
        if name == "ends_ms":
            if not b:
                return f"{subject}: offered without end (was until {self._time(a)})"
            was = f" (was {self._time(a)})" if a else ""
            return f"{subject}: no longer offered from {self._time(b)}{was}"
        if not a:
            return f"{subject}: {name} only if {_cut(b, 0)} (was everyone)"
        if not b:
            return f"{subject}: {name} for everyone (was only if {_cut(a, 0)})"
        return _changed(f"{subject}: {name} if", a, b, a, b)

    def _words(self, owner: type[Struct], name: str, value: Any) -> str:
        """Write a value as people say it."""
        if value in (None, "", (), {}) or (value == 0 and not isinstance(value, bool)):
            nothing = _NOTHING.get((owner, name))
            if nothing or value != 0:
                return nothing or "none"
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, int | float):
            return self._number(owner, name, value)
        if isinstance(value, str):
            return _CONSENT.get(value, value)
        if isinstance(value, dict):
            return ", ".join(f"{key} {self._words(owner, name, each)}" for key, each in value.items())
        if isinstance(value, tuple | list):
            return ", ".join(self._words(owner, name, each) for each in value)
        described = self._described(value) or "with nothing set"
        return f"{value.name} ({described})" if hasattr(value, "name") else described

    def _number(self, owner: type[Struct], name: str, value: float) -> str:
        if (owner, name) in _SHARES:
            return f"{100 * value:.10g} %"
        if name in _TIMES:
            return self._time(int(value)) if value else "none"
        if name.endswith("_ms") or name in _DURATIONS:
            return duration(int(value))
        return number(value)

    def _described(self, struct: Struct) -> str:
        """Write a struct by what is set in it, without its name."""
        if isinstance(struct, Limit):
            return f"limit {struct.max} per {per(struct.per_ms)}"
        if isinstance(struct, Pause):
            return ", ".join(f"after {name} {words}" for name, words in _pause(struct).items() if words != "none")
        if isinstance(struct, ContextWeight):
            return f"{number(struct.weight)} when {struct.when}"
        if isinstance(struct, QuietHours):
            return f"{_hours(struct)} on {', '.join(struct.channels) or 'all channels'}"
        kind = type(struct)
        parts = []
        for field in structs.fields(kind):
            value = getattr(struct, field.name)
            if (
                field.name != "name"
                and value != field.default
                and not (field.default_factory is not msgspec.NODEFAULT and value == field.default_factory())
            ):
                label = "" if field.name == "limits" else f"{_label(field.name)} "
                parts.append(f"{label}{self._words(kind, field.name, value)}".strip())
        return ", ".join(parts)

    def _time(self, ms: int) -> str:
        return moment(ms, self._zone)


def number(value: float) -> str:
    """Write a number with separators.

    Examples
    --------
    >>> number(5000.0), number(0.25)
    ('5,000', '0.25')
    """
    return f"{value:,.15g}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _label(name: str) -> str:
    return _LABELS.get(name, name.removesuffix("_ms").replace("_", " "))


def _subject(each: Any) -> str:
    name = f'"{each.name}"' if " " in each.name else each.name
    return f"{_NOUNS.get(type(each).__name__, type(each).__name__.lower() + ' ')}{name}"


def _changed(what: str, old: str, new: str, a: Any, b: Any) -> str:
    """Write `what old → new`; exactly, where the words for both are the same."""
    if old == new:
        old, new = (msgspec.json.encode(value).decode() for value in (a, b))
    if max(len(old), len(new)) > LONG:
        shared = next((i for i, (x, y) in enumerate(zip(old, new, strict=False)) if x != y), min(len(old), len(new)))
        begin = max(0, shared - LONG // 8)
        old, new = (_cut(text, begin) for text in (old, new))
    return f"{what} {old} → {new}"


def _cut(text: str, begin: int) -> str:
    return f"{'…' if begin else ''}{text[begin : begin + LONG]}{'…' if len(text) > begin + LONG else ''}"


def _amounts(subject: str, a: Budget, b: Budget) -> Iterator[str]:
    for name, unit in (("money", ""), ("units", " units")):
        was, now = getattr(a, name), getattr(b, name)
        old, new = (number(amount) if amount else "no bound" for amount in (was, now))
        if a.per_ms == b.per_ms and was != now:
            yield _changed(f"{subject}:", old, f"{new}{unit if now else ''} per {per(b.per_ms)}", was, now)
        elif a.per_ms != b.per_ms and (was or now):
            ends = (f"{old}{unit} per {per(a.per_ms)}", f"{new}{unit} per {per(b.per_ms)}")
            yield _changed(f"{subject}:", *ends, (was, a.per_ms), (now, b.per_ms))


def _limits(subject: str, lead: str, a: tuple[Limit, ...], b: tuple[Limit, ...]) -> Iterator[str]:
    was, now = ({limit.per_ms: limit.max for limit in side} for side in (a, b))
    for per_ms in dict.fromkeys((*now, *was)):
        window = f"per {per(per_ms)}"
        if per_ms not in was:
            yield f"{subject}: {lead}limit {now[per_ms]} {window} (new)"
        elif per_ms not in now:
            yield f"{subject}: {lead}limit {was[per_ms]} {window} removed"
        elif was[per_ms] != now[per_ms]:
            yield f"{subject}: {lead}limit {was[per_ms]} → {now[per_ms]} {window}"


def _weights(subject: str, lead: str, a: tuple[ContextWeight, ...], b: tuple[ContextWeight, ...]) -> Iterator[str]:
    was, now = ({each.when: each.weight for each in side} for side in (a, b))
    for when in dict.fromkeys((*now, *was)):
        if when not in was:
            yield f"{subject}: {lead}weight {number(now[when])} when {when} (new)"
        elif when not in now:
            yield f"{subject}: {lead}weight {number(was[when])} when {when} removed"
        elif was[when] != now[when]:
            sentence = _changed(f"{subject}: {lead}weight", number(was[when]), number(now[when]), was[when], now[when])
            yield f"{sentence} when {when}"


def _quiet(_subject: str, _lead: str, a: tuple[QuietHours, ...], b: tuple[QuietHours, ...]) -> Iterator[str]:
    was, now = (_by_channel(side) for side in (a, b))
    for channel in dict.fromkeys((*now, *was)):
        old, new = was.get(channel, ""), now.get(channel, "")
        if not new:
            yield f"{channel}: no quiet hours any more (were {old})"
        elif old != new:
            yield f"{channel}: quiet hours {new} ({f'were {old}' if old else 'new'})"


def _by_channel(hours: tuple[QuietHours, ...]) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for each in hours:
        for channel in each.channels or ("all channels",):
            found.setdefault(channel, []).append(_hours(each))
    return {channel: " and ".join(words) for channel, words in found.items()}


def _hours(hours: QuietHours) -> str:
    begin, end = (f"{minute // 60:02d}:{minute % 60:02d}" for minute in (hours.from_minute, hours.to_minute))
    days = ", ".join(_DAYS[day] if 0 <= day < len(_DAYS) else str(day) for day in hours.days)
    return f"{begin}-{end}" + (f" on {days}" if days else "")


def _pauses(what: str, a: Pause, b: Pause) -> Iterator[str]:
    was, now = _pause(a), _pause(b)
    for name in now:
        if was[name] != now[name]:
            yield f"{what}{name} {was[name]} → {now[name]}"


def _pause(pause: Pause) -> dict[str, str]:
    """Outcome → how long it pauses."""
    words = {name: duration(getattr(pause, f"{name}_ms")) for name in ("declined", "dismissed", "ignored")}
    if pause.ignored_ms and pause.ignored_count != 1:
        words["ignored"] += f" once {pause.ignored_count} are ignored within {duration(pause.ignored_within_ms)}"
    return words


_TUPLES: dict[type, Callable[[str, str, Any, Any], Iterator[str]]] = {
    Limit: _limits,
    ContextWeight: _weights,
    QuietHours: _quiet,
}
