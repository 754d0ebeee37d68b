"""What a check of a catalog says, and where: `Finding`."""

from __future__ import annotations

import re

from msgspec import Struct

_WORD = re.compile(r"[A-Za-z0-9_-]{1,80}")


class Finding(Struct, frozen=True, kw_only=True):
    """One thing that is wrong, and where.

    Examples
    --------
    >>> print(Finding(source="c.yaml", line=12, column=7, path="a.value", code="range", message="must be >= 0"))
    c.yaml:12:7 a.value: must be >= 0
    """

    source: str = ""
    line: int = 0
    """1-based; 0: not known."""
    column: int = 0
    """1-based, in characters; 0: not known."""
    path: str
    """Such as `actions.card_upgrade.treatments.hero.placements[0]`."""
    code: str
    """Stable name of the rule."""
    message: str
    """What was wrong and what to do."""

    def __str__(self) -> str:
        place = f"{self.source}:{self.line}:{self.column}" if self.line else self.source
        return ": ".join(part for part in (f"{place} {self.path}".strip(), self.message) if part)


def found(path: str, code: str, message: str) -> Finding:
    """Return a finding of which only the path is known yet; `nbx.catalog.parse` adds line and column."""
    return Finding(path=path, code=code, message=message)


def label(key: str) -> str:
    """Return how a key is written in a path: a word as it is, anything else in quotes and at most 200 characters of it.

    Examples
    --------
    >>> label("card_upgrade"), label("gold customers")
    ('card_upgrade', "'gold customers'")
    """
    return key if _WORD.fullmatch(key) else repr(key[:200])
