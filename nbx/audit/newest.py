"""Rows of a log by key, of which only the newest are kept, and none of an erased customer."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Newest(Generic[K, V]):
    """The newest rows, in the order in which they came.

    Parameters
    ----------
    bound
        Most rows kept, ≥ 1.

    Examples
    --------
    >>> kept = Newest[str, int](2)
    >>> for number, key in enumerate("abc"):
    ...     kept.put(key, f"customer of {key}", number)
    >>> list(kept), kept.cut
    ([('b', 1), ('c', 2)], True)
    >>> kept.forget("customer of b")
    >>> list(kept)
    [('c', 2)]
    """

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._rows: OrderedDict[K, tuple[str, V]] = OrderedDict()
        self._of: defaultdict[str, set[K]] = defaultdict(set)
        self.cut = False
        """Some did not fit."""

    def __len__(self) -> int:
        """Return how many are kept."""
        return len(self._rows)

    def __iter__(self) -> Iterator[tuple[K, V]]:
        """Yield keys and rows, the oldest first."""
        return ((key, row) for key, (_, row) in self._rows.items())

    def put(self, key: K, customer_id: str, row: V) -> None:
        """Take in a row of a customer under a key that is new."""
        self._rows[key] = customer_id, row
        self._of[customer_id].add(key)
        if len(self._rows) > self._bound:
            gone, (owner, _) = self._rows.popitem(last=False)
            self._of[owner].discard(gone)
            if not self._of[owner]:
                del self._of[owner]
            self.cut = True

    def get(self, key: K) -> V | None:
        """Return a row; None when it is not kept."""
        found = self._rows.get(key)
        return None if found is None else found[1]

    def forget(self, customer_id: str) -> None:
        """Drop what there is of a customer so far."""
        for key in self._of.pop(customer_id, ()):
            del self._rows[key]
