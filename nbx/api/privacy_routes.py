"""What is kept about a customer, and its end: export, erasure, receipts. What is done here is in the admin trail."""

from __future__ import annotations

from typing import Any

from litestar import Request, delete, get
from litestar.response import Stream
from litestar.status_codes import HTTP_202_ACCEPTED

from nbx.api.access import caller
from nbx.api.customer_export import customer_ids, export_of
from nbx.api.wiring import Services
from nbx.experience.erasure import Receipt
from nbx.features.secrets import pseudonym_key
from nbx.features.trail import Change, What, append
from nbx.hashing import pseudonym


def privacy_handlers(services: Services) -> list[Any]:
    """Return the handlers, for the router of customers."""

    @delete(
        "/customers/{customer_id:str}",
        opt={"scope": "admin"},
        status_code=HTTP_202_ACCEPTED,
        summary="Erase a customer: from state at once, from the models at the learner's next step, then from the log",
    )
    async def erase(request: Request[Any, Any, Any], customer_id: str) -> Receipt:
        receipt = await services.erasures.erase(customer_id, caller(request))
        await note(services, "customer_erased", caller(request), receipt.customer_id, erasure=receipt.erasure_id)
        return receipt

    @get("/erasures/{erasure_id:str}", opt={"scope": "audit"}, summary="Receipt of an erasure")
    async def receipt(erasure_id: str) -> Receipt:
        return await services.erasures.receipt(erasure_id)

    @get(
        "/customers/{customer_id:str}/export",
        opt={"scope": ("audit", "admin")},
        media_type="application/json",
        summary="Everything that is kept about a customer and its other ids",
    )
    async def export(request: Request[Any, Any, Any], customer_id: str) -> Stream:
        ids = await customer_ids(services, customer_id)
        key = request.scope.get("nbx_key")
        await note(services, "customer_exported", caller(request) if key is not None else "console", ids[0])
        return Stream(export_of(services, ids), media_type="application/json")

    return [erase, receipt, export]


async def note(services: Services, what: What, who: str, customer_id: str, **details: str | int) -> None:
    """Write an act on a customer to the admin trail, under the customer's pseudonym."""
    key = await pseudonym_key(services.connection, services.settings.pseudonym_key_file)
    told = {"customer": pseudonym(key, customer_id), **details}
    async with services.admin.pipeline() as pipe:
        append(pipe, Change(at_ms=services.clock.now_ms(), who=who, what=what, details=told))
        await pipe.execute()
