"""Hard rules: which actions are candidates now, and a reason code for each that is not.

A rule can only remove. The first reason found is the one reported, in the order of `nbx.catalog.model.REASONS`: what
the caller and the holdout say, terms, consent, the engagement policy in its three layers, then how the customer is
treated: experience floor, open obligations, asks without gives, quiet hours, pauses, gaps, limits, and at last budgets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nbx.catalog.conditions import ConditionError, build_context
from nbx.catalog.model import LAYERS
from nbx.catalog.plan import Option, PlacementPlan, Plan, Positions
from nbx.decision.budgets import unaffordable
from nbx.decision.contact_policy import Contacts, reached_limits, too_soon
from nbx.decision.facts import Facts
from nbx.decision.quiet_hours import quiet
from nbx.experience.entries import Removed
from nbx.features.schema import Value
from nbx.limits import STOPPED_MS

if TYPE_CHECKING:
    from cel import Context

F32 = NDArray[np.float32]
NOT_IN_LAYER = {layer: f"not_{layer}" for layer in LAYERS}


class Candidates(NamedTuple):
    """What is left, and why the rest is not."""

    positions: Positions
    """Ascending positions into the arrays of the placement."""
    removed: tuple[Removed, ...]
    """One for each other action of the placement, in the order of the rules."""
    treatments: dict[int, Option]
    """Position → treatment, where it is not the first."""
    context_weight: F32
    """float32[n] over the whole placement."""


def candidates(
    plan: Plan,
    placement: PlacementPlan,
    facts: Facts,
    contacts: Contacts,
    exclude: Iterable[str],
    purse: Mapping[str, int],
) -> Candidates:
    """Apply every rule.

    Parameters
    ----------
    plan, placement
        The release and its part for the placement.
    facts, contacts
        Customer, request and time.
    exclude
        Actions the caller does not want.
    purse
        What budgets leave: resource → amount; a resource that is not in it is not bounded.
    """
    filter_ = _Filter(placement)
    for name in exclude:
        if name in placement.position:
            filter_.remove(np.array([placement.position[name]]), "excluded")
    if facts.holdout == "silent":
        filter_.remove(placement.optional, "holdout", "silent")
    _keep_terms(filter_, placement, facts.now_ms)
    if not facts.may_contact:
        filter_.remove(placement.consenting, "no_consent", f"contact on {placement.placement.channel}")
    conditions = _Conditions(plan, placement, facts)
    for check in placement.checks:
        failure = conditions.failure(check.number, NOT_IN_LAYER[check.layer])
        if failure is not None:
            filter_.remove(check.positions, *failure)
    treatments = _choose_treatments(filter_, placement, conditions, facts.now_ms)
    _keep_peace(filter_, plan, placement, facts)
    until_ms = quiet(plan.catalog.contact.quiet_hours, placement.placement.channel, facts.zone, facts.now_ms)
    if until_ms:
        filter_.remove(placement.quieted, "quiet_hours", f"{facts.zone}, until {until_ms}")
    _keep_pauses(filter_, placement, facts)
    if contacts.most:
        for positions, detail in too_soon(contacts, placement):
            filter_.remove(positions, "too_soon", detail)
        for positions, detail in reached_limits(contacts, placement):
            filter_.remove(positions, "limit_reached", detail)
    if placement.budgets:
        for position, detail in unaffordable(placement.budgets, purse, facts.now_ms):
            filter_.remove(np.array([position]), "budget_spent", detail)
    left = np.flatnonzero(filter_.open) if filter_.removed else placement.everything
    weight = _context_weight(placement, conditions)
    if facts.obligations and len(placement.recovery):
        weight = weight.copy()
        weight[placement.recovery] *= np.float32(plan.rules.experience.recovery_boost)
    return Candidates(left, tuple(filter_.removed), treatments, weight)


class _Filter:
    """Which actions are still in, and why the others are out."""

    def __init__(self, placement: PlacementPlan) -> None:
        self._names = placement.names
        self.open = placement.nothing_removed.copy()
        self.removed: list[Removed] = []

    def remove(self, positions: Positions, reason: str, detail: str = "") -> None:
        """Take actions out that are still in."""
        going = positions[self.open[positions]]
        if len(going):
            self.open[going] = False
            names = self._names
            self.removed += [Removed(names[position], reason, detail) for position in going.tolist()]


class _Conditions:
    """Answers each condition, and evaluates none twice."""

    def __init__(self, plan: Plan, placement: PlacementPlan, facts: Facts) -> None:
        self._plan = plan
        self._placement = placement
        self._facts = facts
        self._distrusted = {f"customer.{name}" for name in facts.quarantined}
        self._asked: dict[int, tuple[str, str] | None] = {}
        self._context: Context | None = None
        self._compiled = placement.compiled
        self._held: tuple[bool, ...] = ()
        if self._compiled:
            try:
                self._held = placement.evaluate(facts.values, facts.relationship, facts.journey, facts.concern)
            except Exception:  # noqa: BLE001 - a value is not of its type, and `cel` knows what comes of that
                self._compiled = {}

    def failure(self, number: int, reason: str) -> tuple[str, str] | None:
        """Return reason and detail when a condition does not hold; `reason` is that of one which is simply false."""
        plan = self._plan
        if not self._facts.personalised and number in plan.personal:
            return "needs_personalise", plan.conditions[number].source
        if self._distrusted and not self._distrusted.isdisjoint(plan.conditions[number].paths):
            return "quarantined", plan.conditions[number].source
        place = self._compiled.get(number, -1)
        if place >= 0:
            return None if self._held[place] else (reason, plan.conditions[number].source)
        if number not in self._asked:
            self._asked[number] = self._ask(number)
        failed = self._asked[number]
        return failed if failed is None or failed[0] else (reason, failed[1])

    def _ask(self, number: int) -> tuple[str, str] | None:
        """Ask `cel`."""
        condition = self._plan.conditions[number]
        if self._context is None:
            self._context = build_context(condition_values(self._placement, self._facts))
        try:
            return None if condition.holds(self._context) else ("", condition.source)
        except ConditionError as error:
            return "condition_error", f"{condition.source}: {error.message}"


def condition_values(placement: PlacementPlan, facts: Facts) -> dict[str, dict[str, Value]]:
    """Collect what the placement's conditions read, by root."""
    spot = placement.placement
    sources: dict[str, Mapping[str, Value]] = {
        "customer": facts.values,
        "request": facts.values,
        "relationship": facts.relationship,
        "journey": facts.journey,
        "concern": facts.concern,
    }
    found: dict[str, dict[str, Value]] = {root: {} for root in sources}
    for path in placement.paths:
        root, _, name = path.partition(".")
        if root == "request" and name not in facts.values:
            found[root][name] = spot.name if name == "placement" else spot.channel
        else:
            found[root][name] = sources[root][name]
    return found


def _keep_terms(filter_: _Filter, placement: PlacementPlan, now_ms: int) -> None:
    for term in placement.terms:
        if now_ms < term.starts_ms:
            filter_.remove(term.positions, "not_started", f"from {term.starts_ms}")
        elif term.ends_ms and now_ms >= term.ends_ms:
            filter_.remove(term.positions, "ended", f"at {term.ends_ms}")


def _keep_peace(filter_: _Filter, plan: Plan, placement: PlacementPlan, facts: Facts) -> None:
    """Take out what the relationship does not bear now: overdrawn, owing, or asking without giving."""
    if facts.balance < (floor := plan.rules.experience.floor):
        filter_.remove(
            np.flatnonzero(placement.promotional), "experience_floor", f"balance {facts.balance:.2f} < {floor:g}"
        )
    for topic, since_ms in facts.obligations.items():
        if topic in placement.on_topic:
            filter_.remove(placement.on_topic[topic], "obligation_open", f"{topic}, since {since_ms}")
    if (most := plan.rules.experience.asks_per_give) and len(placement.asking):
        over = placement.asking[facts.asked + placement.asks > most * (facts.given + 1.0)]
        filter_.remove(
            over, "asks_too_much", f"asked {facts.asked:.2f}, given {facts.given:.2f}, at most {most:g} each"
        )


def _keep_pauses(filter_: _Filter, placement: PlacementPlan, facts: Facts) -> None:
    """Remove what the customer asked not to see, then what an outcome paused."""
    for scope, word in facts.state.controls.items():
        if word.until_ms > facts.now_ms and scope in placement.pausable:
            where = "" if scope in placement.position else f"{scope}: "
            end = "" if word.until_ms == STOPPED_MS else f", until {word.until_ms}"
            filter_.remove(placement.pausable[scope], "paused", f"{where}the customer asked{end}")
    for scope, pause in facts.state.pauses.items():
        if pause.until_ms > facts.now_ms and scope in placement.pausable:
            where = "" if scope in placement.position else f"{scope}: "
            filter_.remove(placement.pausable[scope], "paused", f"{where}{pause.outcome}, until {pause.until_ms}")


def _choose_treatments(
    filter_: _Filter, placement: PlacementPlan, conditions: _Conditions, now_ms: int
) -> dict[int, Option]:
    """Find the first treatment whose policy holds; without any the action is out, for the first one's reason."""
    chosen: dict[int, Option] = {}
    for position in placement.choosy:
        if not filter_.open[position]:
            continue
        reason: tuple[str, str] | None = None
        for number, option in enumerate(placement.options[position]):
            failure = _option_failure(option, conditions, now_ms)
            if failure is None:
                if number:
                    chosen[position] = option
                break
            reason = reason or (failure[0], f"treatment {option.name}: {failure[1]}")
        else:
            assert reason is not None
            filter_.remove(np.array([position]), *reason)
    return chosen


def _option_failure(option: Option, conditions: _Conditions, now_ms: int) -> tuple[str, str] | None:
    if now_ms < option.starts_ms:
        return "not_started", f"from {option.starts_ms}"
    if option.ends_ms and now_ms >= option.ends_ms:
        return "ended", f"at {option.ends_ms}"
    for layer, number in option.checks:
        failure = conditions.failure(number, NOT_IN_LAYER[layer])
        if failure is not None:
            return failure
    return None


def _context_weight(placement: PlacementPlan, conditions: _Conditions) -> F32:
    weight = placement.context_weight
    for each in placement.weights:
        if conditions.failure(each.number, "") is None:
            if weight is placement.context_weight:
                weight = weight.copy()
            weight[each.positions] *= np.float32(each.weight)
    return weight
