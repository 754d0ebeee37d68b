"""YAML nodes of a specification, read as text, with the line of every fault."""

from __future__ import annotations

import yaml

DEPTH = 32
"""Levels of nesting; a specification needs ten."""
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class NodeReader:
    """Reads nodes and collects what is wrong with them.

    Parameters
    ----------
    source
        Name of the file, for messages.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.faults: list[str] = []

    def fault(self, node: yaml.Node | None, path: str, message: str) -> None:
        """Report at a node; None: the line is not known."""
        line = f":{node.start_mark.line + 1}" if node is not None and node.start_mark is not None else ""
        self.faults.append(f"{self.source}{line} {path}: {message}" if path else f"{self.source}{line}: {message}")

    def root(self, text: str) -> yaml.MappingNode | None:
        """Return the document, which has to be a mapping; None when a fault was reported."""
        depth = 0
        try:
            for event in yaml.parse(text, Loader=_LOADER):
                if isinstance(event, yaml.AliasEvent):
                    line = event.start_mark.line + 1 if event.start_mark is not None else 0
                    self.faults.append(f"{self.source}:{line}: aliases (*) are not allowed")
                    return None
                depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
                if depth > DEPTH:
                    self.faults.append(f"{self.source}: has more than {DEPTH} levels")
                    return None
            node = yaml.compose(text, Loader=_LOADER)
        except yaml.YAMLError as error:
            self.faults.append(f"{self.source}: is not YAML: {' '.join(str(error).split())}")
            return None
        if not isinstance(node, yaml.MappingNode):
            self.faults.append(f"{self.source}: must be a mapping with catalog, columns, action and reward")
            return None
        return node

    def fields(self, node: yaml.Node | None, path: str) -> dict[str, yaml.Node]:
        """Return the entries of a mapping by key."""
        if node is None:
            return {}
        if not isinstance(node, yaml.MappingNode):
            self.fault(node, path, "must be a mapping of key: value")
            return {}
        found: dict[str, yaml.Node] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self.fault(key, path, "a key must be one word")
            elif key.value in found:
                self.fault(key, f"{path}.{key.value}".lstrip("."), "is given twice")
            else:
                found[key.value] = value
        return found

    def known(
        self, node: yaml.Node | None, path: str, required: tuple[str, ...], optional: tuple[str, ...] = ()
    ) -> dict[str, yaml.Node]:
        """Return the entries of a mapping whose keys are known."""
        found = self.fields(node, path)
        for name in sorted(found.keys() - {*required, *optional}):
            names = ", ".join((*required, *optional))
            self.fault(found.pop(name), f"{path}.{name}".lstrip("."), f"unknown key; there are {names}")
        for name in required:
            if name not in found and (node is None or isinstance(node, yaml.MappingNode)):
                self.fault(node, f"{path}.{name}".lstrip("."), "is missing")
        return found

    def text(self, node: yaml.Node | None, path: str) -> str:
        """Return a scalar as it is written; empty when there is none."""
        if node is None:
            return ""
        if not isinstance(node, yaml.ScalarNode) or not node.value:
            self.fault(node, path, "must be one value")
            return ""
        return str(node.value)

    def texts(self, node: yaml.Node | None, path: str) -> frozenset[str]:
        """Return one scalar or a list of them."""
        if isinstance(node, yaml.SequenceNode):
            return frozenset(self.text(item, f"{path}[{i}]") for i, item in enumerate(node.value))
        return frozenset({self.text(node, path)}) if node is not None else frozenset()

    def number(self, node: yaml.Node | None, path: str, convert: type[int] | type[float]) -> float | int | None:
        """Return a number; None when there is none."""
        text = self.text(node, path)
        try:
            return convert(text) if text else None
        except ValueError:
            self.fault(node, path, f"must be a {'whole ' if convert is int else ''}number, found {text}")
            return None
