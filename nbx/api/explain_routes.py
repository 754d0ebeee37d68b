"""The route that explains a decision."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, Annotated, Any

from litestar import get
from litestar.params import Parameter

from nbx.audit.explaining import Explainer
from nbx.catalog.places import condition_places
from nbx.catalog.releases import release_text
from nbx.decision.explained import Explained
from nbx.errors import Unknown

if TYPE_CHECKING:
    from nbx.api.wiring import Services
    from nbx.catalog.plan import Plan
    from nbx.decision.why_not import Places

RELEASES = 4
"""Releases of which it is remembered where their conditions stand."""
ACTION = Parameter(description="Why not this action? Also what it would have taken")


def explain_handlers(services: Services) -> list[Any]:
    """Return the handlers, to be put under `/v1`."""
    serving = services.serving
    known: OrderedDict[int, Places] = OrderedDict()

    async def places_of(plan: Plan) -> Places:
        if plan.release not in known:
            try:
                text = await release_text(services.admin, plan.release)
            except Unknown:
                text = ""
            known[plan.release] = await asyncio.to_thread(condition_places, plan.catalog, text)
            while len(known) > RELEASES:
                known.popitem(last=False)
        return known[plan.release]

    explainer = Explainer(services.store, services.settings.partitions, serving.plan_of, serving.model_for, places_of)

    @get("/decisions/{decision_id:str}/explanation", opt={"scope": "audit"}, summary="Why this, why not that")
    async def explanation(decision_id: str, action: Annotated[str, ACTION] = "") -> Explained:
        return await explainer.explain(decision_id, action)

    return [explanation]
