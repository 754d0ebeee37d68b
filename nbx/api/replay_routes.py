"""Replays over HTTP. A deep one runs in a process of its own: it takes seconds of a core, and this process serves."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from litestar import get
from litestar.params import Parameter

from nbx.audit.history import find_decision
from nbx.audit.verdicts import Grounds, judged
from nbx.build import current_build
from nbx.decision.replay import replay
from nbx.decision.replayed import Replay
from nbx.errors import TooLarge, Unavailable
from nbx.features.builds import noted_builds
from nbx.limits import REPLAY_ENTRIES, REPLAY_S

if TYPE_CHECKING:
    from nbx.api.wiring import Services

DEEP = Parameter(description="Rebuild state and model from the log, as far as it is short enough")
ON_THE_DESK = "on the command line, `nbx decisions replay ID --deep` has no bound"
_TOO_LONG = "replay_too_long"


def replay_handlers(services: Services) -> list[Any]:
    """Make the handlers, for the router of the data plane."""
    store, partitions = services.store, services.settings.partitions
    turn = asyncio.Lock()

    @get("/decisions/{decision_id:str}/replay", opt={"scope": "audit"}, summary="Make a decision again")
    async def replayed(decision_id: str, deep: Annotated[bool, DEEP] = False) -> Replay:
        entry = await find_decision(store, decision_id, partitions)
        if not deep:
            builds = await noted_builds(store, {entry.build} - {""})
            return judged(replay(entry), entry, Grounds(build=current_build(), builds=builds))
        if turn.locked():
            raise Unavailable(
                f"another deep replay is under way: try again in a minute; {ON_THE_DESK}", code="replay_busy"
            )
        async with turn:
            return await _deep(entry.decision_id)

    return [replayed]


async def _deep(decision_id: str) -> Replay:
    """Run the command line's replay, with a bound."""
    command = [sys.executable, "-m", "nbx", "decisions", "replay", decision_id, "--deep", "--json"]
    child = await asyncio.create_subprocess_exec(
        *command, "--most", str(REPLAY_ENTRIES), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        told, complaint = await asyncio.wait_for(child.communicate(), REPLAY_S)
    except TimeoutError:
        raise TooLarge(
            f"the deep replay took longer than {REPLAY_S:g} s; {ON_THE_DESK}", field="deep", code=_TOO_LONG
        ) from None
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    try:
        return msgspec.json.decode(told, type=Replay)
    except msgspec.DecodeError:
        words = complaint.decode(errors="replace").strip().rpartition("\n")[2]
        if words.startswith(_TOO_LONG):
            raise TooLarge(
                f"more than {REPLAY_ENTRIES} log entries would have to be read; {ON_THE_DESK}",
                field="deep",
                code=_TOO_LONG,
            ) from None
        raise Unavailable(f"the deep replay ended: {words[:500]}", code="replay_failed") from None
