"""What can be afforded with what a worker has in hand: pure functions of a placement's uses and a purse.

A purse says per resource how much may be given out now; a resource that is not in it is not bounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import accumulate
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from nbx.catalog.budgets import ResourceUse
from nbx.experience.entries import SharedLimit

Purse = Mapping[str, int]
NO_BUDGETS: Purse = MappingProxyType({})
"""Nothing is bounded."""


def unaffordable(uses: tuple[ResourceUse, ...], purse: Purse, now_ms: int) -> Iterator[tuple[int, str]]:
    """Yield the positions of the actions that the purse cannot pay, with the resource in words.

    Examples
    --------
    >>> import numpy as np
    >>> from nbx.catalog.budgets import BudgetPlan
    >>> plan = BudgetPlan("gifts", "gifts/money", 90, 86_400_000, 0, {"dear": 9, "cheap": 2})
    >>> list(unaffordable((ResourceUse(plan, np.array([9, 0, 2]), 9),), {"gifts/money": 5}, 0))
    [(0, 'gifts/money: not enough is left until 1970-01-02T00:00:00Z')]
    """
    for use in uses:
        left = purse.get(use.plan.resource, use.dearest)
        if left < use.dearest:
            ends = datetime.fromtimestamp(use.plan.window(now_ms).ends_ms / 1000, UTC).isoformat()
            found = "not enough is left" if left > 0 else "nothing is left"
            detail = f"{use.plan.resource}: {found} until {ends.replace('+00:00', 'Z')}"
            for position in np.flatnonzero(use.amounts > left).tolist():
                yield position, detail


def shared_budgets(
    uses: tuple[ResourceUse, ...], purse: Purse, positions: NDArray[np.int64], slots: int
) -> tuple[SharedLimit, ...]:
    """Return how many candidates of each resource one slate may hold, where the purse may not pay for all.

    Parameters
    ----------
    uses
        Of the placement.
    purse
        It pays for each candidate alone: `unaffordable` removed the others.
    positions : ndarray of int64, shape (n,)
        Candidates, as positions on the placement.
    slots
        Of the slate, ≥ 2.

    Returns
    -------
    tuple of SharedLimit
        Members are indices into the candidates; the allowance is what is paid whichever are chosen.

    Examples
    --------
    >>> import numpy as np
    >>> from nbx.catalog.budgets import BudgetPlan
    >>> plan = BudgetPlan("gifts", "gifts/money", 90, 86_400_000, 0, {})
    >>> use = ResourceUse(plan, np.array([9, 0, 1, 1]), 9)
    >>> (limit,) = shared_budgets((use,), {"gifts/money": 10}, np.array([0, 1, 2, 3]), 3)
    >>> limit.members, limit.allowance
    ((0, 2, 3), 2)
    """
    limits = []
    for use in uses:
        left = purse.get(use.plan.resource)
        if left is None or left >= use.dearest * slots:
            continue
        amounts = use.amounts[positions]
        members = np.flatnonzero(amounts).tolist()
        dearest = sorted(amounts[members].tolist(), reverse=True)
        allowance = sum(sum_ <= left for sum_ in accumulate(dearest))
        if allowance < min(slots, len(members)):
            limits.append(SharedLimit(tuple(members), allowance))
    return tuple(limits)
