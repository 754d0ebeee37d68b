"""Catalog files made to hurt: as large, deep, wide and ambiguous as the form allows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nbx.limits import CATALOG_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

M = CATALOG_BYTES - 100
HEAD = """\
catalog: a
features: {age: {type: number}, tier: {type: category, encode: none}}
placements: {p: {channel: web, impressions: reported}}
groups: {g: {}}
"""


def action(fields: str) -> str:
    return f"{HEAD}actions: {{a: {{group: g, {fields}, treatments: {{t: {{placements: [p]}}}}}}}}"


def condition(source: str) -> str:
    return action(f"eligible: '{source}'")


def content(inner: str) -> str:
    """Nest it deep, under long keys."""
    keys = [chr(97 + i) * 75 for i in range(24)]
    deep = "".join(f"{{{key}: " for key in keys) + inner + "}" * len(keys)
    return f"{HEAD}actions: {{a: {{group: g, treatments: {{t: {{placements: [p], content: {deep}}}}}}}}}"


def lines(head: str, line: Callable[[int], str], count: int) -> str:
    return head + "".join(map(line, range(count)))


def one_action(i: int, fields: str = "") -> str:
    return f" a{i}: {{group: g, {fields}treatments: {{t: {{placements: [p]}}}}}}\n"


SHAPES: dict[str, Callable[[], str]] = {
    "brackets": lambda: "catalog: " + "[" * M,
    "braces": lambda: "catalog: " + "{a: " * (M // 4),
    "dashes": lambda: "- " * (M // 2),
    "questions": lambda: "? " * (M // 2),
    "ever deeper lines": lambda: lines("catalog: a\n", lambda i: " " * i + "a:\n", 4000),
    "one long name": lambda: "catalog: " + "a" * M,
    "one long quote": lambda: "catalog: '" + "a" * M,
    "escapes": lambda: 'catalog: "' + "\\n" * (M // 2) + '"',
    "one long key": lambda: "? " + "a" * M + "\n: 1",
    "digits": lambda: "catalog: a\nexploration: {floor: " + "9" * M + "}",
    "comments": lambda: "#\n" * (M // 2),
    "white space": lambda: "catalog: a\n" + " \n" * (M // 2),
    "tag lines": lambda: lines("", lambda i: f"%TAG !a{i}! b\n", 500_000),
    "tag lines of a second document": lambda: lines("catalog: a\n...\n", lambda i: f"%TAG !a{i}! b\n", 500_000),
    "yaml lines": lambda: "%YAML 1.1\n" * (M // 10),
    "documents": lambda: "--- a\n" * (M // 6),
    "one long anchor": lambda: "catalog: &" + "a" * M,
    "one long tag": lambda: "catalog: !<" + "%41" * (M // 3) + "> x",
    "anchors": lambda: lines("catalog: a\nx:\n", lambda i: f" - &a{i} 1\n", 100_000),
    "no characters": lambda: "catalog: a\n" * (M // 11) + "\0",
    "half characters": lambda: "catalog: " + "\ud800" * (M // 3),
    "emoji": lambda: "catalog: " + "\U0001f600" * (M // 4),
    "too many keys": lambda: lines("catalog: a\n", lambda i: f"k{i}: 1\n", 80_000),
    "unknown keys": lambda: lines("catalog: a\n", lambda i: f"{'k' * 60}{i}: 1\n", 50_000),
    "one key": lambda: "catalog: a\n" * 70_000,
    "deep paths": lambda: content("[" + ".inf," * 100_000 + "1]"),
    "large numbers": lambda: content("[" + "9" * 100 + ",1e999," * 40_000 + "1]"),
    "members": lambda: action("not_with: [" + "".join(f"x{i}," for i in range(9_999)) + "]"),
    "too many members": lambda: action("not_with: [" + "x," * 100_000 + "]"),
    "limits": lambda: action("limits: [" + "{max: 0, per: 7d}," * 9_000 + "]"),
    "quiet hours": lambda: HEAD + "contact: {quiet_hours: [" + "{from: 21:00, to: 08:00}," * 9_000 + "]}",
    "time zone": lambda: "catalog: a\ntime_zone: " + "a" * M,
    "brackets in a condition": lambda: condition("(" * 1000 + "true" + ")" * 1000),
    "lists in a condition": lambda: condition("customer.age in " + "[" * 1000 + "1" + "]" * 1000),
    "nots in a condition": lambda: condition("!" * 2000 + "true"),
    "signs in a condition": lambda: condition("-" * 2000 + "1 > 0"),
    "choices in a condition": lambda: condition("true?" * 200 + "true" + ":true" * 200),
    "fields in a condition": lambda: condition("customer" + ".a" * 1000),
    "names in a condition": lambda: condition(" || ".join(["x"] * 500)),
    "loops in a condition": lambda: condition("[1].exists(a, [1].exists(b, [1].all(c, true)))"),
    "one long condition": lambda: condition("a" * M),
    "conditions with white space": lambda: lines(
        HEAD + "actions:\n", lambda i: one_action(i, f"eligible: 'x{' ' * 60_000}\n   ', "), 150
    ),
    "conditions": lambda: lines(
        HEAD + "actions:\n", lambda i: one_action(i, f"eligible: '{'x || ' * 400}y{i}', "), 4_000
    ),
    "the same condition": lambda: lines(HEAD + "actions:\n", lambda i: one_action(i, "eligible: x, "), 3_000),
    "unlike groups": lambda: lines(
        lines("catalog: a\ngroups:\n", lambda i: f" group_{i}: {{}}\n", 9_000) + "actions:\n",
        lambda i: f" a{i}: {{group: qroup_{i}, treatments: {{}}}}\n",
        9_000,
    ),
    "examples": lambda: lines(
        HEAD + "examples:\n", lambda i: f" 'number {i}': {{given: {{placement: q}}, expect: {{}}}}\n", 9_000
    ),
    "budgets": lambda: lines(
        lines(HEAD + "actions:\n", one_action, 500) + "budgets:\n",
        lambda i: f" b{i}: {{groups: [{'g,' * 900}], money: 1, per: 1d}}\n",
        100,
    ),
}
