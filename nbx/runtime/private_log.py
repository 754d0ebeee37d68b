"""Process logs that name no customer: what goes to a file goes through here.

Errors tell callers which customer they are about, and paths hold ids; the same words in a log would outlive an erasure.
So the formatter puts a pseudonym where the words of nbx name a customer (`customer …`, `/customers/…`, timers of merges
and promises), and drops what a traceback quotes of values: an unexpected error may hold anything. Without a key of
pseudonyms a customer is `c_…`. Links to customers' own views are capabilities and go the same way.
"""

from __future__ import annotations

import logging
import re
from types import TracebackType
from typing import TYPE_CHECKING

from nbx.hashing import PSEUDONYM, pseudonym

if TYPE_CHECKING:
    from collections.abc import Callable

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_NAMED = re.compile(
    r"(?P<lead>\b(?:customers/|me/|merge:|promise:))(?P<path>[^/\n]+?)(?=/| of partition |: | is dropped|$)"
    r"|(?P<word>\b(?:customer|alias) )(?!of |is |was |has )(?P<id>[^\n]+?)"
    r"(?= is | has | would | stands | already| and |[:;,](?: |$)|$)",
    re.MULTILINE,
)
_QUOTED = re.compile(r"""b?'(?:[^'\\\n]|\\.)*'|b?"(?:[^"\\\n]|\\.)*\"""")

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class PrivateFormatter(logging.Formatter):
    """Formats records without the customers they are about.

    Parameters
    ----------
    key
        Of pseudonyms; empty: customers are all `c_…`.

    Examples
    --------
    >>> formatter = PrivateFormatter(b"")
    >>> formatter.private("timers wait: customer anna is being changed by too many at once; try again")
    'timers wait: customer c_… is being changed by too many at once; try again'
    >>> formatter.private("unexpected error on /v1/customers/anna/experience")
    'unexpected error on /v1/customers/c_…/experience'
    """

    def __init__(self, key: bytes) -> None:
        super().__init__(FORMAT)
        self._name: Callable[[str], str] = (lambda text: pseudonym(key, text)) if key else lambda _: f"{PSEUDONYM}…"

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        """Put the line together, without names."""
        return self.private(super().formatMessage(record))

    def formatException(self, ei: _ExcInfo) -> str:  # noqa: N802 - the library's name
        """Write a traceback: where it happened, the kind of error, and its words without values."""
        lines = super().formatException(ei).splitlines()
        return "\n".join(line if line.startswith("  ") else _QUOTED.sub("'…'", self.private(line)) for line in lines)

    def private(self, text: str) -> str:
        """Return a text without the customers that nbx's words name in it."""
        return _NAMED.sub(self._unnamed, text)

    def _unnamed(self, found: re.Match[str]) -> str:
        if found["lead"] is not None:
            return found["lead"] + self._name(found["path"])
        return found["word"] + self._name(found["id"])
