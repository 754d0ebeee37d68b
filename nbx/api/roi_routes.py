"""The route of the report on return on experience."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from litestar import get
from litestar.params import Parameter
from msgspec import Struct, json

from nbx.api.wiring import Services
from nbx.audit.reading import read_log, releases_in, window
from nbx.audit.roi_report import ReturnReport, return_report
from nbx.audit.roi_tally import ReturnTally, Terms
from nbx.catalog.model import Catalog, Holdout
from nbx.catalog.time_words import duration_ms
from nbx.errors import Invalid, Unknown
from nbx.features.keys import release_key
from nbx.features.store import Store
from nbx.limits import WORD_MS

FOLLOW = "7d"
"""How long customers are followed when nobody says: what a prompt does it does within a week, weekdays alike."""
LEAST_FOLLOW_MS = 60_000
TIMEOUT_MS = 2_000.0
SINCE = Parameter(
    description="Epoch ms, RFC 3339, or a time ago (7d); default: when the holdout's shares in force began"
)
UNTIL = Parameter(description="Customers first met before; default now")
PLACEMENT = Parameter(description="Only decisions of this placement")
FOLLOWED = Parameter(description="How long each customer is followed from its first decision, such as 12h; default 7d")


class _Shares(Struct):
    holdout: Holdout = Holdout()


class _Release(Struct):
    """What of a release matters here: the rest is not decoded."""

    at_ms: int
    catalog: _Shares


_decode = json.Decoder(_Release).decode


def roi_handler(services: Services, turn: asyncio.Lock) -> Any:
    """Return the handler; `turn` lets one report at a time use memory and core."""

    @get("/roi", opt={"scope": "audit"}, summary="What nbx earns against silence and chance, safe to look at any time")
    async def roi(
        since: Annotated[str, SINCE] = "",
        until: Annotated[str, UNTIL] = "",
        placement: Annotated[str, PLACEMENT] = "",
        follow: Annotated[str, FOLLOWED] = FOLLOW,
    ) -> ReturnReport:
        async with turn:
            return await roi_report(services, since, until, placement, follow)

    return roi


async def roi_report(services: Services, since: str, until: str, placement: str, follow: str) -> ReturnReport:
    """Tell what nbx earns; the log is read and summed up beside the event loop.

    Raises
    ------
    Invalid
        A time or duration that is none, or an empty window.
    Unknown
        There is no such placement, now or in the window.
    """
    now_ms, plan = services.clock.now_ms(), services.serving.plan()
    follow_ms = _followed_ms(follow)
    shares = plan.catalog.holdout
    began_ms = await shares_since(services.store, plan.release, shares)
    span = window(since or str(min(began_ms, now_ms)), until, now_ms)
    terms = Terms(span, placement, shares, follow_ms, settle_ms(plan.catalog))
    catalogs: dict[int, Catalog] = {}
    tally = ReturnTally(terms, catalogs.__getitem__, services.settings.salt)
    async for entries in read_log(services.store, services.settings.partitions, span.since_ms, now_ms):
        for number in releases_in(entries) - catalogs.keys():
            catalogs[number] = (await services.serving.plan_of(number)).catalog
        await asyncio.to_thread(tally.take, entries)
    if placement and not tally.decisions and placement not in plan.placements:
        words = f"there is no placement {placement}, and no decision of the window was made for one of that name"
        raise Unknown(words, field="placement", code="placement_unknown")
    moving = duration_ms(since) is not None
    return await asyncio.to_thread(return_report, tally, now_ms, began_ms, moving=moving)


def settle_ms(catalog: Catalog) -> int:
    """Return how long it takes until what a decision led to is known: the longest a slot or goal may wait.

    Examples
    --------
    >>> settle_ms(Catalog(name="bank"))
    0
    """
    waits = [each.delivery_ms + each.attention_ms for each in catalog.placements]
    waits += [each.goal.within_ms for each in catalog.placements if each.goal is not None]
    return max(waits, default=0)


async def shares_since(store: Store, release: int, shares: Holdout) -> int:
    """Return since when the holdout's shares are what they are in a release: when the first of a row of such came."""
    began_ms = 0
    for number in range(release, 0, -1):
        (packed,) = await store.read([release_key(number)], TIMEOUT_MS)
        if packed is None:
            break
        found = _decode(packed)
        if found.catalog.holdout != shares:
            break
        began_ms = found.at_ms
    return began_ms


def _followed_ms(follow: str) -> int:
    found = duration_ms(follow)
    if found is None or not LEAST_FOLLOW_MS <= found <= WORD_MS:
        raise Invalid(
            f"follow must say how long customers are followed, from 1m to 366d, such as 12h, found {follow[:40]!r}",
            field="follow",
            code="duration_invalid",
        )
    return found
