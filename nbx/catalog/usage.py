"""Which profile features a placement uses: those its actions' conditions read, and those that are encoded in x."""

from __future__ import annotations

from collections.abc import Iterator

from nbx.catalog.conditions import compile_condition
from nbx.catalog.model import LAYERS, Action, Catalog, Policy


def used_features(catalog: Catalog) -> dict[str, frozenset[str]]:
    """Return placement → names of the profile features it uses.

    Examples
    --------
    >>> from nbx.catalog.model import Placement
    >>> used_features(Catalog(name="c", placements=(Placement(name="hero", channel="web", impressions="implicit"),)))
    {'hero': frozenset()}
    """
    profile = {f.name: f for f in catalog.features if f.origin == "profile"}
    encoded = frozenset(name for name, feature in profile.items() if feature.encoding.kind != "none")
    groups = {group.name: group for group in catalog.groups}
    read: dict[str, set[str]] = {placement.name: set() for placement in catalog.placements}
    for action in catalog.actions:
        own = set(_read(action)) | (set(_read(groups[action.group])) if action.group in groups else set())
        for treatment in action.treatments:
            for name in treatment.placements:
                if name in read:
                    read[name] |= own | set(_read(treatment))
    return {name: encoded | (names & profile.keys()) for name, names in read.items()}


def _read(owner: Policy) -> Iterator[str]:
    """Yield the customer's features that the conditions of a policy read."""
    sources = [source for layer in LAYERS if (source := getattr(owner, layer))]
    if isinstance(owner, Action) or hasattr(owner, "context_weights"):
        sources += [each.when for each in owner.context_weights]
    for source in sources:
        for path in compile_condition(source).paths:
            root, _, name = path.partition(".")
            if root == "customer":
                yield name
