"""A small specification and its randomised log, for the tests of the back-test."""

from __future__ import annotations

from pathlib import Path

import numpy as np

SPEC = """\
action:
  column: arm
  values: {A: red, B: green, C: blue}
reward: {column: bought, positive: 1, negative: 0}
columns:
  age: age
  member: {column: status, values: {gold: true, none: false}}
  city: town
catalog:
  catalog: shop
  experience: {exchange: 0}
  features:
    age: {type: number, from: context, encode: {standard: {mean: 40, sd: 10}}}
    member: {type: boolean, from: context}
    city: {type: category, from: profile, encode: {onehot: [Bern, Basel]}}
  placements:
    mail: {channel: email, impressions: reported, delivery: 7d}
  groups:
    g: {topic: t}
  actions:
    red: {group: g, value: 1, treatments: {t: {placements: [mail]}}}
    green: {group: g, value: 1, treatments: {t: {placements: [mail]}}}
    blue: {group: g, value: 1, treatments: {t: {placements: [mail]}}}
"""
HEADER = ("customer", "age", "status", "town", "arm", "bought")


def write_spec(directory: Path, *changes: tuple[str, str]) -> Path:
    """Write the specification with some text replaced."""
    text = SPEC
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = directory / "spec.yaml"
    path.write_text(text)
    return path


def log_rows(count: int, *, seed: int = 1, rates: tuple[float, ...] = (0.1, 0.2, 0.6)) -> list[tuple[str, ...]]:
    """Make a uniformly randomised log; `rates` are the arms' chances."""
    random = np.random.default_rng(seed)
    arms = random.integers(3, size=count)
    bought = random.random(count) < np.array(rates)[arms]
    ages = random.integers(18, 80, size=count)
    rows: list[tuple[str, ...]] = []
    for k in range(count):
        town, status = ("Bern" if k % 2 else "Basel, old"), ("gold" if k % 3 else "none")
        rows.append((f"c{k}", str(ages[k]), status, town, "ABC"[arms[k]], str(int(bought[k]))))
    return rows


def write_csv(path: Path, rows: list[tuple[str, ...]], separator: str = ",") -> Path:
    """Write rows with every value quoted."""
    lines = [separator.join(f'"{value}"' for value in row) for row in (HEADER, *rows)]
    path.write_text("\n".join(lines) + "\n")
    return path
