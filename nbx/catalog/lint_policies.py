"""What conditions say together and probably should not: layers that clash, treatments nobody gets, idle weights.

Everything here is proved (`nbx.catalog.condition_logic`): a warning says that something can never happen, whatever the
customer. What is not proved is not warned of. A layer that can never hold is told once, not again wherever it stands.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from nbx.catalog.findings import Finding, found
from nbx.catalog.model import LAYERS
from nbx.catalog.vocabulary import is_personal_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from nbx.catalog.condition_logic import Logic
    from nbx.catalog.model import Action, Catalog, ContextWeight, Group, Policy, Treatment


def policy_warnings(catalog: Catalog, logic: Logic) -> list[Finding]:
    """Return what follows from conditions and terms; some 0.3 ms per distinct condition.

    Codes:

    - `never_eligible`: a layer that can never hold by itself, or terms of group, action and treatment without a common
      moment.
    - `contradictory_layers`: layers of group, action and treatment that can never hold together.
    - `unreachable_treatment`: an earlier treatment of the placement is taken wherever this one could be.
    - `no_treatment_for_placement`: actions are made for a placement, and none can ever be shown there.
    - `weight_never_applies`: its condition can never hold where the action may be shown, or it is 1.
    """
    return list(_Policies(catalog, logic).warnings())


class _Policies:
    def __init__(self, catalog: Catalog, logic: Logic) -> None:
        self._catalog = catalog
        self._logic = logic
        self._groups = {group.name: group for group in catalog.groups}
        self._channels = {placement.name: placement.channel for placement in catalog.placements}
        self._never: dict[str, bool] = {}
        self._personal: dict[str, bool] = {}
        self._shown: set[str] = set()
        """Placements with something that may be shown."""

    def warnings(self) -> Iterator[Finding]:
        for group in self._catalog.groups:
            yield from self._layers(f"groups.{group.name}", group)
            yield from self._weights(f"groups.{group.name}", group.context_weights, _sources(group))
        for action in self._catalog.actions:
            yield from self._action(action, self._groups.get(action.group))
        made_for = {name for action in self._catalog.actions for each in action.treatments for name in each.placements}
        for placement in self._catalog.placements:
            if placement.name in made_for - self._shown:
                text = "no action that is made for it can ever be shown there, see their warnings: it answers none"
                yield found(f"placements.{placement.name}", "no_treatment_for_placement", text)

    def _action(self, action: Action, group: Group | None) -> Iterator[Finding]:
        path = f"actions.{action.name}"
        around = [group] if group is not None else []
        yield from self._layers(path, action)
        sources = [source for policy in (*around, action) for source in _sources(policy)]
        clash = [*_no_common_moment(path, [*around, action]), *self._clash(path, sources)]
        yield from clash
        if not clash:
            yield from self._weights(path, action.context_weights, sources)
        for treatment in action.treatments:
            where = f"{path}.treatments.{treatment.name}"
            yield from self._layers(where, treatment)
            if clash or self._blocked(sources):
                continue
            moment = [] if treatment.starts_ms == treatment.ends_ms else [*around, action, treatment]
            problems = [*_no_common_moment(where, moment), *self._clash(where, [*sources, *_sources(treatment)])]
            yield from problems
            for i, name in enumerate(treatment.placements):
                if not problems:
                    yield from self._on_placement(f"{where}.placements[{i}]", name, action, treatment, sources)

    def _on_placement(
        self, path: str, placement: str, action: Action, treatment: Treatment, sources: Sequence[str]
    ) -> Iterator[Finding]:
        held = [*_place(placement, self._channels.get(placement, "")), *sources, *_sources(treatment)]
        clash = list(self._clash(path, held))
        yield from clash
        earlier = next(
            (each for each in _before(action, treatment, placement) if self._takes_all(each, treatment, held)), None
        )
        if earlier is not None:
            text = (
                f"is never used there: wherever it could be, `{earlier.name}` comes first. Put it before that one, or "
                "narrow the policy of that one"
            )
            yield found(path, "unreachable_treatment", text)
        if not clash and not self._blocked(held):
            self._shown.add(placement)

    def _takes_all(self, earlier: Treatment, later: Treatment, held: Sequence[str]) -> bool:
        """Tell whether an earlier treatment may be used whenever a later one may."""
        lasts = not earlier.ends_ms or 0 < later.ends_ms <= earlier.ends_ms
        if not lasts or earlier.starts_ms > later.starts_ms:
            return False
        layers = _sources(earlier)
        # of a customer who does not agree to it being used, nothing personal holds
        if any(map(self._is_personal, layers)) and not any(map(self._is_personal, held)):
            return False
        return all(self._logic.implies(held, source) for source in layers)

    def _is_personal(self, source: str) -> bool:
        if source not in self._personal:
            names = self._logic.names(source)
            self._personal[source] = any(is_personal_path(name, self._catalog.features) for name in names)
        return self._personal[source]

    def _layers(self, path: str, policy: Policy) -> Iterator[Finding]:
        for layer in LAYERS:
            source: str = getattr(policy, layer)
            if source and self._blocked([source]):
                text = f"can never hold: {self._told([source])}. Nobody is left; correct it"
                yield found(f"{path}.{layer}", "never_eligible", text)

    def _blocked(self, sources: Iterable[str]) -> bool:
        """Tell whether one of some conditions can never hold by itself."""
        for source in sources:
            if source not in self._never:
                self._never[source] = self._logic.contradiction([source]) is not None
        return any(self._never[source] for source in sources)

    def _clash(self, path: str, sources: Sequence[str]) -> Iterator[Finding]:
        """Yield a warning when conditions can never hold together, unless one of them never does."""
        distinct = list(dict.fromkeys(sources))
        if len(distinct) > 1 and not self._blocked(distinct) and (told := self._told(distinct)):
            text = f"conditions of group, action and treatment can never hold together: {told}. Correct one of them"
            yield found(path, "contradictory_layers", text)

    def _told(self, sources: Sequence[str]) -> str:
        return " and ".join(self._logic.contradiction(sources) or ())

    def _weights(self, path: str, weights: Sequence[ContextWeight], sources: Sequence[str]) -> Iterator[Finding]:
        if self._blocked(sources):
            return
        for i, each in enumerate(weights):
            told = self._told([each.when, *sources])
            text = f"never applies: {told}" if told else "changes nothing: it multiplies by 1" * (each.weight == 1)
            if text:
                yield found(f"{path}.context_weights[{i}]", "weight_never_applies", f"{text}. Correct or remove it")


def _sources(policy: Policy) -> list[str]:
    return [source for layer in LAYERS if (source := getattr(policy, layer))]


def _before(action: Action, treatment: Treatment, placement: str) -> Iterator[Treatment]:
    for each in action.treatments:
        if each is treatment:
            return
        if placement in each.placements:
            yield each


def _place(placement: str, channel: str) -> Iterator[str]:
    """Yield as conditions what is known where a treatment is shown."""
    for name, value in (("placement", placement), ("channel", channel)):
        yield f"request.{name} == {json.dumps(value, ensure_ascii=False)}"


def _no_common_moment(path: str, policies: Sequence[Policy]) -> Iterator[Finding]:
    """Yield a warning when terms that make sense alone have no moment in common."""
    starts = max((policy.starts_ms for policy in policies), default=0)
    ends = min((policy.ends_ms for policy in policies if policy.ends_ms), default=0)
    if 0 < ends <= starts and all(not each.ends_ms or each.starts_ms < each.ends_ms for each in policies):
        text = "is never on offer: what it stands in ends before it starts, or starts after it ends. Correct one term"
        yield found(path, "never_eligible", text)
