"""The learner's part of an erasure: find the sites of a customer that are still on record.

Sites are not deleted once they are subtracted: the step may have to be done again from an older checkpoint, and must
find them. They only get an end, `limits.ERASED_SITES_MS` from then.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from nbx.bandits.learner import LearnedSites
from nbx.experience.entries import AnyOutcome, EraseEntry, GoalOutcome, Taught, decode_entry, outcomes_of
from nbx.features.store import Store
from nbx.ids import decision_ref
from nbx.runtime.sites import Place, Sites

AT_ONCE = 500
"""Slots looked up together: the connection bounds what may be in flight."""
WORDS = 50
"""Lines that say what was forgotten."""

LatestSites = Mapping[tuple[str, int], LearnedSites]
"""(`<decision_id>/<slot>`, revision) → sites of the step under way, which are not stored yet."""


class OnRecord(NamedTuple):
    """What one slot taught."""

    outcome: AnyOutcome
    sites: LearnedSites


async def on_record(sites: Sites, store: Store, entry: EraseEntry, latest: LatestSites) -> list[OnRecord]:
    """Return what of the customer can be subtracted, in the order of `entry.taught`.

    Parameters
    ----------
    sites, store
        Where sites and log are.
    entry
        Says which slots taught something.
    latest
        Looked at first.
    """
    partition = decision_ref(entry.erasure_id).partition
    found: list[OnRecord] = []
    for at in range(0, len(entry.taught), AT_ONCE):
        part = entry.taught[at : at + AT_ONCE]
        learned = [latest.get((f"{taught.decision_id}/{taught.slot}", taught.revision)) for taught in part]
        missing = [k for k, each in enumerate(learned) if each is None]
        places = [Place(part[k].decision_id, part[k].slot, part[k].revision) for k in missing]
        for k, each in zip(missing, await sites.read(places, erased=True), strict=True):
            learned[k] = each
        known = [(taught, each) for taught, each in zip(part, learned, strict=True) if each is not None]
        outcomes = await asyncio.gather(*(_outcome(store, partition, taught) for taught, _ in known))
        found += [OnRecord(o, each) for o, (_, each) in zip(outcomes, known, strict=True) if o is not None]
    return found


def in_words(found: Iterable[OnRecord]) -> tuple[str, ...]:
    """Say what the models no longer know, a line per model and kind of outcome; `WORDS` lines at most."""
    counts = Counter(_what(each.outcome) for each in found if each.sites.response or each.sites.experience)
    lines = [f"{what}: {count} time{'s' if count > 1 else ''}" for what, count in sorted(counts.items())]
    return (*lines[:WORDS], *([f"and {len(lines) - WORDS} more"] if len(lines) > WORDS else ()))


def _what(outcome: AnyOutcome) -> str:
    action = f"action {outcome.action}" if outcome.action else "silence"
    if isinstance(outcome, GoalOutcome):
        return f"goal of {outcome.placement} after {action}: {'reached' if outcome.response else 'not reached'}"
    return f"{action} on {outcome.placement}: {outcome.outcome}{f' ({outcome.cause})' if outcome.cause else ''}"


async def _outcome(store: Store, partition: int, taught: Taught) -> AnyOutcome | None:
    """Read an outcome where it stands in the log; None when the log was trimmed."""
    wanted = (taught.decision_id, taught.slot, taught.revision)
    for row in await store.log_range(partition, taught.entry_id, taught.entry_id, 1):
        entry = decode_entry(row.payload)
        for outcome in outcomes_of(entry):
            if (outcome.decision_id, outcome.slot, outcome.revision) == wanted:
                return outcome
    return None
