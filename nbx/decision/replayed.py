"""What a replay tells, apart from how it is done: readers of it need no kernels."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Verdict = Literal[
    "", "release_changed", "code_changed", "library_changed", "log_incomplete", "log_altered", "record_altered"
]
"""Why something came out otherwise: the release is not the one that decided; other code or libraries computed it; the
log does not hold all that it rests on; nothing of that, and what it rests on says something else now; nor that, and so
it is the record. Empty: nobody asked."""


class Difference(Struct, frozen=True):
    """Something that came out otherwise."""

    what: str
    recorded: str
    recomputed: str
    verdict: Verdict = ""
    why: str = ""
    """The verdict in words."""


class Replay(Struct, frozen=True):
    """Result of recomputing a decision."""

    decision_id: str
    same: bool
    differences: tuple[Difference, ...]
    deep: bool = False
    """State and model were rebuilt from the log, and the whole record compared."""
    notes: tuple[str, ...] = ()
    """What is not as it was then, whether or not anything came out otherwise for it."""
