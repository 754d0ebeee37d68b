"""YAML (or JSON) text to `model.Catalog`, with every fault at once, each with line, column and path.

Three passes: libyaml's events become a tree of positioned nodes (`_Tree`), typed readers turn nodes into structs
(`_Reader`), then the rules that need the whole catalog run on the structs (`lint.catalog_faults`) and conditions are
checked. A reader that meets a wrong value reports it and goes on with a default: hence all faults in one run. A later
fault at a path that has one already is dropped, it would be a consequence.

Why PyYAML's C parser and not ruamel.yaml: 500 actions (182 kB) take 0.03 s in events of libyaml, 0.75 s in PyYAML's own
scanner and 1.15 s in ruamel's. Why events and not `compose`: a composed node no longer tells its anchor, and composing
recurses before depth can be bounded.

Scalars follow JSON, not YAML 1.1: only true/false and numbers as JSON writes them are not text, so that a country `no`
or a time `12:30` stays what it looks like. Anchors, aliases and tags are refused: only a bomb needs them.
This file is longer than most because the three passes share the node; each stands alone otherwise.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import yaml
from msgspec import Struct, field
from msgspec.structs import replace

from nbx import limits
from nbx.catalog.conditions import CONDITION_LENGTH, check_condition, did_you_mean, vocabulary
from nbx.catalog.lint import Finding, catalog_faults
from nbx.catalog.model import (
    Action,
    ActionClass,
    Catalog,
    DefaultChoice,
    ExperiencePolicy,
    Exploration,
    Goal,
    Group,
    Impressions,
    Limit,
    OutcomeName,
    Pause,
    Placement,
    Treatment,
)
from nbx.errors import SetupError
from nbx.features.schema import Aggregate, AggregateKind, Encoding, Feature, FeatureType, Origin, Value

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["CatalogFaults", "Finding", "parse_catalog", "scale_durations"]

DEPTH = 32
"""Levels of nesting: the catalog needs eight, the rest is for content."""
NODES = 250_000
"""Values and keys in one file: some 4,500 actions; reading them takes about a second."""
VALUE_STRENGTH = 10.0
"""Acceptances that the prior of a learned value counts for, unless said otherwise."""
FINDINGS = 1000
"""Findings reported at once; more are counted."""
DURATION_MS = 3650 * 86_400_000
"""Longest duration, ten years: sums of several stay far inside 64 bits."""
WHOLE = 1 << 53
"""Whole numbers in content stay below this: JavaScript would round them."""

_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}
_DURATION = re.compile(r"([0-9]{1,15})(ms|s|m|h|d|w)")
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_WORD = re.compile(r"[A-Za-z0-9_-]{1,80}")
_NUMBER = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.?(?:inf|infinity|nan)", re.IGNORECASE)
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_UNITS = {
    "'": re.compile(r"''|[^']", re.DOTALL),
    '"': re.compile(r"\\(?:x..|u.{4}|U.{8}|.)|[^\"]", re.DOTALL),
    "": re.compile(r".", re.DOTALL),
}
"""One character of a scalar's value as it is written, by quote."""
_WRITTEN_SPACE = {"\\\n", "\\ ", "\\t", "\\n", "\\r", "\\_", "\\N"}
_CORE_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq")}

_Word = TypeVar("_Word", bound=str)


class CatalogFaults(SetupError):
    """The catalog cannot be published; `findings` holds everything that is wrong, by position."""

    code = "catalog"

    def __init__(self, findings: tuple[Finding, ...]) -> None:
        count = len(findings)
        text = "the catalog has a fault" if count == 1 else f"the catalog has {count} faults"
        super().__init__(text, faults=tuple(str(finding) for finding in findings))
        self.findings = findings


def parse_catalog(text: str, *, source: str = "catalog.yaml") -> Catalog:
    """Read a catalog; 500 actions in about 0.3 s.

    Parameters
    ----------
    text
        YAML 1.2 or JSON, at most `limits.CATALOG_BYTES` as UTF-8.
    source
        Name of the file, for messages.

    Raises
    ------
    CatalogFaults
        With every fault. Nothing else is raised, whatever the text.

    Examples
    --------
    >>> parse_catalog("{catalog: retail, attribution: 14d}").attribution_ms
    1209600000
    >>> parse_catalog("catalog: retail\\natribution: 14d")  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    nbx.catalog.parse.CatalogFaults: the catalog has a fault
      catalog.yaml:2:1 atribution: unknown key. Did you mean `attribution`?
    """
    sink = _Sink(source)
    text = text.removeprefix("\ufeff")
    tree = _Tree(text, sink)
    root = tree.read()
    if root is None:
        raise CatalogFaults(sink.sorted())
    catalog = _catalog(_Reader(sink), root)
    for finding in catalog_faults(catalog):
        sink.add_at(finding, tree.nearest(finding.path))
    _check_conditions(catalog, tree, sink)
    if findings := sink.sorted():
        raise CatalogFaults(findings)
    return catalog


def scale_durations(catalog: Catalog, factor: float, *, least_attention_ms: int) -> Catalog:
    """Divide every duration by `factor`, so that a demonstration plays weeks in a minute.

    Delivery and attention never fall below `least_attention_ms`; no other duration that is set falls below 1 ms. The
    default and the encoding of a `time_since` feature are durations in hours and are divided too. Hours or minutes
    written inside a condition stay as they are.

    Parameters
    ----------
    factor
        > 0, finite.

    Raises
    ------
    SetupError
        `factor` is not a positive number.
    """
    if not (math.isfinite(factor) and factor > 0):
        raise SetupError(f"factor must be a number > 0, found {factor}", field="factor")

    def scaled(ms: int, least: int = 1) -> int:
        return max(round(ms / factor), least) if ms else 0

    def limited(all_limits: tuple[Limit, ...]) -> tuple[Limit, ...]:
        return tuple(replace(each, per_ms=scaled(each.per_ms)) for each in all_limits)

    def paused(pause: Pause | None) -> Pause | None:
        return pause and Pause(
            declined_ms=scaled(pause.declined_ms),
            dismissed_ms=scaled(pause.dismissed_ms),
            ignored_ms=scaled(pause.ignored_ms),
        )

    def feature(each: Feature) -> Feature:
        each = replace(each, max_age_ms=scaled(each.max_age_ms))
        origin = each.origin
        if not isinstance(origin, Aggregate):
            return each
        if origin.kind == "time_since" and not isinstance(each.default, str):
            encoding = replace(each.encoding, mean=each.encoding.mean / factor, sd=each.encoding.sd / factor)
            each = replace(each, default=each.default / factor, encoding=encoding)
        window, half_life = scaled(origin.window_ms), scaled(origin.half_life_ms)
        return replace(each, origin=replace(origin, window_ms=window, half_life_ms=half_life))

    def placement(each: Placement) -> Placement:
        delivery, attention = (
            scaled(each.delivery_ms, least_attention_ms),
            scaled(each.attention_ms, least_attention_ms),
        )
        goal = each.goal and replace(each.goal, within_ms=scaled(each.goal.within_ms))
        return replace(each, delivery_ms=delivery, attention_ms=attention, goal=goal)

    def action(each: Action) -> Action:
        attention = scaled(each.attention_ms, least_attention_ms)
        return replace(each, limits=limited(each.limits), pause=paused(each.pause), attention_ms=attention)

    return replace(
        catalog,
        features=tuple(map(feature, catalog.features)),
        placements=tuple(map(placement, catalog.placements)),
        groups=tuple(replace(each, limits=limited(each.limits), pause=paused(each.pause)) for each in catalog.groups),
        actions=tuple(map(action, catalog.actions)),
        experience=replace(catalog.experience, half_life_ms=scaled(catalog.experience.half_life_ms)),
        attribution_ms=scaled(catalog.attribution_ms),
        correction_ms=scaled(catalog.correction_ms),
    )


# --- pass 1: text to nodes -------------------------------------------------------------------------------------------


class _Node(Struct):
    """A value with its place. `broken`: already reported, read as if it were not there."""

    kind: Literal["scalar", "list", "map", "broken"]
    path: str
    line: int
    column: int
    text: str = ""
    style: str = ""
    """"" for a plain scalar, else the quote or block sign."""
    start: int = 0
    """First character of a scalar in the file; `end`: the one after the last."""
    end: int = 0
    items: list[_Node] = field(default_factory=list)
    entries: list[tuple[_Node, _Node]] = field(default_factory=list)
    """Key and value; keys that repeat are in it once."""


class _Sink:
    """Collects findings."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.findings: list[Finding] = []
        self.paths: set[str] = set()
        self.dropped = 0

    def add(self, node: _Node, code: str, message: str) -> None:
        """Report at a node."""
        self.add_at(Finding(path=node.path, code=code, message=message), (node.line, node.column))

    def add_at(self, finding: Finding, place: tuple[int, int], *, once: bool = True) -> None:
        """Report at a line and column; `once`: unless that path has a finding already."""
        if once and finding.path in self.paths:
            return
        if once and finding.path:
            self.paths.add(finding.path)
        if len(self.findings) >= FINDINGS:
            self.dropped += 1
            return
        self.findings.append(replace(finding, source=self.source, line=place[0], column=place[1]))

    def sorted(self) -> tuple[Finding, ...]:
        """Return what was found by position, and how many more there are."""
        findings = sorted(self.findings, key=lambda each: (each.line, each.column))
        if self.dropped:
            text = f"and {self.dropped} more: put these right first"
            findings.append(Finding(source=self.source, path="", code="more", message=text))
        return tuple(findings)


class _Tree:
    """Reads events of libyaml into nodes, bounded in size, depth and number."""

    def __init__(self, text: str, sink: _Sink) -> None:
        self.text = text
        self.sink = sink
        self.nodes: dict[str, _Node] = {}
        self.count = 0

    def read(self) -> _Node | None:
        """Return the root, or None when the text is not YAML that may be used: then the sink says why."""
        try:
            self._refuse_unreadable()
            return self._document()
        except _Refused as error:
            place = error.line, error.column
            self.sink.add_at(Finding(path="", code=error.code, message=error.message), place)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = (mark.line + 1, mark.column + 1) if mark else (1, 1)
            text = ", ".join(filter(None, (error.context, error.problem)))
            self.sink.add_at(Finding(path="", code="yaml", message=text), place)
        except yaml.YAMLError as error:
            self.sink.add_at(Finding(path="", code="yaml", message=str(error)[:200]), (1, 1))
        return None

    def _document(self) -> _Node:
        self.events = yaml.parse(self.text, Loader=yaml.CSafeLoader)
        next(self.events)
        if isinstance(next(self.events), yaml.StreamEndEvent):
            raise _Refused(1, 1, "empty", "the file is empty: start with `catalog: <name>`")
        root = self._node(next(self.events), "", 0)
        next(self.events)
        after: Any = next(self.events)
        if not isinstance(after, yaml.StreamEndEvent):
            raise _Refused(after.start_mark.line + 1, 1, "yaml", "a second document: a file holds one catalog")
        return root

    def nearest(self, path: str) -> tuple[int, int]:
        """Return line and column of the node at a path, or of the nearest above it."""
        while path not in self.nodes and path:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        node = self.nodes.get(path)
        return (node.line, node.column) if node else (1, 1)

    def place_in(self, node: _Node, offset: int) -> tuple[int, int]:
        """Return line and column of a character of a scalar's value.

        Space is what folding, indentation and block headers change, so the place is found by counting the characters
        that are none: exact for every style.
        """
        raw = self.text[node.start : node.end]
        skip = {"'": 1, '"': 1, "|": raw.find("\n") + 1, ">": raw.find("\n") + 1}.get(node.style, 0)
        written = _UNITS.get(node.style, _UNITS[""]).finditer(raw, skip)
        inked = [each.start() for each in written if not (each[0].isspace() or each[0] in _WRITTEN_SPACE)]
        before = sum(not each.isspace() for each in node.text[:offset])
        if offset < len(node.text) and before < len(inked):
            return self._place(node.start + inked[before])
        return self._place(node.start + (inked[before - 1] + 1 if 0 < before <= len(inked) else 0))

    def _refuse_unreadable(self) -> None:
        size = len(self.text)
        if size <= limits.CATALOG_BYTES:
            size = len(self.text.encode(errors="surrogatepass"))
        if size > limits.CATALOG_BYTES:
            text = f"the file must have at most {limits.CATALOG_BYTES} bytes: split the catalog"
            raise _Refused(1, 1, "too_large", text)
        if bad := _UNPRINTABLE.search(self.text):
            line, column = self._place(bad.start())
            raise _Refused(line, column, "yaml", f"the character U+{ord(bad.group()):04X} is not allowed: remove it")

    def _place(self, index: int) -> tuple[int, int]:
        return self.text.count("\n", 0, index) + 1, index - self.text.rfind("\n", 0, index)

    def _node(self, event: Any, path: str, depth: int) -> _Node:
        mark: Any = event.start_mark
        end: Any = event.end_mark
        self.count += 1
        if self.count > NODES or depth > DEPTH:
            text = f"more than {NODES} values" if self.count > NODES else f"nested deeper than {DEPTH} levels"
            raise _Refused(mark.line + 1, mark.column + 1, "too_large", text)
        node = _Node("scalar", path, mark.line + 1, mark.column + 1)
        if isinstance(event, yaml.ScalarEvent):
            node.text, node.style = event.value, event.style or ""
            node.start, node.end = mark.index, end.index  # in characters
        elif isinstance(event, yaml.MappingStartEvent):
            node.kind = "map"
            self._entries(node, depth)
        elif isinstance(event, yaml.SequenceStartEvent):
            node.kind = "list"
            while not isinstance(event_of_item := next(self.events), yaml.SequenceEndEvent):
                item = self._node(event_of_item, f"{path}[{len(node.items)}]", depth + 1)
                self.nodes[item.path] = item
                node.items.append(item)
        else:
            self._break(node, "alias", "aliases (*name) are not allowed: write the value out")
        self._refuse_extras(event, node)
        return node

    def _refuse_extras(self, event: Any, node: _Node) -> None:
        tag = getattr(event, "tag", None)
        if node.kind != "broken" and event.anchor is not None:
            self._break(node, "anchor", "anchors (&name) are not allowed: write the value out where it is needed")
        elif tag is not None and tag not in _CORE_TAGS:
            self._break(node, "tag", f"the tag {tag[:80]} is not allowed: remove it")
        elif tag == "tag:yaml.org,2002:str" and not node.style:
            node.style = "!"

    def _entries(self, node: _Node, depth: int) -> None:
        lines: dict[str, int] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self._node(event, node.path, depth + 1)
            if key.kind == "scalar":
                label = key.text if _WORD.fullmatch(key.text) else repr(key.text[:80])
                key.path = f"{node.path}.{label}" if node.path else label
            elif key.kind != "broken":
                self.sink.add(key, "key", "a key must be a word")
            value = self._node(next(self.events), key.path, depth + 1)
            self.nodes.setdefault(value.path, value)
            if value.kind != "scalar":
                value.line, value.column = key.line, key.column
            if key.kind == "scalar" and key.text in lines:
                repeated = f"is given twice, first in line {lines[key.text]}: keep one"
                finding = Finding(path=key.path, code="duplicate_key", message=repeated)
                self.sink.add_at(finding, (key.line, key.column), once=False)
            elif key.kind == "scalar":
                lines[key.text] = key.line
                node.entries.append((key, value))

    def _break(self, node: _Node, code: str, message: str) -> None:
        node.kind = "broken"
        self.sink.add(node, code, message)


class _Refused(Exception):
    """The text as a whole cannot be read."""

    def __init__(self, line: int, column: int, code: str, message: str) -> None:
        super().__init__(message)
        self.line, self.column, self.code, self.message = line, column, code, message


# --- pass 2: nodes to values -----------------------------------------------------------------------------------------


class _Reader:
    """Typed readers: a node that is missing or broken gives `otherwise`, a wrong one too and a finding."""

    def __init__(self, sink: _Sink) -> None:
        self.sink = sink

    def fields(self, node: _Node | None, known: Sequence[str], *, required: Sequence[str] = ()) -> dict[str, _Node]:
        """Return the values of a mapping with fixed keys."""
        found: dict[str, _Node] = {}
        for key, value in self._entries(node):
            if key.text in known:
                found[key.text] = value
            else:
                near = "" if len(self.sink.findings) >= FINDINGS else did_you_mean(key.text, known)
                hint = near or f" There are {', '.join(known)}"
                self.sink.add(key, "unknown_key", f"unknown key.{hint}")
        if node is not None and node.kind == "map":
            for name in required:
                if name not in found:
                    path = f"{node.path}.{name}".lstrip(".")
                    finding = Finding(path=path, code="missing", message="is missing: add it")
                    self.sink.add_at(finding, (node.line, node.column))
        return found

    def named(self, node: _Node | None) -> Iterator[tuple[str, _Node]]:
        """Yield name and value of a mapping whose keys are declared names."""
        for key, value in self._entries(node):
            if self._check_name(key):
                yield key.text, value

    def items(self, node: _Node | None) -> list[_Node]:
        """Return the members of a list."""
        if node is None or node.kind in ("broken", "list"):
            return node.items if node else []
        self._wrong(node, "must be a list, such as [a, b]")
        return []

    def name(self, node: _Node | None) -> str:
        """Return a declared or declarable name."""
        if node is None or node.kind == "broken":
            return ""
        if node.kind != "scalar":
            self._wrong(node, "must be a name")
            return ""
        return node.text if self._check_name(node) else ""

    def text(self, node: _Node | None, *, most: int = limits.TEXT_LENGTH) -> str:
        """Return text."""
        if node is None or node.kind == "broken":
            return ""
        value = _scalar(node) if node.kind == "scalar" else None
        if not isinstance(value, str):
            self._wrong(node, "must be text" + (": put it in quotes" if value is not None else ""))
            return ""
        if len(value) > most:
            self.sink.add(node, "too_long", f"must have at most {most} characters, has {len(value)}")
            return ""
        return value

    def number(
        self, node: _Node | None, otherwise: float, *, least: float = -math.inf, most: float = math.inf
    ) -> float:
        """Return a finite number within bounds, both included."""
        if node is None or node.kind == "broken":
            return otherwise
        value = _scalar(node) if node.kind == "scalar" else None
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

    def above_zero(self, node: _Node | None, otherwise: float) -> float:
        """Return a finite number > 0."""
        value = self.number(node, otherwise)
        if value <= 0 and node is not None:
            self.sink.add(node, "range", f"must be > 0, found {node.text[:40]}")
            return otherwise
        return value

    def whole(self, node: _Node | None, otherwise: int, *, least: int, most: int) -> int:
        """Return a whole number within bounds, both included."""
        value = self.number(node, otherwise, least=least, most=most)
        if node is not None and not float(value).is_integer():
            self.sink.add(node, "range", f"must be a whole number, found {node.text[:40]}")
            return otherwise
        return int(value)

    def duration(self, node: _Node | None, otherwise: int, *, least: int = 1) -> int:
        """Return milliseconds."""
        if node is None or node.kind == "broken":
            return otherwise
        match = _DURATION.fullmatch(node.text) if node.kind == "scalar" else None
        if match is None:
            self._wrong(node, "must be a duration: a whole number with ms, s, m, h, d or w, such as 30s, 12h or 7d")
            return otherwise
        ms = int(match[1]) * _UNITS_MS[match[2]]
        if not least <= ms <= DURATION_MS:
            bounds = "longer than 0" if ms < least else "at most 3650d"
            self.sink.add(node, "range", f"must be {bounds}, found {node.text}")
            return otherwise
        return ms

    def choice(self, node: _Node | None, options: Sequence[_Word], otherwise: _Word) -> _Word:
        """Return one of some words."""
        if node is None or node.kind == "broken":
            return otherwise
        for option in options:
            if node.kind == "scalar" and node.text == option:
                return option
        self._wrong(node, f"must be one of {', '.join(options)}", did_you_mean(node.text, options))
        return otherwise

    def any_value(self, node: _Node) -> Any:
        """Return content as JSON has it."""
        if node.kind == "map":
            return {key.text: self.any_value(value) for key, value in node.entries}
        if node.kind == "list":
            return [self.any_value(item) for item in node.items]
        value = _scalar(node) if node.kind == "scalar" else None
        if isinstance(value, int | float) and not isinstance(value, bool):
            if not math.isfinite(value) or (node.text.lstrip("+-").isdigit() and abs(value) >= WHOLE):
                self.sink.add(node, "range", f"too large a number: put it in quotes, found {node.text[:40]}")
                return 0
        elif isinstance(value, str) and not node.style and re.fullmatch(r"[-+]?\.(inf|nan)", value, re.IGNORECASE):
            self.sink.add(node, "not_finite", f"must be finite: put it in quotes, found {value}")
        return value

    def fault(self, node: _Node, code: str, message: str) -> None:
        """Report at a node."""
        self.sink.add(node, code, message)

    def _entries(self, node: _Node | None) -> list[tuple[_Node, _Node]]:
        if node is None or node.kind in ("broken", "map") or _is_nothing(node):
            return node.entries if node else []
        self._wrong(node, "must be a mapping of key: value")
        return []

    def _check_name(self, node: _Node) -> bool:
        if _NAME.fullmatch(node.text) and len(node.text) <= limits.NAME_LENGTH:
            return True
        form = f"a name is a-z, 0-9 and _, starts with a letter, has at most {limits.NAME_LENGTH} characters"
        self.sink.add(node, "name", f"{form}; found {_short(node)}")
        return False

    def _wrong(self, node: _Node, must: str, hint: str = "") -> None:
        self.sink.add(node, "type", f"{must}; found {_short(node)}.{hint}" if hint else f"{must}; found {_short(node)}")


def _scalar(node: _Node) -> bool | float | int | str | None:
    """Resolve a scalar as JSON would: quoted is text, and so is every word that is no JSON value."""
    if node.style:
        return node.text
    if node.text in ("", "~", "null"):
        return None
    if node.text in ("true", "false"):
        return node.text == "true"
    if not _NUMBER.fullmatch(node.text):
        return node.text
    if len(node.text) <= 20 and node.text.lstrip("+-").isdigit():
        return int(node.text)
    return float(node.text)


def _is_nothing(node: _Node) -> bool:
    return node.kind == "scalar" and _scalar(node) is None


def _short(node: _Node) -> str:
    if node.kind != "scalar":
        return "a list" if node.kind == "list" else "a mapping"
    if _is_nothing(node):
        return "nothing"
    text = node.text if len(node.text) <= 40 else f"{node.text[:40]}…"
    return repr(text) if node.style or text != text.strip() else text


def _catalog(read: _Reader, root: _Node) -> Catalog:
    known = (
        "catalog", "attribution", "correction", "features", "placements", "groups", "actions", "experience",
        "exploration",
    )  # fmt: skip
    if root.kind != "map":
        read.fault(root, "type", f"must be a mapping that starts with `catalog: <name>`; found {_short(root)}")
    fields = read.fields(root, known, required=("catalog",)) if root.kind == "map" else {}
    plain = Catalog(name=read.name(fields.get("catalog")))
    return Catalog(
        name=plain.name,
        attribution_ms=read.duration(fields.get("attribution"), plain.attribution_ms),
        correction_ms=read.duration(fields.get("correction"), plain.correction_ms),
        features=tuple(_feature(read, name, node) for name, node in read.named(fields.get("features"))),
        placements=tuple(_placement(read, name, node) for name, node in read.named(fields.get("placements"))),
        groups=tuple(_group(read, name, node) for name, node in read.named(fields.get("groups"))),
        actions=tuple(_action(read, name, node) for name, node in read.named(fields.get("actions"))),
        experience=_experience(read, fields.get("experience")),
        exploration=_exploration(read, fields.get("exploration")),
    )


def _feature(read: _Reader, name: str, node: _Node) -> Feature:
    known = ("type", "from", "encode", "default", "max_age", "description")
    fields = read.fields(node, known, required=("type",))
    kind: FeatureType = read.choice(fields.get("type"), get_args(FeatureType), "number")
    origin = _origin(read, fields.get("from"))
    if isinstance(origin, Aggregate) and origin.kind != "last" and kind != "number" and "type" in fields:
        read.fault(fields["type"], "feature_type", f"{origin.kind} gives a number: write type: number")
    if "max_age" in fields and origin != "profile":
        read.fault(fields["max_age"], "max_age", "only a profile value can grow old: remove max_age")
    defaults: dict[FeatureType, Value] = {"number": 0.0, "boolean": False, "category": ""}
    return Feature(
        name=name,
        type=kind,
        origin=origin,
        encoding=_encoding(read, kind, node, fields.get("encode")),
        default=_default(read, kind, fields["default"]) if "default" in fields else defaults[kind],
        max_age_ms=read.duration(fields.get("max_age"), 0),
        description=read.text(fields.get("description")),
    )


def _default(read: _Reader, kind: FeatureType, node: _Node) -> Value:
    if kind == "number":
        return read.number(node, 0.0)
    if kind == "category":
        return read.text(node)
    return read.choice(node, ("true", "false"), "false") == "true"


def _origin(read: _Reader, node: _Node | None) -> Origin | Aggregate:
    if node is None or node.kind != "map":
        origins: tuple[Origin, ...] = get_args(Origin)
        return read.choice(node, origins, "profile")
    kinds: tuple[AggregateKind, ...] = get_args(AggregateKind)
    fields = read.fields(node, ("event", *kinds, "property", "window", "half_life"), required=("event",))
    given = [kind for kind in kinds if kind in fields]
    if len(given) != 1:
        if node.kind == "map":
            read.fault(node, "aggregate", f"say one of {', '.join(kinds)}, found {' and '.join(given) or 'none'}")
        return "profile"
    kind = given[0]
    if kind == "time_since":
        read.choice(fields[kind], ("true",), "true")
    needs = {"sum": ("window",), "decayed_mean": ("half_life",)}.get(kind, ())
    allowed = {"event", kind, *needs, *(("property",) if kind == "count" else ())}
    for name in needs:
        if name not in fields:
            finding = Finding(path=f"{node.path}.{name}", code="missing", message=f"{kind} needs a {name}, such as 30d")
            read.sink.add_at(finding, (node.line, node.column))
    for name in fields.keys() - allowed:
        read.fault(fields[name], "aggregate", f"{kind} does not use {name}: remove it")
    return Aggregate(
        event=_property(read, fields.get("event")),
        kind=kind,
        property=_property(read, fields.get("property" if kind in ("count", "time_since") else kind)),
        window_ms=read.duration(fields.get("count" if kind == "count" else "window"), 0),
        half_life_ms=read.duration(fields.get("half_life"), 0),
    )


def _property(read: _Reader, node: _Node | None) -> str:
    value = read.text(node, most=limits.NAME_LENGTH)
    if node is not None and node.kind == "scalar" and not node.text.strip():
        read.fault(node, "missing", "must not be empty")
    return value


def _encoding(read: _Reader, kind: FeatureType, feature: _Node, node: _Node | None) -> Encoding:
    if node is None:
        if kind == "category" and feature.kind == "map":
            text = "a category needs encode: {onehot: [a, b]}, {hash: 8} or none"
            finding = Finding(path=f"{feature.path}.encode", code="missing", message=text)
            read.sink.add_at(finding, (feature.line, feature.column))
        return Encoding(kind="flag" if kind == "boolean" else "standard")
    usable = {
        "number": ("standard", "log", "none"),
        "boolean": ("flag", "none"),
        "category": ("onehot", "hash", "none"),
    }
    if node.kind != "map":
        plain: tuple[Literal["standard", "flag", "none"], ...] = ("standard", "flag", "none")
        name = read.choice(node, plain, "none")
        if name not in usable[kind]:
            read.fault(node, "encoding", f"a {kind} cannot be encoded as {name}: use {', '.join(usable[kind])}")
        return Encoding(kind=name)
    fields = read.fields(node, ("standard", "log", "onehot", "hash"))
    if len(fields) != 1:
        read.fault(node, "encoding", f"say one of standard, log, onehot, hash; found {' and '.join(fields) or 'none'}")
        return Encoding(kind="none")
    [(word, value)] = fields.items()
    if word not in usable[kind]:
        read.fault(node, "encoding", f"a {kind} cannot be encoded as {word}: use {', '.join(usable[kind])}")
    if word == "log":
        return Encoding(kind="log", sd=read.above_zero(value, 1.0))
    if word == "hash":
        return Encoding(kind="hash", buckets=read.whole(value, 1, least=1, most=limits.FEATURE_WIDTH))
    if word == "onehot":
        return Encoding(kind="onehot", categories=_categories(read, value))
    scale = read.fields(value, ("mean", "sd"))
    return Encoding(kind="standard", mean=read.number(scale.get("mean"), 0.0), sd=read.above_zero(scale.get("sd"), 1.0))


def _categories(read: _Reader, node: _Node) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for item in read.items(node):
        word = read.text(item)
        if word in found and item.kind == "scalar":
            read.fault(item, "duplicate", f"{word!r} is listed twice: keep one")
        found[word] = None
    if node.kind == "list" and not node.items:
        read.fault(node, "missing", "must name at least one category")
    return tuple(found)


def _placement(read: _Reader, name: str, node: _Node) -> Placement:
    known = ("channel", "impressions", "slots", "delivery", "attention", "default", "stakes", "goal")
    fields = read.fields(node, known, required=("channel", "impressions"))
    plain = Placement(name=name, channel=read.name(fields.get("channel")), impressions="reported")
    default = None
    if "default" in fields:
        parts = read.fields(fields["default"], ("action", "treatment"), required=("action", "treatment"))
        default = DefaultChoice(action=read.name(parts.get("action")), treatment=read.name(parts.get("treatment")))
    return Placement(
        name=name,
        channel=plain.channel,
        impressions=read.choice(fields.get("impressions"), get_args(Impressions), plain.impressions),
        slots=read.whole(fields.get("slots"), plain.slots, least=1, most=limits.SLOTS),
        delivery_ms=read.duration(fields.get("delivery"), plain.delivery_ms),
        attention_ms=read.duration(fields.get("attention"), plain.attention_ms),
        default=default,
        stakes=read.number(fields.get("stakes"), plain.stakes, least=0.0, most=1.0),
        goal=_goal(read, fields.get("goal")),
    )


def _goal(read: _Reader, node: _Node | None) -> Goal | None:
    if node is None or node.kind == "broken" or _is_nothing(node):
        return None
    known = ("event", "within", "value")
    fields = read.fields(node, known, required=known)
    return Goal(
        event=_property(read, fields.get("event")),
        within_ms=read.duration(fields.get("within"), 1),
        value=read.above_zero(fields.get("value"), 1.0),
    )


def _limits(read: _Reader, node: _Node | None) -> tuple[Limit, ...]:
    found = []
    for item in read.items(node):
        fields = read.fields(item, ("max", "per"), required=("max", "per"))
        most = read.whole(fields.get("max"), 1, least=1, most=limits.CONTACTS)
        found.append(Limit(max=most, per_ms=read.duration(fields.get("per"), 1)))
    return tuple(found)


def _pause(read: _Reader, node: _Node | None) -> Pause | None:
    if node is None:
        return None
    fields = read.fields(node, ("declined", "dismissed", "ignored"))
    return Pause(
        declined_ms=read.duration(fields.get("declined"), 0, least=0),
        dismissed_ms=read.duration(fields.get("dismissed"), 0, least=0),
        ignored_ms=read.duration(fields.get("ignored"), 0, least=0),
    )


def _group(read: _Reader, name: str, node: _Node) -> Group:
    fields = read.fields(node, ("topic", "limits", "pause"))
    limits_of_group, pause = _limits(read, fields.get("limits")), _pause(read, fields.get("pause"))
    return Group(name=name, topic=read.name(fields.get("topic")), limits=limits_of_group, pause=pause)


def _action(read: _Reader, name: str, node: _Node) -> Action:
    known = (
        "group", "class", "topic", "value", "customer_value", "gives", "asks", "eligible", "limits", "pause",
        "attention", "owner", "treatments",
    )  # fmt: skip
    fields = read.fields(node, known, required=("group", "treatments"))
    value, value_strength = _value(read, fields.get("value"))
    return Action(
        name=name,
        group=read.name(fields.get("group")),
        action_class=read.choice(fields.get("class"), get_args(ActionClass), "promotional"),
        topic=read.name(fields.get("topic")),
        value=value,
        value_strength=value_strength,
        customer_value=read.number(fields.get("customer_value"), 0.0),
        gives=tuple(read.name(item) for item in read.items(fields.get("gives"))),
        asks=tuple(read.name(item) for item in read.items(fields.get("asks"))),
        eligible=_eligible(read, fields.get("eligible")),
        limits=_limits(read, fields.get("limits")),
        pause=_pause(read, fields.get("pause")),
        attention_ms=read.duration(fields.get("attention"), 0),
        treatments=tuple(_treatment(read, word, each) for word, each in read.named(fields.get("treatments"))),
        owner=read.text(fields.get("owner")),
    )


def _value(read: _Reader, node: _Node | None) -> tuple[float, float]:
    """Return a declared value, or what is expected of a learned one and for how many acceptances that counts."""
    if node is None or node.kind != "map":
        return read.number(node, 0.0, least=0.0), 0.0
    fields = read.fields(node, ("prior", "strength"), required=("prior",))
    prior = read.number(fields.get("prior"), 0.0, least=0.0)
    return prior, read.above_zero(fields.get("strength"), VALUE_STRENGTH)


def _eligible(read: _Reader, node: _Node | None) -> str:
    if node is not None and node.kind == "scalar" and node.text in ("true", "false") and not node.style:
        return node.text
    return read.text(node, most=CONDITION_LENGTH)


def _treatment(read: _Reader, name: str, node: _Node) -> Treatment:
    fields = read.fields(node, ("placements", "content"), required=("placements",))
    placements = tuple(read.name(item) for item in read.items(fields.get("placements")))
    content = fields.get("content")
    read.fields(content, tuple(key.text for key, _ in content.entries) if content else ())
    return Treatment(
        name=name,
        placements=placements,
        content=read.any_value(content) if content is not None and content.kind == "map" else {},
    )


def _experience(read: _Reader, node: _Node | None) -> ExperiencePolicy:
    fields = read.fields(node, ("half_life", "loss_aversion", "exchange", "floor", "points"))
    plain = ExperiencePolicy()
    outcomes: tuple[OutcomeName, ...] = get_args(OutcomeName)
    points = read.fields(fields.get("points"), outcomes)
    return ExperiencePolicy(
        half_life_ms=read.duration(fields.get("half_life"), plain.half_life_ms),
        loss_aversion=read.number(fields.get("loss_aversion"), plain.loss_aversion, least=0.0),
        exchange=read.number(fields.get("exchange"), plain.exchange, least=0.0),
        floor=read.number(fields.get("floor"), plain.floor, most=0.0),
        points={
            name: read.number(points[name], 0.0, least=-limits.MONEY, most=limits.MONEY)
            for name in outcomes
            if name in points
        },
    )


def _exploration(read: _Reader, node: _Node | None) -> Exploration:
    fields = read.fields(node, ("floor", "scale"))
    plain = Exploration()
    return Exploration(
        floor=read.number(fields.get("floor"), plain.floor, least=0.0, most=1.0),
        scale=read.number(fields.get("scale"), plain.scale, least=0.0),
    )


# --- pass 3: conditions ----------------------------------------------------------------------------------------------


def _check_conditions(catalog: Catalog, tree: _Tree, sink: _Sink) -> None:
    words = vocabulary(catalog.features)
    checked = {
        source: check_condition(source, words) for source in {each.eligible for each in catalog.actions} if source
    }
    for action in catalog.actions:
        path = f"actions.{action.name}.eligible"
        for fault in checked.get(action.eligible, ()):
            place = tree.place_in(tree.nodes[path], fault.offset)
            sink.add_at(Finding(path=path, code=fault.code, message=fault.message), place, once=False)
