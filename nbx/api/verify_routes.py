"""`GET /v1/audit/heads`: what a third party keeps, to tell later whether the archive was rewritten."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from litestar import Router, get

from nbx.api.access import scope_guard
from nbx.api.wiring import Services
from nbx.audit.chain import Chain
from nbx.audit.heads import Head, signed_head
from nbx.errors import Unknown
from nbx.features.keys import ARCHIVE_SIGNER


def verify_routes(services: Services) -> list[Any]:
    """Return the routes on the archive's chain."""
    turn = asyncio.Lock()
    chain: Chain | None = None

    def read(directory: Path) -> Chain:
        nonlocal chain
        known, chain = chain, None  # after a fault it is read from its start again
        if known is None:
            known = Chain.open(directory)
        else:
            known.refresh()
        chain = known
        return known

    @get("/heads", opt={"scope": "audit"}, summary="The archive's newest head, signed, for somebody else to keep")
    async def heads() -> Head:
        signer = await services.admin.get(ARCHIVE_SIGNER)
        if not isinstance(signer, bytes):
            raise Unknown("nothing is archived yet, so there is no head", code="archive_empty")
        async with turn:  # a long chain is read once
            return signed_head(
                await asyncio.to_thread(read, services.settings.archive_path), signer, services.clock.now_ms()
            )

    return [Router("/v1/audit", route_handlers=[heads], guards=[scope_guard(services)])]
