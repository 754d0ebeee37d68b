"""What changes between two catalogs, in words: the sentences people read, and that none is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct, inspect, structs

from nbx.catalog.diff import LONG, diff
from nbx.catalog.model import (
    Action,
    Budget,
    Catalog,
    ConsentPolicy,
    ContactPolicy,
    ContactRule,
    ContextWeight,
    ExperiencePolicy,
    Goal,
    Group,
    Holdout,
    Limit,
    Pause,
    Placement,
    QuietHours,
    Treatment,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

DAY_MS = 86_400_000
END_MS = 1_798_131_600_000
"""24 December 2026, 18:00 in Berlin."""

HERO = Treatment(name="hero", placements=("web_home_hero",), content={"headline": "Gold", "link": {"to": "/gold"}})
UPGRADE = Action(
    name="card_upgrade", group="cards", value=60.0, limits=(Limit(max=3, per_ms=7 * DAY_MS),), treatments=(HERO,)
)
TRAVEL = Action(name="travel_card", group="cards", treatments=(structs.replace(HERO, name="t"),))
BANK = Catalog(
    name="bank",
    time_zone="Europe/Berlin",
    placements=(Placement(name="web_home_hero", channel="web", impressions="reported"),),
    groups=(Group(name="cards", pause=Pause(declined_ms=30 * DAY_MS)),),
    actions=(UPGRADE, TRAVEL),
    contact=ContactPolicy(quiet_hours=(QuietHours(from_minute=22 * 60, to_minute=7 * 60, channels=("phone",)),)),
    budgets=(Budget(name="gifts", groups=("cards",), money=5000.0, per_ms=30 * DAY_MS),),
    holdout=Holdout(silent=0.05),
)


def with_actions(*actions: Action) -> Catalog:
    return structs.replace(BANK, actions=actions)


def upgraded(**changes: Any) -> Catalog:
    return with_actions(structs.replace(UPGRADE, **changes), TRAVEL)


def contact(**changes: Any) -> Catalog:
    return structs.replace(BANK, contact=structs.replace(BANK.contact, **changes))


def budget(**changes: Any) -> Catalog:
    return structs.replace(BANK, budgets=(structs.replace(BANK.budgets[0], **changes),))


WORDS: list[tuple[Catalog, str]] = [
    (upgraded(limits=(Limit(max=2, per_ms=7 * DAY_MS),)), "card_upgrade: limit 3 → 2 per 7 days"),
    (
        upgraded(limits=(*UPGRADE.limits, Limit(max=1, per_ms=DAY_MS))),
        "card_upgrade: limit 1 per day (new)",
    ),
    (upgraded(limits=()), "card_upgrade: limit 3 per 7 days removed"),
    (upgraded(value=1250.5), "card_upgrade: value 60 → 1,250.5"),
    (upgraded(action_class="service"), "card_upgrade: class promotional → service"),
    (upgraded(gives=("miles", "points")), "card_upgrade: gives none → miles, points"),
    (upgraded(eligible="customer.age > 18"), "card_upgrade: eligible only if customer.age > 18 (was everyone)"),
    (upgraded(pause=Pause(declined_ms=DAY_MS)), "card_upgrade: pause the group's → after declined 1 day"),
    (
        upgraded(context_weights=(ContextWeight(when="customer.gold", weight=1.5),)),
        "card_upgrade: weight 1.5 when customer.gold (new)",
    ),
    (
        upgraded(treatments=(structs.replace(HERO, content={"headline": "Gold!", "link": {"to": "/gold"}}),)),
        "card_upgrade, treatment hero: content headline Gold → Gold!",
    ),
    (
        upgraded(treatments=(structs.replace(HERO, content={"headline": "Gold", "link": {"to": "/g"}}),)),
        "card_upgrade, treatment hero: content link to /gold → /g",
    ),
    (
        upgraded(treatments=(HERO, structs.replace(HERO, name="mini"))),
        "card_upgrade, treatment mini: new for web_home_hero",
    ),
    (
        with_actions(UPGRADE, structs.replace(TRAVEL, ends_ms=END_MS)),
        "travel_card: no longer offered from 24 Dec 2026, 18:00",
    ),
    (
        with_actions(UPGRADE, structs.replace(TRAVEL, starts_ms=END_MS - 18 * 3_600_000)),
        "travel_card: offered only from 24 Dec 2026",
    ),
    (
        with_actions(UPGRADE, TRAVEL, structs.replace(UPGRADE, name="pay_card")),
        "pay_card: new action in group cards (web_home_hero)",
    ),
    (with_actions(UPGRADE), "travel_card: action removed"),
    (with_actions(TRAVEL, UPGRADE), "catalog: actions in another order: travel_card, card_upgrade"),
    (
        contact(quiet_hours=(QuietHours(from_minute=21 * 60, to_minute=8 * 60, channels=("phone",)),)),
        "phone: quiet hours 21:00-08:00 (were 22:00-07:00)",
    ),
    (contact(quiet_hours=()), "phone: no quiet hours any more (were 22:00-07:00)"),
    (contact(overall=ContactRule(gap_ms=5_400_000)), "contact: gap none → 1 hour 30 minutes"),
    (
        contact(channels={"email": ContactRule(limits=(Limit(max=1, per_ms=DAY_MS),), gap_ms=DAY_MS)}),
        "email: contact rule new, limit 1 per day, gap 1 day",
    ),
    (contact(exclusive=(("a", "b"),)), "contact: never together in one slate a, b (new)"),
    (budget(money=4000.0), "budget gifts: 5,000 → 4,000 per 30 days"),
    (budget(per_ms=DAY_MS), "budget gifts: 5,000 per 30 days → 5,000 per day"),
    (budget(units=10), "budget gifts: no bound → 10 units per 30 days"),
    (structs.replace(BANK, holdout=Holdout(silent=0.02)), "holdout: silent 5 % → 2 %"),
    (
        structs.replace(BANK, consent=ConsentPolicy(learn="opt_in")),
        "consent: learn until a no → only after a yes",
    ),
    (
        structs.replace(BANK, groups=(structs.replace(BANK.groups[0], pause=Pause(declined_ms=7 * DAY_MS)),)),
        "group cards: pause after declined 30 days → 7 days",
    ),
    (
        structs.replace(
            BANK, placements=(structs.replace(BANK.placements[0], goal=Goal(event="paid", within_ms=1, value=3.0)),)
        ),
        "placement web_home_hero: goal none → event paid, within 1 ms, value 3",
    ),
    (
        structs.replace(BANK, experience=ExperiencePolicy(points={"ignored": -1.0})),
        "experience: points for ignored new, -1",
    ),
    (structs.replace(BANK, name="bank 2"), "catalog: name bank → bank 2"),
]


@pytest.mark.parametrize(("after", "words"), WORDS, ids=[words for _, words in WORDS])
def test_a_change_is_one_sentence_in_words(after: Catalog, words: str) -> None:
    assert diff(BANK, after) == (words,)


def test_the_first_catalog_is_told_as_a_whole() -> None:
    assert diff(None, BANK) == ("catalog: new, bank, with 2 actions, 1 group, 1 placement",)


def test_long_texts_are_cut_around_the_difference() -> None:
    before, after = ("x" * 900 + each + "y" * 900 for each in ("1 == 1", "2 == 2"))
    (sentence,) = diff(upgraded(suitable=before), upgraded(suitable=after))
    assert "x1 == 1y" in sentence
    assert "x2 == 2y" in sentence
    assert len(sentence) < 3 * LONG


def test_numbers_that_read_alike_are_told_exactly() -> None:
    (sentence,) = diff(upgraded(value=0.1 + 0.2), upgraded(value=0.3))
    assert sentence == "card_upgrade: value 0.30000000000000004 → 0.3"


# Nothing is missing: every field of every struct, found by reflection


def made(kind: inspect.Type, number: int) -> Any:
    """Make a value of a type; two numbers make two different values."""
    match kind:
        case inspect.BoolType():
            return bool(number % 2)
        case inspect.IntType():
            return 3 + number
        case inspect.FloatType():
            return 0.25 + number / 8
        case inspect.StrType():
            return f"v{number}"
        case inspect.LiteralType(values=values):
            return values[number % len(values)]
        case inspect.StructType(cls=cls):
            return cls(**{field.name: made(field.type, number) for field in fields(cls)})
        case inspect.VarTupleType(item_type=item):
            return (made(item, number),)
        case inspect.TupleType(item_types=items):
            return tuple(made(item, number) for item in items)
        case inspect.DictType(key_type=key, value_type=value):
            return {made(key, 0): made(value, number)}
        case inspect.UnionType(types=types):
            options = [each for each in types if not isinstance(each, inspect.NoneType)]
            return made(next((each for each in options if isinstance(each, inspect.StructType)), options[-1]), number)
        case inspect.AnyType():
            return {"deep": {"er": number}}
    raise AssertionError(f"no value for {kind}")


def fields(cls: type[Struct]) -> list[inspect.Field]:
    """Fields of a struct with their Python names."""
    described = inspect.type_info(cls)
    assert isinstance(described, inspect.StructType)
    return list(described.fields)


def others(kind: inspect.Type, value: Any) -> Iterator[Any]:
    """Every value that differs from a value in one place."""
    match kind:
        case inspect.StructType(cls=cls):
            for field in fields(cls):
                old = getattr(value, field.name)
                found = [other for other in others(field.type, old) if other != old]
                assert found, f"no other value for {cls.__name__}.{field.name}"
                yield from (structs.replace(value, **{field.name: other}) for other in found)
        case inspect.VarTupleType(item_type=item):
            yield ()
            yield (*value, made(item, 1))
            yield (made(item, 1), *value)
            for each in others(item, value[0]) if value else ():
                yield (each,)
        case inspect.DictType(key_type=key, value_type=inner):
            yield {}
            yield {**value, made(key, 1): made(inner, 1)}
            for name, old in value.items():
                for each in others(inner, old):
                    yield {name: each}
        case inspect.UnionType(types=types):
            for each in types:
                if isinstance(each, inspect.NoneType):
                    yield None
                elif isinstance(each, inspect.StructType) and isinstance(value, each.cls):
                    yield from others(each, value)
                elif made(each, 1) != value:
                    yield made(each, 1)
        case inspect.AnyType():
            yield {"deep": {"er": 9}}
            yield {"deep": [1, None, "x"]}
        case _:
            yield made(kind, 1)


CATALOG_TYPE = inspect.type_info(Catalog)
FULL: Catalog = made(CATALOG_TYPE, 0)
OTHERS = [other for other in others(CATALOG_TYPE, FULL) if other != FULL]


def test_every_change_of_every_field_is_told_both_ways() -> None:
    assert len(OTHERS) > 300, "the walk over the structs finds them all"
    for other in OTHERS:
        for before, after in ((FULL, other), (other, FULL)):
            sentences = diff(before, after)
            assert sentences, (before, after)
            assert len(set(sentences)) == len(sentences), sentences
            for sentence in sentences:
                subject, colon, words = sentence.partition(": ")
                assert subject.strip() == subject != ""
                assert colon, sentence
                assert words.strip() == words != ""
                assert "  " not in sentence, sentence
                assert not any(word in sentence for word in ("_ms", "Struct", "NODEFAULT", "<")), sentence


def test_equal_catalogs_differ_in_nothing() -> None:
    for catalog in (FULL, BANK, *OTHERS[::7]):
        again = msgspec.json.decode(msgspec.json.encode(catalog), type=Catalog)
        assert diff(catalog, again) == ()


@given(*(st.integers(0, len(OTHERS) - 1) for _ in range(2)))
@settings(max_examples=200, deadline=None)
def test_two_catalogs_differ_in_words_just_when_they_differ(first: int, second: int) -> None:
    one, other = OTHERS[first], OTHERS[second]
    sentences = diff(one, other)
    assert bool(sentences) == (one != other)
    assert diff(one, other) == sentences, "the order is fixed"
