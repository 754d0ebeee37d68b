"""Who is held out of nbx's choice: a sticky hash of the customer's id, so that it needs no state and never changes.

Silence takes the low end of the unit interval and chance the high one: raising a share only adds customers to it, and
changing one share moves nobody of the other. A merge of two ids fixes in `state.holdout` what held for either of them.
"""

from __future__ import annotations

from typing import Literal

from nbx.catalog.model import Holdout
from nbx.features.state import CustomerState
from nbx.hashing import uniform

Assignment = Literal["", "silent", "random"]


def assignment(customer_id: str, state: CustomerState, policy: Holdout, salt: str) -> Assignment:
    """Tell how a customer is held out; empty: not at all.

    Parameters
    ----------
    customer_id
        Canonical id.
    state
        Its `holdout`, fixed by a merge, overrules the hash while its kind has a share.
    policy
        Shares; where they overlap silence wins.
    salt
        Of the installation; the draws of decisions hash other texts.

    Examples
    --------
    >>> assignment("anna", CustomerState(), Holdout(), "salt")
    ''
    >>> assignment("anna", CustomerState(holdout="random"), Holdout(random=0.01), "salt")
    'random'
    """
    if state.holdout == "silent" and policy.silent > 0.0:
        return "silent"
    if state.holdout == "random" and policy.random > 0.0:
        return "random"
    if not policy.silent and not policy.random:
        return ""
    at = uniform(f"{salt}:{customer_id}", "holdout")
    if at < policy.silent:
        return "silent"
    return "random" if at >= 1.0 - policy.random else ""
