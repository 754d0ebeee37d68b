"""The specification of a back-test: which column is which feature, what was shown, what came of it.

The file is read as YAML nodes, not as values: every scalar stays the text that is written (`1` and `"1"` are the same,
`no` is not `false`), as the columns of a CSV file are text too, and every fault knows its line. The catalog, when it
stands in the file, is handed to the catalog's own parser with everything around it blanked out, so its faults have the
right lines as well. All faults are told at once.

A back-test compares responses, so its catalog may hold nothing else that sways a choice: unequal values, an exchange
for experience, limits and pauses are refused here. Against a service of its own (`--url`) they are only pointed out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct, field

from nbx.backtest.nodes import NodeReader
from nbx.catalog.model import Catalog
from nbx.catalog.parse import CatalogFaults, parse_catalog
from nbx.errors import SetupError
from nbx.features.schema import Feature, Value
from nbx.limits import CATALOG_BYTES, CONTEXT_KEYS, TEXT_LENGTH

NONE = "none"
"""Stands for silence among the actions."""
NEGATIVE_EVENTS = ("declined", "dismissed")
TRUE = frozenset({"true", "t", "yes", "y", "1"})
FALSE = frozenset({"false", "f", "no", "n", "0"})
_SEPARATORS = {"tab": "\t", "comma": ",", "semicolon": ";"}


class ColumnSpec(Struct, frozen=True, kw_only=True):
    """Where a feature's value comes from."""

    column: str
    values: dict[str, Value] = field(default_factory=dict)
    """Text in the data → value of the feature; empty: the text itself."""


class Spec(Struct, frozen=True, kw_only=True):
    """A specification that has been checked."""

    source: str
    catalog: Catalog
    catalog_text: str
    """The catalog as it was written: what a private service publishes."""
    placement: str
    columns: dict[str, ColumnSpec]
    """Feature → column."""
    action_column: str
    actions: dict[str, str]
    """Text in the data → action of the catalog, or `none`."""
    probabilities: dict[str, float]
    """Action → chance with which the log showed it."""
    reward_column: str
    positive: frozenset[str]
    negative: frozenset[str]
    """Empty: whatever is not positive."""
    negative_event: str = "declined"
    id_column: str = ""
    """Empty: every row is a customer of its own."""
    shuffle: int | None = None
    separator: str = ""
    """Empty: found out."""

    @property
    def data_columns(self) -> dict[str, str]:
        """Column → the field of the specification that names it first."""
        named = {self.action_column: "action.column", self.reward_column: "reward.column"}
        if self.id_column:
            named.setdefault(self.id_column, "id")
        for feature, mapped in self.columns.items():
            named.setdefault(mapped.column, f"columns.{feature}")
        return named


def read_spec(path: Path) -> Spec:
    """Read and check a specification.

    Raises
    ------
    SetupError
        The file cannot be read, or anything in it is wrong: `faults` has one line each, with file, line and field.
    """
    try:
        text = path.read_bytes()[: CATALOG_BYTES + 1].decode()
    except OSError as error:
        raise SetupError(f"--spec {path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SetupError(f"--spec {path}: is not UTF-8 text: {error}") from error
    if len(text) > CATALOG_BYTES:
        raise SetupError(f"--spec {path}: has more than {CATALOG_BYTES} bytes")
    reader = NodeReader(str(path))
    spec = _spec(reader, path, text)
    if reader.faults or spec is None:
        count = len(reader.faults)
        raise SetupError(
            f"the specification has {'a fault' if count == 1 else f'{count} faults'}", faults=tuple(reader.faults)
        )
    return spec


def feature_value(feature: Feature, text: str) -> Value:
    """Convert text to a value of the feature; `ValueError` with the reason when it is none.

    Examples
    --------
    >>> from nbx.features.schema import Encoding
    >>> feature_value(Feature(name="x", type="boolean", encoding=Encoding(kind="flag"), default=False), "Yes")
    True
    """
    if feature.type == "category":
        if len(text) > TEXT_LENGTH:
            raise ValueError(f"has more than {TEXT_LENGTH} characters")
        return text
    if feature.type == "boolean":
        word = text.strip().casefold()
        if word not in TRUE | FALSE:
            raise ValueError("is neither yes nor no")
        return word in TRUE
    try:
        number = float(text)
    except ValueError:
        raise ValueError("is not a number") from None
    if not -1e300 < number < 1e300:
        raise ValueError("is not a finite number")
    return number


def service_faults(spec: Spec, catalog: Catalog) -> Iterator[str]:
    """Say what a service's catalog lacks for this specification."""
    placement = next((p for p in catalog.placements if p.name == spec.placement), None)
    if placement is None:
        names = ", ".join(p.name for p in catalog.placements) or "none"
        yield f"placement {spec.placement} is not in force there; it has {names}"
    elif placement.impressions != "reported":
        yield f"placement {spec.placement} has implicit impressions: rows that do not count would be learned as ignored"
    shown = {a.name for a in catalog.actions if any(spec.placement in t.placements for t in a.treatments)}
    for action in spec.probabilities:
        if action != NONE and action not in shown:
            yield f"action {action} has no treatment for placement {spec.placement} there"
    features = {f.name: f for f in catalog.features}
    wanted = {f.name: f for f in spec.catalog.features}
    for name in spec.columns:
        here, there = wanted[name], features.get(name)
        if there is None:
            yield f"feature {name} is not declared there"
        elif (there.type, there.origin) != (here.type, here.origin):
            yield f"feature {name} is a {there.type} from {there.origin} there, a {here.type} from {here.origin} here"


def swaying(catalog: Catalog, actions: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    """Yield field and reason of everything but the response that sways the choice among these actions."""
    if catalog.experience.exchange != 0.0:
        yield "experience.exchange", f"is {catalog.experience.exchange:g}: write exchange: 0, only the response counts"
    ours = [action for action in catalog.actions if action.name in actions]
    if len({action.value for action in ours}) > 1 or any(action.value <= 0.0 for action in ours):
        yield "actions", "must have one and the same value > 0: write value: 1, only the response counts"
    for action in ours:
        if action.action_class == "mandatory":
            yield f"actions.{action.name}.class", "is mandatory: a back-test needs a choice"
        if action.limits or action.pause:
            yield f"actions.{action.name}", "has limits or a pause: remove them, a log knows no such rule"
    for group in catalog.groups:
        if (group.limits or group.pause) and any(action.group == group.name for action in ours):
            yield f"groups.{group.name}", "has limits or a pause: remove them, a log knows no such rule"


def _spec(read: NodeReader, path: Path, text: str) -> Spec | None:
    root = read.root(text)
    if root is None:
        return None
    required, optional = ("catalog", "columns", "action", "reward"), ("placement", "id", "shuffle", "separator")
    top = read.known(root, "", required, optional)
    found = _catalog(read, path, text, top.get("catalog"))
    reward = read.known(top.get("reward"), "reward", ("column", "positive"), ("negative", "negative_event"))
    action = read.known(top.get("action"), "action", ("column", "values"), ("probabilities",))
    event = read.text(reward.get("negative_event"), "reward.negative_event") or NEGATIVE_EVENTS[0]
    if event not in NEGATIVE_EVENTS:
        read.fault(
            reward["negative_event"], "reward.negative_event", f"must be {' or '.join(NEGATIVE_EVENTS)}, found {event}"
        )
    positive = read.texts(reward.get("positive"), "reward.positive")
    negative = read.texts(reward.get("negative"), "reward.negative")
    if both := positive & negative:
        read.fault(reward["negative"], "reward.negative", f"{', '.join(sorted(both))} is positive too")
    shuffle = read.number(top.get("shuffle"), "shuffle", int)
    if shuffle is not None and shuffle < 0:
        read.fault(top["shuffle"], "shuffle", "must be a seed >= 0")
    actions = {
        value: read.text(node, f"action.values.{value}")
        for value, node in read.fields(action.get("values"), "action.values").items()
    }
    probabilities = _probabilities(read, action.get("probabilities"), action.get("values"), actions)
    separator = read.text(top.get("separator"), "separator")
    separator = _SEPARATORS.get(separator, separator)
    if len(separator) > 1 or separator in ('"', "\n", "\r"):
        read.fault(top["separator"], "separator", "must be one character, or comma, semicolon or tab")
    if found is None:
        return None
    catalog, catalog_text = found
    placement = _placement(read, top, catalog, actions)
    for field_path, message in swaying(catalog, probabilities):
        read.fault(top["catalog"], f"catalog.{field_path}", message)
    return Spec(
        source=str(path),
        catalog=catalog,
        catalog_text=catalog_text,
        placement=placement,
        columns=_columns(read, top.get("columns"), catalog),
        action_column=read.text(action.get("column"), "action.column"),
        actions=actions,
        probabilities=probabilities,
        reward_column=read.text(reward.get("column"), "reward.column"),
        positive=positive,
        negative=negative,
        negative_event=event,
        id_column=read.text(top.get("id"), "id"),
        shuffle=int(shuffle) if shuffle is not None else None,
        separator=separator,
    )


def _catalog(read: NodeReader, path: Path, text: str, node: yaml.Node | None) -> tuple[Catalog, str] | None:
    """Parse the catalog, inline or from the file that is named, relative to the specification."""
    if node is None:
        return None
    source = path
    if isinstance(node, yaml.ScalarNode):
        source = path.parent / read.text(node, "catalog")
        try:
            text = source.read_text()
        except (OSError, UnicodeDecodeError) as error:
            read.fault(node, "catalog", f"{source} cannot be read: {error}")
            return None
    else:
        assert node.start_mark is not None
        assert node.end_mark is not None
        start, end = node.start_mark.index, node.end_mark.index
        text = "".join(c if c == "\n" else " " for c in text[:start]) + text[start:end]
    try:
        catalog = parse_catalog(text, source=str(source))
    except CatalogFaults as error:
        read.faults += error.faults
        return None
    return catalog, text


def _columns(read: NodeReader, node: yaml.Node | None, catalog: Catalog) -> dict[str, ColumnSpec]:
    features = {feature.name: feature for feature in catalog.features}
    found: dict[str, ColumnSpec] = {}
    for name, entry in read.fields(node, "columns").items():
        path = f"columns.{name}"
        feature = features.get(name)
        if feature is None:
            read.fault(entry, path, "is no feature of the catalog")
            continue
        if feature.origin not in ("context", "profile"):
            read.fault(entry, path, "is folded from events: only features from context or profile have a column")
            continue
        if isinstance(entry, yaml.ScalarNode):
            found[name] = ColumnSpec(column=read.text(entry, path))
            continue
        fields = read.known(entry, path, ("column",), ("values",))
        values: dict[str, Value] = {}
        for raw, value in read.fields(fields.get("values"), f"{path}.values").items():
            text = read.text(value, f"{path}.values.{raw}")
            try:
                values[raw] = feature_value(feature, text)
            except ValueError as error:
                read.fault(value, f"{path}.values.{raw}", f"{text!r} {error}; {name} is a {feature.type}")
        found[name] = ColumnSpec(column=read.text(fields.get("column"), f"{path}.column"), values=values)
    if len(found) > CONTEXT_KEYS:
        read.fault(node, "columns", f"has {len(found)} features, at most {CONTEXT_KEYS} can be sent with a decision")
    return found


def _probabilities(
    read: NodeReader, node: yaml.Node | None, values: yaml.Node | None, actions: Mapping[str, str]
) -> dict[str, float]:
    names = list(dict.fromkeys(action for action in actions.values() if action))
    if values is not None and len(names) < 2:
        read.fault(values, "action.values", "must lead to at least two actions")
    if node is None:
        return dict.fromkeys(names, 1.0 / max(len(names), 1))
    fields = read.fields(node, "action.probabilities")
    found: dict[str, float] = {}
    for name, entry in fields.items():
        number = read.number(entry, f"action.probabilities.{name}", float)
        if name not in names:
            read.fault(entry, f"action.probabilities.{name}", "is none of the actions under action.values")
        elif number is not None and not 0.0 < number < 1.0:
            read.fault(entry, f"action.probabilities.{name}", "must be between 0 and 1")
        elif number is not None:
            found[name] = number
    complete = found.keys() == set(names)
    if fields.keys() >= set(names) and complete and abs(sum(found.values()) - 1.0) > 1e-6:
        read.fault(node, "action.probabilities", f"must sum to 1, sum to {sum(found.values()):g}")
    for name in [name for name in names if name not in fields]:
        read.fault(node, f"action.probabilities.{name}", "is missing")
    return found if complete else dict.fromkeys(names, 1.0 / max(len(names), 1))


def _placement(read: NodeReader, top: Mapping[str, Any], catalog: Catalog, actions: Mapping[str, str]) -> str:
    """Check placement and actions against the catalog; returns the placement."""
    names = [placement.name for placement in catalog.placements]
    name = read.text(top.get("placement"), "placement")
    if not name and len(names) == 1:
        name = names[0]
    if not name:
        read.fault(top["catalog"], "placement", f"say which one: the catalog has {', '.join(names) or 'none'}")
        return ""
    node = top.get("placement")
    if name not in names:
        read.fault(node, "placement", f"{name} is not in the catalog, which has {', '.join(names)}")
        return name
    if next(p for p in catalog.placements if p.name == name).impressions != "reported":
        words = "must have impressions: reported, else rows that do not count would be learned as ignored"
        read.fault(top["catalog"], f"catalog.placements.{name}", words)
    shown = {a.name for a in catalog.actions if any(name in t.placements for t in a.treatments)}
    for value, action in actions.items():
        if action and action != NONE and action not in shown:
            read.fault(top["action"], f"action.values.{value}", f"{action} is no action of the catalog at {name}")
    for extra in sorted(shown - set(actions.values())):
        read.fault(top["action"], "action.values", f"no value leads to {extra}, which the catalog shows at {name}")
    return name
