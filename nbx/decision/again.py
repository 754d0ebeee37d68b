"""A decision asked again: the same request, budgets and luck, of the rules it was made with or of others.

What is on record is enough for all of it but the customer, whom `nbx.audit.rebuilding` folds out of the log.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct

from nbx.decision.choice import Choice, decide
from nbx.decision.examples import of_cluster
from nbx.decision.messages import DecideRequest
from nbx.errors import Invalid
from nbx.features.schema import Value, checked_values

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nbx.bandits.snapshot import BoundModel
    from nbx.catalog.plan import Plan
    from nbx.experience.entries import DecisionEntry
    from nbx.features.state import CustomerState

_NO_PURSE: Mapping[str, int] = MappingProxyType({})


class Again(Struct, frozen=True, kw_only=True):
    """Everything that a decision was made of."""

    plan: Plan
    """Of the release that decided."""
    model: BoundModel
    """Bound to the plan, with the record's cluster and quarantine; see `model_of`."""
    state: CustomerState
    """As it was; read only."""
    entry: DecisionEntry
    request: DecideRequest
    purse: Mapping[str, int] = _NO_PURSE

    def choice(
        self,
        *,
        state: CustomerState | None = None,
        request: DecideRequest | None = None,
    ) -> Choice:
        """Decide again, with the same luck; what is given takes the place of what was."""
        return decide(
            self.plan,
            self.model,
            self.state if state is None else state,
            self.request if request is None else request,
            self.entry.decision_id,
            self.entry.at_ms,
            salt=self.entry.policy.salt,
            purse=self.purse,
        )


def again(entry: DecisionEntry, plan: Plan, model: BoundModel, state: CustomerState) -> Again:
    """Gather what a decision was made of; the model may be of another snapshot, the state is the rebuilt one."""
    return Again(
        plan=plan,
        model=model_of(entry, model),
        state=state,
        entry=entry,
        request=asked_again(entry, plan),
        purse=purse_of(entry, plan),
    )


def same_rules(asked: Again) -> bool:
    """Tell whether the rules, asked again, remove what the record says they removed, for the same reasons."""
    choice = asked.choice()
    names = tuple(choice.placement.names[position] for position in choice.positions.tolist())
    removed = [(each.action, each.reason) for each in choice.removed]
    return names == asked.entry.actions and removed == [(each.action, each.reason) for each in asked.entry.removed]


def model_of(entry: DecisionEntry, model: BoundModel) -> BoundModel:
    """Return a model with what a record says was not to be trusted; of another snapshot, with its cluster too."""
    if model.quarantined != set(entry.quarantined):
        model = replace(model, quarantined=frozenset(entry.quarantined))
    if model.version == entry.snapshot:
        return model
    if entry.cluster >= 0:
        return of_cluster(model, entry.cluster)
    return replace(model, centres=np.empty((0, 0), np.float32))


def asked_again(entry: DecisionEntry, plan: Plan) -> DecideRequest:
    """Ask a release what was asked then, as far as it takes it: no more slots, no context of another type."""
    asked = entry.request
    context: dict[str, Value] = {}
    for name, value in asked.context.items():
        try:
            context |= checked_values({name: value}, plan.context_features, "context")
        except Invalid:
            continue
    return DecideRequest(
        customer_id=entry.customer_id,
        placement=asked.placement,
        slots=min(asked.slots, plan.placements[asked.placement].placement.slots),
        context=context,
        exclude=asked.exclude,
    )


def purse_of(entry: DecisionEntry, own: Plan) -> dict[str, int]:
    """Return what budgets had left, as far as the record tells: too little for the actions it removed for that."""
    purse: dict[str, int] = {}
    for removed in entry.removed:
        if removed.reason == "budget_spent":
            for budget in own.budgets:
                if removed.action in budget.amounts and removed.detail.startswith(f"{budget.resource}: "):
                    nothing = removed.detail.startswith(f"{budget.resource}: nothing")
                    left = 0 if nothing else budget.amounts[removed.action] - 1
                    purse[budget.resource] = min(purse.get(budget.resource, left), left)
    return purse
