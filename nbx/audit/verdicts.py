"""Why a replay came out otherwise: what is not as it was then, and if nothing is, whether log or record was altered.

The order matters. What the log does not hold explains anything, a changed release more than changed code, and changed
code more than libraries. Only where all that a decision rests on is there and unchanged was something altered. If the
record contradicts itself it is the record. If its draw follows from its factors, and log and model lead elsewhere, an
entry of the log before it is not what it was, or the record was made up as a whole; the two cannot be told apart from
here, and the chain of the archive can.

A build counts as changed only if it is on record (`nbx.features.builds`): a made-up one excuses nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Literal

from msgspec import Struct, structs

from nbx.build import Build
from nbx.decision.replay import replay
from nbx.decision.replayed import Difference, Replay, Verdict
from nbx.experience.entries import DecisionEntry

EXCUSED: frozenset[Verdict] = frozenset({"release_changed", "code_changed", "library_changed"})
"""Stated changes: what differs for them is no sign of tampering."""
BEFORE = "it was made before builds were written down"
_DRAWN_FROM = frozenset({"actions", "candidates", "factors", "policy", "goal", "cluster", "quarantined"})
"""Fields that the draw follows from, or the model tells."""
Altered = Literal["record_altered", "log_altered"]
_ALTERED: dict[Altered, str] = {
    "record_altered": "log, model and release are as they were, and the record says something else",
    "log_altered": "the record holds together, but log and journal lead elsewhere now: an entry before it is not what "
    "it was, or the record was made up as a whole",
}


class Grounds(Struct, frozen=True, kw_only=True):
    """What a decision rests on, as far as it is not as it was."""

    build: Build
    """Runs here."""
    builds: Mapping[str, Build | None]
    """Those on record, by fingerprint."""
    computed_by: frozenset[str] = frozenset()
    """Fingerprints of what computed what it rests on: its own, and those of the learner's steps."""
    releases: tuple[str, ...] = ()
    """Releases that are not what they were, in words."""
    missing: str = ""
    """What the log does not hold any more, in words."""


def judge(grounds: Grounds, altered: Altered) -> tuple[Verdict, str]:
    """Say why something differs; `altered` is what it is when nothing else explains it."""
    if grounds.missing:
        return "log_incomplete", grounds.missing
    if grounds.releases:
        return "release_changed", "; ".join(grounds.releases)
    if unknown := sorted(_unknown(grounds)):
        return "record_altered", f"build {unknown[0]} is not on record: no process of it ever started here"
    if "" in grounds.computed_by and len(grounds.computed_by) > 1:
        return "record_altered", "it names no build, although builds were written down already"
    changes = [(build.changed_to(grounds.build), words) for build, words in _others(grounds)]
    kinds: tuple[Verdict, ...] = ("code_changed", "library_changed")
    for kind in kinds:
        words = [each for what, each in changes if what == kind]
        if words:
            return kind, "; ".join(words)
    if "" in grounds.computed_by:
        return "code_changed", BEFORE
    return altered, _ALTERED[altered]


def altered_by(entry: DecisionEntry, found: Collection[Difference]) -> Altered:
    """Tell what was altered, if nothing else explains the differences: the record, or what it rests on.

    A record whose draw does not follow from its own factors is altered; so is one of which x alone is another one, or
    nothing that goes into the draw. Else the draw is what it must be, and what it rests on leads elsewhere.

    Later decisions of the customer rest on an altered record too, and may come out otherwise for it.
    """
    if entry.degraded or not replay(entry).same:
        return "record_altered"
    parts = {each.what.partition("[")[0].partition(".")[0] for each in found}
    if parts & _DRAWN_FROM:
        return "log_altered"
    return "log_altered" if "x" in parts and not entry.actions else "record_altered"


def notes(grounds: Grounds) -> tuple[str, ...]:
    """Say what is not as it was then, whether or not it made a difference."""
    words = list(grounds.releases)
    words += [f"computed by another build: {changes}" for _, changes in _others(grounds)]
    words += [f"build {each} is not on record" for each in sorted(grounds.computed_by) if each in _unknown(grounds)]
    words += [BEFORE] if "" in grounds.computed_by else []
    return tuple(words)


def judged(replayed: Replay, entry: DecisionEntry, grounds: Grounds) -> Replay:
    """Judge a replay from the record alone: nothing but the code can differ, and else it is the record."""
    own = structs.replace(grounds, computed_by=frozenset({entry.build}))
    verdict, why = judge(own, "record_altered")
    told = tuple([structs.replace(each, verdict=verdict, why=why) for each in replayed.differences])
    return structs.replace(replayed, differences=told, notes=notes(own))


class Count(Struct):
    """Decisions that came out otherwise for one reason."""

    decisions: int = 0
    first: list[str] = []
    """Ids of the first few."""


class ReplayReport(Struct, kw_only=True):
    """What became of the replays of a span of time."""

    deep: bool
    since_ms: int
    until_ms: int
    found: int = 0
    """Decisions in the span."""
    replayed: int = 0
    """Of them; a sample when it is fewer."""
    same: int = 0
    different: dict[str, Count] = {}
    """Verdict → decisions; one counts for the gravest of its verdicts."""
    notes: dict[str, int] = {}
    """What is not as it was, and of how many decisions."""
    examples: list[Replay] = []
    """Of the first few that came out otherwise."""
    entries: int = 0
    """Log entries read."""
    took_s: float = 0.0

    @property
    def excused(self) -> bool:
        """Nothing differs but for a stated change."""
        return not set(self.different) - EXCUSED

    def add(self, replayed: Replay) -> None:
        """Count a replay."""
        self.replayed += 1
        for note in replayed.notes:
            self.notes[note] = self.notes.get(note, 0) + 1
        if replayed.same:
            self.same += 1
            return
        verdict = gravest(each.verdict for each in replayed.differences)
        count = self.different.setdefault(verdict or "record_altered", Count())
        count.decisions += 1
        if len(count.first) < FIRST:
            count.first.append(replayed.decision_id)
        if len(self.examples) < FIRST:
            self.examples.append(replayed)


FIRST = 5
_GRAVITY: tuple[Verdict, ...] = (
    "record_altered", "log_altered", "log_incomplete", "release_changed", "code_changed", "library_changed", ""
)  # fmt: skip


def gravest(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the gravest of some verdicts.

    Examples
    --------
    >>> gravest(["library_changed", "record_altered", "code_changed"])
    'record_altered'
    """
    return min(verdicts, key=_GRAVITY.index, default="")


def excused(replayed: Replay) -> bool:
    """Tell whether a replay came out the same, or otherwise only for stated changes."""
    return all(each.verdict in EXCUSED for each in replayed.differences)


def _unknown(grounds: Grounds) -> set[str]:
    return {each for each in grounds.computed_by if each and grounds.builds.get(each) is None}


def _others(grounds: Grounds) -> list[tuple[Build, str]]:
    """Return the builds on record that are not the one that runs here, with what changed since."""
    found = []
    for fingerprint in sorted(grounds.computed_by):
        build = grounds.builds.get(fingerprint)
        if build is not None and build.fingerprint != grounds.build.fingerprint:
            found.append((build, ", ".join(build.changes_to(grounds.build))))
    return found
