"""Where in a catalog file its conditions stand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbx.catalog.nodes import Sink, Tree
from nbx.catalog.parse import conditions_of

if TYPE_CHECKING:
    from nbx.catalog.model import Catalog

PLACED_BYTES = 300_000
"""Length of a file that is looked through, characters: some 800 actions and a third of a second."""


def condition_places(catalog: Catalog, text: str) -> dict[str, tuple[int, int]]:
    """Return path → line and column of every condition; empty for a file that is too long or does not read.

    Examples
    --------
    >>> from nbx.catalog.parse import parse_catalog
    >>> text = "catalog: bank\\ngroups:\\n  loans:\\n    eligible: 'true'\\n"
    >>> condition_places(parse_catalog(text), text)
    {'groups.loans.eligible': (4, 15)}
    """
    if len(text) > PLACED_BYTES:
        return {}
    tree = Tree(text.removeprefix("\ufeff"), Sink(""))
    if tree.read() is None:
        return {}
    nodes = ((path, tree.at(path)) for path, _ in conditions_of(catalog))
    return {path: (node.line, node.column) for path, node in nodes}
