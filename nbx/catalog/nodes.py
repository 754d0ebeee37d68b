"""Text to nodes: libyaml's events become a tree in which everything knows its line, column and path.

Why PyYAML's C parser and not ruamel.yaml: 500 actions (182 kB) take 0.03 s in events of libyaml, 0.75 s in PyYAML's own
scanner and 1.15 s in ruamel's. Why events and not `compose`: a composed node no longer tells its anchor, and composing
recurses before depth can be bounded.

Scalars follow JSON, not YAML 1.1: only true/false and numbers as JSON writes them are not text, so that a country `no`
or a time `12:30` stays what it looks like. Anchors, aliases and tags are refused: only a bomb needs them. So are %TAG
lines: libyaml compares each with all before it, 1.5 s for 20,000 of them, and 10 MB hold 600,000.

Nothing here holds the interpreter for long, as other threads decide meanwhile. So text is handed to libyaml and looked
through in pages: while a scalar of 10 MB was read on a busy machine another thread waited 0.08 s, without pages 1.2 s.

A path is kept as a chain of steps and written out where it is reported: with all paths in full a file of 0.4 MB with
220,000 values took 0.5 GB.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import yaml
from msgspec import Struct
from msgspec.structs import replace

from nbx import limits
from nbx.catalog.findings import Finding, label

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

DEPTH = 32
"""Levels of nesting: the catalog needs eight, the rest is for content."""
NODES = 150_000
"""Values and keys in one file: some 2,700 actions; reading them takes half a second."""
FINDINGS = 1000
"""Findings reported at once; more are counted."""

PAGE = 1 << 16
"""Characters looked at in one go."""
PLACED = 1_000_000
"""Characters looked through in all for places inside scalars; after that the scalar's own place is given."""

_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_PRINTABLE = b"\t\n\r" + bytes(range(0x20, 0x7F))
"""Of ASCII, to be quick about the usual file."""
_TAG_LINE = re.compile("(?:^|[\r\n\x85\u2028\u2029])%TAG")
_UNITS = {
    "'": re.compile(r"''|[^']", re.DOTALL),
    '"': re.compile(r"\\(?:x..|u.{4}|U.{8}|.)|[^\"]", re.DOTALL),
    "": re.compile(r".", re.DOTALL),
}
"""One character of a scalar's value as it is written, by quote."""
_WRITTEN_SPACE = {"\\\n", "\\ ", "\\t", "\\n", "\\r", "\\_", "\\N"}
_CORE_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq")}
_STEP = re.compile(r"""\.?([A-Za-z0-9_-]+|'(?:\\.|[^\\'])*'|"(?:\\.|[^\\"])*")|\[([0-9]+)\]""")
"""One step of a path as `findings.label` writes it."""

Where: TypeAlias = "tuple[Where, str | int] | None"
"""Where a node stands: its parent's place and its key, or its number in a list; None: the root."""


class Node(Struct, gc=False):
    """A value with its place. `broken`: already reported, read as if it were not there."""

    kind: Literal["scalar", "list", "map", "broken"]
    where: Where
    line: int
    column: int
    text: str = ""
    style: str = ""
    """"" for a plain scalar, else the quote or block sign."""
    start: int = 0
    """First character of a scalar in the file; `end`: the one after the last."""
    end: int = 0
    items: Sequence[Node] = ()
    entries: Sequence[tuple[Node, Node]] = ()
    """Key and value; keys that repeat are in it once."""

    @property
    def path(self) -> str:
        """Such as `actions.card_upgrade.limits[0]`; O(depth)."""
        steps: list[str] = []
        where = self.where
        while where is not None:
            where, step = where
            steps.append(f"[{step}]" if isinstance(step, int) else f".{label(step)}")
        return "".join(reversed(steps)).lstrip(".")


class Sink:
    """Collects findings."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.findings: list[Finding] = []
        self.paths: set[str] = set()
        self.dropped = 0

    @property
    def full(self) -> bool:
        """No further finding is kept."""
        return len(self.findings) >= FINDINGS

    def add(self, node: Node, code: str, message: str, *, once: bool = True) -> None:
        """Report at a node; `once` as for `add_at`."""
        if self.full:
            self.dropped += 1
        else:
            self.add_at(Finding(path=node.path, code=code, message=message), (node.line, node.column), once=once)

    def add_at(self, finding: Finding, place: tuple[int, int], *, once: bool = True) -> None:
        """Report at a line and column; `once`: unless that path has a finding already."""
        if once and finding.path in self.paths:
            return
        if self.full:
            self.dropped += 1
            return
        if once and finding.path:
            self.paths.add(finding.path)
        self.findings.append(replace(finding, source=self.source, line=place[0], column=place[1]))

    def sorted(self) -> tuple[Finding, ...]:
        """Return what was found by position, and how many more there are."""
        findings = sorted(self.findings, key=lambda each: (each.line, each.column))
        if self.dropped:
            text = f"and at least {self.dropped} more: put these right first"
            findings.append(Finding(source=self.source, path="", code="more", message=text))
        return tuple(findings)


class Tree:
    """Reads events of libyaml into nodes, bounded in size, depth and number."""

    def __init__(self, text: str, sink: Sink) -> None:
        self.text = text
        self.sink = sink
        self.count = 0
        self.root: Node | None = None
        self._placed = 0
        self._children: dict[int, dict[str, Node]] = {}

    def read(self) -> Node | None:
        """Return the root, or None when the text is not YAML that may be used: then the sink says why."""
        try:
            self._refuse_unreadable()
            self.root = self._document()
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
        return self.root

    def at(self, path: str) -> Node:
        """Return the node at a path, or the nearest above it; for a text that could be read."""
        assert self.root is not None
        node, end = self.root, 0
        while step := _STEP.match(path, end):
            name, number = step.groups()
            child = self._child(node, name) if name else _nth(node.items, int(number))
            if child is None:
                break
            node, end = child, step.end()
        return node

    def places(self, node: Node, offsets: Iterable[int]) -> list[tuple[int, int]]:
        """Return line and column of some characters of a scalar's value.

        Space is what folding, indentation and block headers change, so a place is found by counting the characters
        that are none: exact for every style.
        """
        self._placed += node.end - node.start
        if self._placed > PLACED:
            return [(node.line, node.column) for _ in offsets]
        raw = self.text[node.start : node.end]
        skip = {"'": 1, '"': 1, "|": raw.find("\n") + 1, ">": raw.find("\n") + 1}.get(node.style, 0)
        written = _UNITS.get(node.style, _UNITS[""]).finditer(raw, skip)
        inked = [each.start() for each in written if not (each[0].isspace() or each[0] in _WRITTEN_SPACE)]
        found = []
        for offset in offsets:
            before = sum(not each.isspace() for each in node.text[:offset])
            if offset < len(node.text) and before < len(inked):
                index = inked[before]
            else:
                index = inked[before - 1] + 1 if 0 < before <= len(inked) else 0
            lines = raw.count("\n", 0, index)
            column = index - raw.rfind("\n", 0, index) if lines else node.column + index
            found.append((node.line + lines, column))
        return found

    def _child(self, node: Node, name: str) -> Node | None:
        if id(node) not in self._children:
            self._children[id(node)] = {label(key.text): value for key, value in reversed(node.entries)}
        return self._children[id(node)].get(name)

    def _document(self) -> Node:
        self._next = yaml.CSafeLoader(_Pages(self.text)).get_event
        self._next()
        if isinstance(self._next(), yaml.StreamEndEvent):
            raise _Refused(1, 1, "empty", "the file is empty: start with `catalog: <name>`")
        root = self._node(self._next(), None, 0)
        self._next()
        after: Any = self._next()
        if not isinstance(after, yaml.StreamEndEvent):
            raise _Refused(after.start_mark.line + 1, 1, "yaml", "a second document: a file holds one catalog")
        return root

    def _refuse_unreadable(self) -> None:
        packed = self.text.encode(errors="surrogatepass") if len(self.text) <= limits.CATALOG_BYTES else b""
        if len(self.text) > limits.CATALOG_BYTES or len(packed) > limits.CATALOG_BYTES:
            text = f"the file must have at most {limits.CATALOG_BYTES} bytes: split the catalog"
            raise _Refused(1, 1, "too_large", text)
        odd = any(packed[i : i + PAGE].translate(None, _PRINTABLE) for i in range(0, len(packed), PAGE))
        pages = range(0, len(self.text) if odd else 0, PAGE)
        if bad := next(filter(None, (_UNPRINTABLE.search(self.text, i, i + PAGE) for i in pages)), None):
            text = f"the character U+{ord(bad.group()):04X} is not allowed: remove it"
            raise _Refused(self.text.count("\n", 0, bad.start()) + 1, self._column(bad.start()), "yaml", text)
        if "%TAG" in self.text and (tag := _TAG_LINE.search(self.text)):
            line = self.text.count("\n", 0, tag.end()) + 1
            raise _Refused(line, 1, "tag", "%TAG lines are not allowed, nor are tags: remove it")

    def _column(self, index: int) -> int:
        return index - self.text.rfind("\n", 0, index)

    def _node(self, event: Any, where: Where, depth: int) -> Node:
        mark: Any = event.start_mark
        self.count += 1
        if self.count > NODES or depth > DEPTH:
            text = f"more than {NODES} values" if self.count > NODES else f"nested deeper than {DEPTH} levels"
            raise _Refused(mark.line + 1, mark.column + 1, "too_large", text)
        if isinstance(event, yaml.ScalarEvent):
            end: Any = event.end_mark
            node = Node(
                "scalar", where, mark.line + 1, mark.column + 1, event.value, event.style or "", mark.index, end.index
            )
            if event.tag is not None or event.anchor is not None:
                self._refuse_extras(event, node)
            return node
        node = Node("list", where, mark.line + 1, mark.column + 1)
        if isinstance(event, yaml.MappingStartEvent):
            node.kind = "map"
            node.entries = self._entries(node, depth)
        elif isinstance(event, yaml.SequenceStartEvent):
            items: list[Node] = []
            while not isinstance(event_of_item := self._next(), yaml.SequenceEndEvent):
                items.append(self._node(event_of_item, (where, len(items)), depth + 1))
            node.items = items
        else:
            self._break(node, "alias", "aliases (*name) are not allowed: write the value out")
        self._refuse_extras(event, node)
        return node

    def _refuse_extras(self, event: Any, node: Node) -> None:
        tag = getattr(event, "tag", None)
        if node.kind != "broken" and event.anchor is not None:
            self._break(node, "anchor", "anchors (&name) are not allowed: write the value out where it is needed")
        elif tag is not None and tag not in _CORE_TAGS:
            self._break(node, "tag", f"the tag {tag[:80]} is not allowed: remove it")
        elif tag == "tag:yaml.org,2002:str" and not node.style:
            node.style = "!"

    def _entries(self, node: Node, depth: int) -> list[tuple[Node, Node]]:
        entries: list[tuple[Node, Node]] = []
        lines: dict[str, int] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            key = self._node(event, node.where, depth + 1)
            if key.kind == "scalar":
                key.where = node.where, key.text
            elif key.kind != "broken":
                self._break(key, "key", "a key must be a word")
            value = self._node(self._next(), key.where, depth + 1)
            if value.kind != "scalar":
                value.line, value.column = key.line, key.column
            if key.kind == "scalar" and key.text in lines:
                repeated = f"is given twice, first in line {lines[key.text]}: keep one"
                self.sink.add(key, "duplicate_key", repeated, once=False)
            elif key.kind == "scalar":
                lines[key.text] = key.line
                entries.append((key, value))
        return entries

    def _break(self, node: Node, code: str, message: str) -> None:
        node.kind = "broken"
        self.sink.add(node, code, message)


def _nth(items: Sequence[Node], number: int) -> Node | None:
    return items[number] if number < len(items) else None


class _Pages:
    """A text as libyaml reads it: in pieces, between which other threads have their turn."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def read(self, size: int = PAGE, /) -> str:
        """Return the next piece; empty at the end."""
        self._at += size
        return self._text[self._at - size : self._at]


class _Refused(Exception):
    """The text as a whole cannot be read."""

    def __init__(self, line: int, column: int, code: str, message: str) -> None:
        super().__init__(message)
        self.line, self.column, self.code, self.message = line, column, code, message
