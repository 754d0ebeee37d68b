"""Counting what customers lived through: the same sums for nbx and for the policies it is compared with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from nbx.catalog.model import Catalog
from nbx.catalog.rules import Rules
from nbx.demo.world import Response, Visit
from nbx.experience.relationship import weighed


@dataclass(slots=True)
class VisitLived:
    """One visit and what its prompts led to. Mandatory notices are not counted: no policy chooses them."""

    at_ms: int
    seen: int = 0
    accepted: int = 0
    value: float = 0.0
    """Money of acceptances."""
    points: float = 0.0
    """Experience points, negative ones weighed by loss aversion."""
    outcomes: list[str] = field(default_factory=list)


class Tally:
    """Sums over visits.

    Parameters
    ----------
    catalog
        Says what actions are worth and what outcomes cost.
    """

    def __init__(self, catalog: Catalog) -> None:
        rules = Rules(catalog, 1)
        self._value = {action.name: action.value for action in catalog.actions}
        self._mandatory = {action.name for action in catalog.actions if action.action_class == "mandatory"}
        self._exchange = catalog.experience.exchange
        self._points = {outcome: weighed(points, catalog.experience) for outcome, points in rules.points.items()}
        self.visits: list[VisitLived] = []
        self.balances: list[float] = []
        """Balance of the compared customers at the end."""

    def visited(self, visit: Visit, slots: Sequence[tuple[str, Response]]) -> None:
        """Count a visit: its chosen actions with their responses."""
        lived = VisitLived(visit.at_ms)
        for action, response in slots:
            if action in self._mandatory:
                continue
            lived.outcomes.append(response.outcome)
            lived.seen += response.seen
            lived.points += self._points[response.outcome]
            if response.outcome == "accepted":
                lived.accepted += 1
                lived.value += self._value[action]
        self.visits.append(lived)

    def summary(self, part: slice | None = None) -> Summary:
        """Sum up all visits, or a part of them in time order."""
        visits = sorted(self.visits, key=lambda lived: lived.at_ms)[part or slice(None)]
        count = max(len(visits), 1)
        seen = max(sum(lived.seen for lived in visits), 1)
        chosen = max(sum(len(lived.outcomes) for lived in visits), 1)
        outcomes = Counter(outcome for lived in visits for outcome in lived.outcomes)
        value = sum(lived.value for lived in visits) / count
        return Summary(
            visits=len(visits),
            prompts=sum(lived.seen for lived in visits),
            accepted_of_seen=outcomes["accepted"] / seen,
            accepted_per_visit=outcomes["accepted"] / count,
            value_per_visit=value,
            worth_per_visit=value + self._exchange * sum(lived.points for lived in visits) / count,
            ignored_of_seen=outcomes["ignored"] / seen,
            complaints_per_thousand=1000 * outcomes["complained"] / chosen,
            failed_of_chosen=outcomes["failed"] / chosen,
            balance=sum(self.balances) / len(self.balances) if self.balances else 0.0,
            silent=sum(not lived.outcomes for lived in visits) / count,
        )


@dataclass(frozen=True, slots=True)
class Summary:
    """What is reported of a policy. Shares are ratios."""

    visits: int
    prompts: int
    """Seen by a customer."""
    accepted_of_seen: float
    accepted_per_visit: float
    value_per_visit: float
    """Money."""
    worth_per_visit: float
    """Money: value and exchange × experience points, which is what nbx maximises."""
    ignored_of_seen: float
    complaints_per_thousand: float
    """Per thousand prompts chosen."""
    failed_of_chosen: float
    balance: float
    """Mean relationship balance of the compared customers at the end, points."""
    silent: float
    """Share of visits without a chosen prompt."""
