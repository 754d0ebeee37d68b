"""What only time, or the customer's own word, lets go again: each rule that holds an action back, with its numbers.

Of a rebuilt customer the numbers are asked of the same functions that the rules use (`nbx.decision.contact_policy` and
the like); without one they are read off the record, as far as it tells.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from nbx.catalog.rules import OVERALL
from nbx.catalog.time_words import duration, moment, per
from nbx.decision.contact_policy import Contacts
from nbx.decision.plain_words import spoken
from nbx.experience.relationship import balance_at
from nbx.limits import STOPPED_MS

if TYPE_CHECKING:
    from nbx.catalog.model import ExperiencePolicy
    from nbx.catalog.plan import Plan
    from nbx.decision.again import Again
    from nbx.experience.entries import DecisionEntry, Removed

_UNTIL = re.compile(r"until (\d{10,16})")
_SINCE = re.compile(r"^(.*), since (\d{10,16})$")
_LIMIT = re.compile(r"^(?:(.*): )?(\d+) per (\d+) s$")
_GAP = re.compile(r"^(.*): (\d+) s between prompts, until (\d+)$")
_STARTS = re.compile(r"from (\d{1,16})$")


class Held(Struct, frozen=True, kw_only=True):
    """A rule that held an action back, and what it counted."""

    reason: str
    scope: str = ""
    """Where it counts: the action, `group:x`, `channel:x`, `class:x`, `overall`, a topic or a budget."""
    count: int | None = None
    """Prompts counted, open ones included."""
    limit: int | None = None
    """Most that are allowed in the window."""
    window_ms: int = 0
    """Of a limit, or least time between two prompts."""
    until_ms: int = 0
    """When it lets go, at the earliest, if nothing else happens; epoch milliseconds, 0: not by itself, or not known."""
    words: str = ""


def held_in_record(entry: DecisionEntry, removed: Removed, plan: Plan | None) -> Held:
    """Read off the record what held an action back.

    Parameters
    ----------
    entry, removed
        The record, and what it says of the action.
    plan
        Of the release that decided; None: it cannot be read any more.
    """
    held = _read(entry, removed, plan)
    return structs.replace(held, words=_words(held, removed.detail))


def held_again(asked: Again, removed: Removed) -> Held:
    """Say what held an action back, with the numbers of the rebuilt customer."""
    held = _read(asked.entry, removed, asked.plan)
    plan, now_ms = asked.plan, asked.entry.at_ms
    if removed.reason == "limit_reached":
        contacts = Contacts(asked.state, plan.rules, now_ms)
        scope = plan.placements[asked.request.placement].scopes.get(held.scope)
        reached = [limit for limit in scope.limits if contacts.left(scope.key, limit) <= 0] if scope else []
        if reached:  # the one that takes longest: the action waits for all of them
            limit = max(reached, key=lambda each: contacts.free_ms(held.scope, each))
            held = structs.replace(
                held,
                count=limit.max - contacts.left(held.scope, limit),
                limit=limit.max,
                window_ms=limit.per_ms,
                until_ms=contacts.free_ms(held.scope, limit),
            )
    elif removed.reason == "experience_floor":
        policy = plan.rules.experience
        held = structs.replace(held, until_ms=_floor_ms(balance_at(asked.state, now_ms, policy), policy, now_ms))
    return structs.replace(held, words=_words(held, removed.detail))


def _read(entry: DecisionEntry, removed: Removed, plan: Plan | None) -> Held:
    detail, held = removed.detail, Held(reason=removed.reason, scope=removed.action)
    until = _UNTIL.search(detail)
    held = structs.replace(held, until_ms=int(until[1]) if until and int(until[1]) < STOPPED_MS else 0)
    match removed.reason:
        case "limit_reached" if told := _LIMIT.match(detail):
            held = structs.replace(
                held, scope=told[1] or removed.action, limit=int(told[2]), window_ms=int(told[3]) * 1000
            )
        case "too_soon" if told := _GAP.match(detail):
            held = structs.replace(held, scope=told[1], window_ms=int(told[2]) * 1000)
        case "paused":
            held = structs.replace(held, scope=detail.rpartition(": ")[0] or removed.action)
        case "obligation_open" if told := _SINCE.match(detail):
            until_ms = int(told[2]) + plan.rules.experience.obligation_ms if plan is not None else 0
            held = structs.replace(held, scope=told[1], until_ms=until_ms)
        case "budget_spent":
            resource = detail.partition(":")[0]
            ends = (
                [each.window(entry.at_ms).ends_ms for each in plan.budgets if each.resource == resource] if plan else []
            )
            held = structs.replace(held, scope=resource, until_ms=max(ends, default=0))
        case "not_started":
            starts = _STARTS.search(detail)
            held = structs.replace(held, until_ms=int(starts[1]) if starts else 0)
        case "experience_floor" if plan is not None and entry.personalised and entry.relationship:
            until_ms = _floor_ms(entry.relationship["balance"], plan.rules.experience, entry.at_ms)
            held = structs.replace(held, until_ms=until_ms)
    return held


def _floor_ms(balance: float, policy: ExperiencePolicy, now_ms: int) -> int:
    """Return when a balance has decayed to the floor; 0: it never does, or is not below."""
    if not balance < policy.floor < 0:
        return 0
    return now_ms + math.ceil(policy.half_life_ms * math.log2(balance / policy.floor))


def scope_words(scope: str, action: str) -> str:
    """Return a scope in words.

    Examples
    --------
    >>> scope_words("group:loans", "x"), scope_words("channel:web", "x"), scope_words("x", "x")
    ('all of group loans', 'everything on web', 'this action')
    """
    kind, _, name = scope.rpartition(":")
    lead = {"group": "all of group ", "channel": "everything on ", "class": "everything of class "}.get(kind, "")
    if scope == OVERALL:
        return "everything, on every channel"
    return "this action" if scope == action else f"{lead}{spoken(name)}"


def _words(held: Held, detail: str) -> str:
    when = f", not until {moment(held.until_ms)}" if held.until_ms else ""
    match held.reason:
        case "excluded":
            return "the caller asked to leave it out"
        case "holdout":
            return "the customer is held out of nbx's choice and gets mandatory actions only"
        case "not_started":
            return f"it is not on offer yet{when}"
        case "ended":
            return "it is not on offer any more"
        case "no_consent":
            return f"the customer did not agree to be contacted ({detail.removeprefix('contact ')})"
        case "needs_personalise":
            return "its rules read personal data, and the customer did not agree to personalisation"
        case "quarantined":
            return "its rules read data that nobody may rely on at the moment"
        case "experience_floor":
            return f"too much went wrong with this customer lately, so nothing promotional is shown ({detail}){when}"
        case "obligation_open":
            at_latest = f", until it is made good, at the latest {moment(held.until_ms)}" if held.until_ms else ""
            return f"the company failed the customer on {spoken(held.scope)} and has not made good yet{at_latest}"
        case "asks_too_much":
            return f"it asks something, and the customer was asked much and given little lately ({detail})"
        case "quiet_hours":
            return f"it was a quiet hour where the customer is{when}"
        case "limit_reached" if held.limit is not None:
            counted = f"{held.count} counted" if held.count is not None else "used up"
            most = f"at most {held.limit} per {per(held.window_ms)}"
            return f"the limit is reached: {most} of {scope_words(held.scope, '')}, {counted}{when}"
        case "too_soon":
            return f"it was too soon after the last prompt: {duration(held.window_ms)} apart{when}"
        case "paused":
            why = "the customer asked for it" if "the customer asked" in detail else _after(detail)
            end = when or ", until the customer says otherwise"
            return f"it is paused: {why}{end}"
        case "budget_spent":
            return f"what was set aside is used up ({held.scope}){when}"
    return detail or held.reason


def _after(detail: str) -> str:
    outcome = detail.rpartition(": ")[2].partition(",")[0]
    return f"the customer's last answer was {outcome}"
