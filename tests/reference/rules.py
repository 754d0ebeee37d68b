"""The slow, obvious twin of all rules that remove an action: one action after the other, read from the catalog itself.

It shares no code with `nbx.decision`; conditions are asked of `cel`, and zones of `zoneinfo`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple
from zoneinfo import ZoneInfo

import cel

from nbx.catalog.model import Action, Catalog, ContactRule, Limit, Placement, Policy, Treatment
from nbx.features.schema import Value
from nbx.features.state import CustomerState


class Known(NamedTuple):
    """What is known when it is decided."""

    values: Mapping[str, Value]
    relationship: Mapping[str, float]
    journey: Mapping[str, str]
    concern: Mapping[str, bool]
    balance: float
    holdout: str
    zone: str
    purse: Mapping[str, int]
    now_ms: int


class Verdict(NamedTuple):
    """Reason ("": allowed), the treatment, and the weight of the moment."""

    reason: str
    treatment: str
    weight: float


class Rulebook:
    """The rules of a catalog for one placement and moment."""

    def __init__(self, catalog: Catalog, placement: Placement, state: CustomerState, known: Known) -> None:
        self.catalog, self.placement, self.state, self.known = catalog, placement, state, known
        self.groups = {group.name: group for group in catalog.groups}
        self.by_name = {action.name: action for action in catalog.actions}
        said = state.consent.get("personalise")
        default = catalog.consent.personalise == "opt_out"
        self.personalised = default if said is None else said.granted

    def verdicts(self, exclude: Sequence[str]) -> dict[str, Verdict]:
        """Judge every action of the placement."""
        found = {}
        for action in self.catalog.actions:
            treatments = [t for t in action.treatments if self.placement.name in t.placements]
            if treatments:
                found[action.name] = self._judge(action, treatments, exclude)
        return found

    def _judge(self, action: Action, treatments: Sequence[Treatment], exclude: Sequence[str]) -> Verdict:
        group = self.groups[action.group]
        weight = 1.0
        for each in (*group.context_weights, *action.context_weights):
            if self._holds(each.when) == "":
                weight *= each.weight
        early = self._before_treatment(action, exclude)
        if early:
            return Verdict(early, "", weight)
        chosen, first = "", ""
        for treatment in treatments:
            reason = self._term(treatment) or self._layers([treatment])
            first = first or reason
            if not reason:
                chosen = treatment.name
                break
        if not chosen:
            return Verdict(first, "", weight)
        return Verdict(self._after_treatment(action), chosen, weight)

    def _before_treatment(self, action: Action, exclude: Sequence[str]) -> str:
        group = self.groups[action.group]
        if action.name in exclude:
            return "excluded"
        if self.known.holdout == "silent" and action.action_class != "mandatory":
            return "holdout"
        for policy in (action, group):
            if self.known.now_ms < policy.starts_ms:
                return "not_started"
        for policy in (action, group):
            if policy.ends_ms and self.known.now_ms >= policy.ends_ms:
                return "ended"
        if action.action_class not in self.catalog.consent.exempt and not self._may_contact():
            return "no_consent"
        return self._layers([group, action])

    def _after_treatment(self, action: Action) -> str:
        now_ms, contact = self.known.now_ms, self.catalog.contact
        exempt = action.action_class in contact.exempt
        if self.known.balance < self.catalog.experience.floor and action.action_class == "promotional":
            return "experience_floor"
        if not exempt and self._is_quiet():
            return "quiet_hours"
        scopes = [action.name, f"group:{action.group}"]
        if not exempt:
            scopes += [f"channel:{self.placement.channel}", f"class:{action.action_class}", "overall"]
        if any(scope in self.state.pauses and self.state.pauses[scope].until_ms > now_ms for scope in scopes):
            return "paused"
        rules = {
            f"channel:{self.placement.channel}": contact.channels.get(self.placement.channel, ContactRule()),
            f"class:{action.action_class}": contact.classes.get(action.action_class, ContactRule()),
            "overall": contact.overall,
        }
        if not exempt and any(rule.gap_ms and self._too_soon(scope, rule.gap_ms) for scope, rule in rules.items()):
            return "too_soon"
        limits: list[tuple[str, Limit]] = [(action.name, limit) for limit in action.limits]
        limits += [(f"group:{action.group}", limit) for limit in self.groups[action.group].limits]
        if not exempt:
            limits += [(scope, limit) for scope, rule in rules.items() for limit in rule.limits]
        if any(self._used(scope, limit.per_ms) >= limit.max for scope, limit in limits):
            return "limit_reached"
        for budget in self.catalog.budgets:
            if action.name in budget.actions or action.group in budget.groups:
                if budget.units and self.known.purse.get(f"{budget.name}/units", 1) < 1:
                    return "budget_spent"
                left = self.known.purse.get(f"{budget.name}/money")
                if budget.money and left is not None and left < round(action.cost * 10_000):
                    return "budget_spent"
        return ""

    def _term(self, policy: Policy) -> str:
        if self.known.now_ms < policy.starts_ms:
            return "not_started"
        return "ended" if policy.ends_ms and self.known.now_ms >= policy.ends_ms else ""

    def _layers(self, owners: Sequence[Policy]) -> str:
        for layer in ("eligible", "applicable", "suitable"):
            for owner in owners:
                source = getattr(owner, layer)
                if source and (failure := self._holds(source)):
                    return f"not_{layer}" if failure == "no" else failure
        return ""

    def _holds(self, source: str) -> str:
        """Return "" when a condition holds, "no", or the reason why it cannot be asked."""
        personal = {f.name for f in self.catalog.features if f.is_personal}
        words = source.replace("(", " ").replace(")", " ").replace("!", " ").split()
        names = [word.strip(",[]") for word in words if "." in word]
        reads = any(
            name.split(".")[0] in ("relationship", "journey", "concern") or name.partition(".")[2] in personal
            for name in names
            if not name[0].isdigit()
        )
        if reads and not self.personalised:
            return "needs_personalise"
        context = {f.name for f in self.catalog.features if f.origin == "context"}
        spot = {"placement": self.placement.name, "channel": self.placement.channel}
        variables = {
            "customer": {k: v for k, v in self.known.values.items() if k not in context},
            "request": {k: v for k, v in self.known.values.items() if k in context} | spot,
            "relationship": dict(self.known.relationship),
            "journey": dict(self.known.journey),
            "concern": dict(self.known.concern),
        }
        return "" if cel.evaluate(source, variables) else "no"

    def _may_contact(self) -> bool:
        said = self.state.consent
        own, general = said.get(f"contact:{self.placement.channel}"), said.get("contact")
        if own is not None and general is not None:
            return own.granted and (general.granted or general.at_ms <= own.at_ms)
        if own is not None or general is not None:
            return (own or general).granted  # type: ignore[union-attr]
        policy = self.catalog.consent
        return policy.channels.get(self.placement.channel, policy.contact) == "opt_out"

    def _is_quiet(self) -> bool:
        local = datetime.fromtimestamp(self.known.now_ms / 1000, UTC).astimezone(ZoneInfo(self.known.zone))
        minute, today = local.hour * 60 + local.minute, local.weekday()
        for hours in self.catalog.contact.quiet_hours:
            if hours.channels and self.placement.channel not in hours.channels:
                continue
            if hours.from_minute < hours.to_minute:
                if hours.from_minute <= minute < hours.to_minute and (not hours.days or today in hours.days):
                    return True
            elif (minute >= hours.from_minute and (not hours.days or today in hours.days)) or (
                minute < hours.to_minute and (not hours.days or (today - 1) % 7 in hours.days)
            ):
                return True
        return False

    def _counts(self, scope: str) -> list[int]:
        kind, _, name = scope.partition(":")
        if kind == "channel":
            return list(self.state.touches.get(name, []))
        if scope == "overall":
            return [at_s for times in self.state.touches.values() for at_s in times]
        return [
            at_s for action, times in self.state.exposures.items() if self._in(action, kind, name) for at_s in times
        ]

    def _in(self, action: str, kind: str, name: str) -> bool:
        if action not in self.by_name:
            return False
        known = self.by_name[action]
        return {"group": known.group == name, "class": known.action_class == name}.get(kind, action == kind)

    def _open(self, scope: str) -> int:
        kind, _, name = scope.partition(":")
        count = 0
        for reserved in self.state.reserved.values():
            if reserved.until_ms > self.known.now_ms:
                on_channel = kind == "channel" and reserved.channel == name
                count += scope == "overall" or on_channel or self._in(reserved.action, kind, name)
        return count

    def _used(self, scope: str, per_ms: int) -> int:
        # an exposure counts while any moment of its second is in the window
        seen = sum(1 for at_s in self._counts(scope) if at_s * 1000 + 999 >= self.known.now_ms - per_ms)
        return seen + self._open(scope)

    def _too_soon(self, scope: str, gap_ms: int) -> bool:
        times = self._counts(scope)
        return self._open(scope) > 0 or (bool(times) and self.known.now_ms < (max(times) + 1) * 1000 + gap_ms)
