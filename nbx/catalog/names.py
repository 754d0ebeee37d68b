"""Names a catalog declares, to look references up: what is not declared is a finding with the nearest that is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbx.catalog.conditions import did_you_mean
from nbx.catalog.findings import Finding, found

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from nbx.catalog.model import Catalog

PATIENCE = 50_000
"""Declared names that unknown ones are compared with in all: 0.1 s, however many faults there are."""
HINT = 200
"""Names whose comparison takes as long as the rest of a suggestion."""

_NOWHERE = {"channel": " No placement has it", "topic": " No action and no group has it"}


class Names:
    """Everything that can be referred to, by kind.

    Examples
    --------
    >>> from nbx.catalog.model import Catalog, Group
    >>> names = Names(Catalog(name="bank", groups=(Group(name="cards"),)))
    >>> [finding] = names.unknown("group", [("actions.a.group", "crads"), ("actions.b.group", "cards")])
    >>> finding.message
    'unknown group `crads`. Did you mean `cards`?'
    """

    def __init__(self, catalog: Catalog) -> None:
        self.features = {feature.name: feature for feature in catalog.features}
        self.placements = {placement.name: placement for placement in catalog.placements}
        self.actions = {action.name: action for action in catalog.actions}
        self.journeys = {journey.name: journey for journey in catalog.journeys}
        self.clusters = catalog.clusters
        self._known: dict[str, Collection[str]] = {
            "feature": self.features,
            "placement": self.placements,
            "channel": {placement.channel for placement in catalog.placements},
            "group": {group.name for group in catalog.groups},
            "action": self.actions,
            "budget": {budget.name for budget in catalog.budgets},
            "journey": self.journeys,
            "concern": {concern.name for concern in catalog.concerns},
            "topic": {action.topic for action in catalog.actions}
            | {topic for group in catalog.groups for topic in (group.topic, group.name)},
        }
        self._patience = PATIENCE

    def unknown(
        self, kind: str, references: Iterable[tuple[str, str]], known: Collection[str] | None = None
    ) -> Iterator[Finding]:
        """Yield a finding for each reference that leads nowhere.

        Parameters
        ----------
        kind
            Such as `action`.
        references
            (path, name) each. An empty name is skipped: whoever left it empty has reported that.
        known
            Names that exist; by default all of that kind.
        """
        if known is None:
            known = self._known[kind]
            where = _NOWHERE.get(kind, f" Declare it under {kind}s")
        else:
            where = f" There are {', '.join(known):.300}"
        for path, name in references:
            if name and name not in known:
                hint = "" if self._patience < 0 else did_you_mean(name, sorted(known))
                self._patience -= len(known) + HINT
                text = hint or (where if known else " None is declared")
                yield found(path, f"unknown_{kind}", f"unknown {kind} `{name}`.{text}")


def numbered(path: str, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield path and name of each member of a list of names."""
    return ((f"{path}[{i}]", name) for i, name in enumerate(names))


def keyed(path: str, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield path and name of each key of a mapping."""
    return ((f"{path}.{name}", name) for name in names)
