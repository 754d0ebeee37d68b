"""Actions whose lift is up while experience is down: more customers accept, and those it is shown to are worse off.

Two ways to see it. *Over time*: acceptance in the second half of the time covered is above that of the first, and
points per showing are below. *Against a reference*: acceptance is above that of the same action where chance chose it
(the `random` holdout), or without enough of these above that of the group's other actions, while points per showing
are negative: silence has 0, so for those customers it would have been better.

It is *clear* where both intervals say so, else a *hint*. An action in neither list is not thereby harmless.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from msgspec import Struct

from nbx.audit.clustered import I64, Change, Mean, Portion, between, change_of_means, mean, portion
from nbx.audit.experienced import Lived

ENOUGH = 30
"""Answers that a reference takes."""


class Tension(Struct, frozen=True, kw_only=True):
    """An action that is accepted more and does its customers no good."""

    action: str
    group: str
    seen: str
    """`over_time` or `against`."""
    reference: str
    """`random` (the same action in the random holdout), `group` (its other actions), or `before`."""
    acceptance: Change
    """From the reference to the action."""
    experience: Mean
    """Points per showing of the action; over time those of the second half."""
    experience_change: Change | None
    """Over time; None against a reference."""
    clear: bool
    """Both intervals say so; otherwise it may be chance."""
    words: str
    decisions: tuple[str, ...]
    """Of its worst outcomes, the newest first among equals."""


def tensions(told: Lived) -> tuple[Tension, ...]:
    """Find them, the clear ones first, then those that cost the most points per showing."""
    of_action: dict[tuple[str, str], list[int]] = {}
    for i, slot in enumerate(told.slots):
        if told.shown[i]:
            of_action.setdefault((slot.action, slot.group), []).append(i)
    found = []
    for (action, group), rows in sorted(of_action.items()):
        here = np.array(rows, dtype=np.int64)
        found += list(_over_time(told, action, group, here))
        others = [i for (name, of), each in of_action.items() if of == group and name != action for i in each]
        found += list(_against(told, action, group, here, np.array(others, dtype=np.int64)))
    return tuple(sorted(found, key=lambda each: (not each.clear, each.experience.mean or 0.0)))


def _over_time(told: Lived, action: str, group: str, rows: I64) -> Iterator[Tension]:
    late = told.late[rows]
    accepted = between(_accepted(told, rows[~late]), _accepted(told, rows[late]))
    points = change_of_means(told.points[rows], late, told.who[rows])
    if accepted is None or points is None or accepted.change <= 0.0 or points.change >= 0.0:
        return
    clear = accepted.up and points.down
    yield Tension(
        action=action,
        group=group,
        seen="over_time",
        reference="before",
        acceptance=accepted,
        experience=mean(told.points[rows[late]], told.who[rows[late]]),
        experience_change=points,
        clear=clear,
        words=(
            f"{action}: acceptance rose from {accepted.before:.1%} to {accepted.after:.1%} while experience fell from "
            f"{points.before:+.2f} to {points.after:+.2f} points per showing{_doubt(clear=clear)}"
        ),
        decisions=_worst(told, rows[late]),
    )


def _against(told: Lived, action: str, group: str, rows: I64, others: I64) -> Iterator[Tension]:
    by_chance = np.array([told.made[i].holdout == "random" for i in rows.tolist()], dtype=np.bool_)
    chosen = rows[~by_chance]
    reference, against = _accepted(told, rows[by_chance]), "random"
    if reference.of < ENOUGH:
        reference, against = _accepted(told, others), "group"
    accepted = between(reference, _accepted(told, chosen)) if reference.of >= ENOUGH else None
    points = mean(told.points[chosen], told.who[chosen])
    if accepted is None or points.mean is None or accepted.change <= 0.0 or points.mean >= 0.0:
        return
    clear = accepted.up and points.high is not None and points.high < 0.0
    whom = "where chance chose it" if against == "random" else f"for the other actions of {group}"
    yield Tension(
        action=action,
        group=group,
        seen="against",
        reference=against,
        acceptance=accepted,
        experience=points,
        experience_change=None,
        clear=clear,
        words=(
            f"{action}: {accepted.after:.1%} accept, {accepted.before:.1%} {whom}; yet each showing leaves customers "
            f"{points.mean:+.2f} points, where silence leaves them 0{_doubt(clear=clear)}"
        ),
        decisions=_worst(told, chosen),
    )


def _accepted(told: Lived, rows: I64) -> Portion:
    """Share of answers that are yes, of what was shown and answered or passed over."""
    answered = rows[np.array([told.told[i].response is not None for i in rows.tolist()], dtype=np.bool_)]
    hit = np.array([told.told[i].response == 1 for i in answered.tolist()], dtype=np.bool_)
    return portion(hit, told.who[answered])


def _doubt(*, clear: bool) -> str:
    return "" if clear else " (may be chance)"


def _worst(told: Lived, rows: I64) -> tuple[str, ...]:
    order = told.costliest(rows[told.negative[rows]])[:10]
    return tuple(dict.fromkeys(told.ids[i] for i in order.tolist()))[:5]
