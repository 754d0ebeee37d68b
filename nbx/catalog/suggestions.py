"""Did you mean: the nearest known word to one that is not known, cheap also among many and for hostile ones."""

from __future__ import annotations

import difflib
import heapq
from collections.abc import Iterable

SUGGESTIONS = 24
"""Known words an unknown one is compared with in full (10 µs each): a thousand faults must not take seconds."""
SUGGESTION_LENGTH = 64
"""Longest unknown word that is compared with the known ones: the comparison is quadratic."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ` Did you mean ...?` for the nearest known word, or nothing.

    Examples
    --------
    >>> did_you_mean("grup", ["group", "value"])
    ' Did you mean `group`?'
    """
    if len(word) > SUGGESTION_LENGTH:
        return ""
    first = heapq.nsmallest(SUGGESTIONS, known, key=lambda each: _strangeness(word, each))
    near = difflib.get_close_matches(word, first, n=1)
    return f" Did you mean `{near[0]}`?" if near else ""


def _strangeness(word: str, other: str) -> int:
    """Letters not shared at either end: cheap, to choose whom to compare in full."""
    start = _shared(word, other)
    return max(len(word), len(other)) - start - _shared(word[start:][::-1], other[start:][::-1])


def _shared(word: str, other: str) -> int:
    pairs = enumerate(zip(word, other, strict=False))
    return next((i for i, (one, two) in pairs if one != two), min(len(word), len(other)))
