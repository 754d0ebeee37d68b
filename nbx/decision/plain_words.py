"""Catalog and records in words that a customer reads: conditions, headlines, outcomes, names.

What a condition says is told where it compares a name with fixed values, also inside and, or, not; of anything else
only what it looks at. The relationship is told without its
numbers: they are points of the house, and mean nothing outside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from nbx.catalog.cel_syntax import Chain, Node, Unary, names_in, parse_condition
from nbx.catalog.condition_logic import fact_of
from nbx.catalog.value_sets import Choice, Values
from nbx.catalog.vocabulary import Variable

_HEADLINES = ("headline", "title", "subject", "say", "question", "text", "body")
"""Keys of a treatment's content that a person would know it by, best first."""
_RELATIONSHIP = {
    "balance": "how things have gone between us lately",
    "strain": "how things have gone between us lately",
    "ignored_30d": "how many of our messages you left unanswered lately",
    "minutes_since_prompt": "how long ago you last heard from us",
}
OUTCOMES = {
    "accepted": "you said yes",
    "converted": "you said yes, and it was done",
    "declined": "you said no",
    "dismissed": "you closed it",
    "ignored": "you left it unanswered",
    "failed": "it went wrong",
    "complained": "you complained about it",
    "not_seen": "you did not get to see it",
    "not_delivered": "it did not reach you",
}
NOT_NOW = {
    "experience_floor": "not until things go better between us",
    "obligation_open": "not before we have made good what went wrong",
    "asks_too_much": "not now: we have asked much of you lately",
    "quiet_hours": "not at this hour",
    "paused": "not now: it is paused",
    "too_soon": "not right after the last message",
    "limit_reached": "not now: you have seen it often enough",
    "budget_spent": "not now: what was set aside for it is used up",
}
"""Reason why an action waits although its conditions hold → in words."""


def spoken(name: str) -> str:
    """Return a declared name as people say it.

    Examples
    --------
    >>> spoken("digital_active")
    'digital active'
    """
    return name.replace("_", " ")


def headline(action: str, content: Any) -> str:
    """Return what a person would know a treatment by; the action's name where its content has nothing to read.

    Examples
    --------
    >>> headline("tips", {"cta": "Go", "say": "Shall we?"}), headline("save_more", {"image": "a.png"})
    ('Shall we?', 'save more')
    """
    known = content if isinstance(content, dict) else {}
    found = (known[key] for key in _HEADLINES if isinstance(known.get(key), str) and known[key].strip())
    return next(found, spoken(action))


def decoded(raw: Any) -> Any:
    """Return a treatment's content, which a plan holds as encoded JSON."""
    return msgspec.json.decode(raw)


def condition_words(source: str, words: Mapping[str, Variable]) -> Iterator[str]:
    """Yield what a condition that holds says, one sentence per part of its outermost and.

    Examples
    --------
    >>> from nbx.catalog.vocabulary import vocabulary
    >>> from nbx.features.schema import Encoding, Feature
    >>> tier = Feature(name="card_tier", type="category", encoding=Encoding(kind="none"), default="")
    >>> list(condition_words("customer.card_tier != 'gold' && relationship.balance > -5.0", vocabulary([tier])))
    ['card tier is not gold', 'it depends on how things have gone between us lately']
    """
    for part in _conjuncts(parse_condition(source)):
        said = node_words(part, words, _fact)
        if said is None:
            looked_at = dict.fromkeys(_name(path) for path in sorted(names_in(part)))
            said = f"it depends on {' and '.join(looked_at)}"
        yield said


def _conjuncts(node: Node) -> Iterator[Node]:
    if isinstance(node, Chain) and node.signs[0] == "&&":
        for each in node.operands:
            yield from _conjuncts(each)
    else:
        yield node


def node_words(
    node: Node, words: Mapping[str, Variable], tell: Callable[[str, Values], str | None], *, holds: bool = True
) -> str | None:
    """Return what it means that a node holds, or does not; None where that is not for words.

    `tell` says it of one variable's path and the values it has then, or returns None.
    """
    if isinstance(node, Unary) and node.sign == "!":
        return node_words(node.operand, words, tell, holds=not holds)
    if isinstance(node, Chain) and node.signs[0] in ("&&", "||"):
        parts = [node_words(each, words, tell, holds=holds) for each in node.operands]
        told = [part for part in parts if part is not None]
        if len(told) < len(parts):
            return None
        return (" and " if (node.signs[0] == "&&") is holds else ", or ").join(told)
    fact = fact_of(node, words)
    if fact is None:
        return None
    path, values = fact
    return tell(path, values if holds else values.negated())


def _fact(path: str, values: Values) -> str | None:
    root, _, name = path.partition(".")
    if root == "relationship":
        return None
    if isinstance(values, Choice) and values.values <= {True, False}:
        is_so = (True in values.values) is not values.all_but
        if root == "concern":
            return f"{spoken(name)} {'keeps' if is_so else 'does not keep'} you busy"
        return f"{_name(path)} is {'yes' if is_so else 'no'}"
    told = str(values).replace("`", "") if not _is_empty_text(values) else _emptiness(values)
    if root == "journey":
        return f"where you are with {spoken(name)} is {told}"
    return f"{_name(path)} is {told}"


def _is_empty_text(values: Values) -> bool:
    return isinstance(values, Choice) and values.values == {""}


def _emptiness(values: Values) -> str:
    assert isinstance(values, Choice)
    return "known" if values.all_but else "not known"


def _name(path: str) -> str:
    root, _, name = path.partition(".")
    if root == "relationship":
        return _RELATIONSHIP.get(name, "how things stand between us")
    return f"the {name}" if path in ("request.channel", "request.placement") else spoken(name)
