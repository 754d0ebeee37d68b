"""What the rules of a decision are asked about: everything known of a customer and a request at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nbx.bandits.snapshot import BoundModel
from nbx.catalog.plan import PlacementPlan, Plan
from nbx.catalog.vocabulary import CLUSTER
from nbx.decision.messages import DecideRequest
from nbx.decision.quiet_hours import zone_of
from nbx.experience import journeys
from nbx.experience.consent import may_contact, may_personalise
from nbx.experience.holdout import assignment
from nbx.experience.obligations import open_topics
from nbx.experience.relationship import relationship_features
from nbx.features.schema import Value
from nbx.features.state import CustomerState

_NOBODY = CustomerState()
_NO_WALKS: dict[str, dict[str, Value]] = {"journey": {}, "concern": {}}


class Facts(NamedTuple):
    """Facts about a customer and a request."""

    state: CustomerState
    """Read only."""
    values: Mapping[str, Value]
    """Every declared feature's value; personal ones at their default without consent to personalise."""
    relationship: Mapping[str, float]
    """The built-in features, likewise."""
    journey: Mapping[str, Value]
    """Journey → step; empty where no condition of the placement asks."""
    concern: Mapping[str, Value]
    """Concern → whether it is open."""
    balance: float
    """Of the relationship, whatever the consent."""
    personalised: bool
    may_contact: bool
    holdout: str
    zone: str
    """IANA time zone of the customer."""
    now_ms: int
    stale: tuple[str, ...] = ()
    """Profile features the placement uses that were known, but are too old to be believed; sorted."""
    quarantined: tuple[str, ...] = ()
    """Profile features the placement uses that nobody may rely on; sorted."""
    obligations: Mapping[str, int] = MappingProxyType({})
    """Topics with an open obligation → since when, whatever the consent."""
    asked: float = 0.0
    """Of the relationship, whatever the consent; likewise the next."""
    given: float = 0.0
    stakes: float = 0.0
    """Highest of the journey steps that the customer is in."""
    x: NDArray[np.float32] | None = None
    """Encoded already where the cluster had to be found; None: not yet."""


def gather(
    plan: Plan,
    placement: PlacementPlan,
    state: CustomerState,
    request: DecideRequest,
    now_ms: int,
    salt: str,
    model: BoundModel | None = None,
) -> Facts:
    """Gather what is known, and leave out what the customer does not want to be used, or what is not to be trusted.

    The request's customer is the canonical one; `salt` is the installation's, for the holdout. `model` tells clusters
    and what is quarantined; None: neither yet.
    """
    rules, catalog = plan.rules, plan.catalog
    relationship = relationship_features(state, now_ms, rules.experience)
    balance, asked, given = relationship["balance"], relationship["asked"], relationship["given"]
    uses = rules.uses[placement.placement.name]
    stale: list[str] = []
    values = plan.resolver.resolve(state, request.context, now_ms, stale)
    distrusted = sorted(uses.intersection(model.quarantined)) if model is not None and model.quarantined else []
    for name in distrusted:
        values[name] = plan.untouched[name]
    zone = catalog.time_zone
    if catalog.time_zone_feature:
        zone = zone_of(values[catalog.time_zone_feature], catalog.time_zone)
    personalised = may_personalise(state, rules.consent)
    known = state
    if not personalised:
        known = _NOBODY
        values |= plan.impersonal
        stale = [name for name in stale if name not in plan.impersonal]
        relationship = relationship_features(known, now_ms, rules.experience)
    x = None
    if catalog.clusters is not None:
        x = plan.layout.encode(values, relationship)
        cluster = model.cluster_of(x) if model is not None and personalised else -1
        plan.layout.mark(x, cluster)
        relationship[CLUSTER] = float(cluster)
    walks = journeys.values(known, rules, now_ms) if placement.walks else _NO_WALKS
    return Facts(
        state=state,
        values=values,
        relationship=relationship,
        journey=walks["journey"],
        concern=walks["concern"],
        balance=balance,
        personalised=personalised,
        may_contact=may_contact(state, rules.consent, placement.placement.channel),
        holdout=assignment(request.customer_id, state, catalog.holdout, salt),
        zone=zone,
        now_ms=now_ms,
        stale=tuple(sorted(uses.intersection(stale))) if stale else (),
        quarantined=tuple(distrusted),
        obligations=open_topics(state, now_ms, rules.experience),
        asked=asked,
        given=given,
        stakes=journeys.stakes(known, rules) if rules.staked else 0.0,
        x=x,
    )
