"""Conditions: so many distinct ones answered for one customer, compiled to Python, against the CEL library.

    python -m benchmarks.run --only conditions

Each compares a number and asks a second thing, `customer.f3 < 107.0 && relationship.strain < 0.99`, over 24 features.
CEL makes one context of the values per request, then answers each condition from its compiled program.
"""

from __future__ import annotations

import time

from benchmarks.harness import PYTHON, Curve, Plot, Result, Size, Table, interleaved
from nbx.catalog.condition_code import compile_all
from nbx.catalog.conditions import build_context, compile_condition
from nbx.features.schema import FeatureType

FEATURES = 24
COUNTS = (1, 10, 40, 100, 500)


def measure(size: Size) -> Result:
    """Measure every count."""
    rounds, repeats = (2, 3) if size == "smoke" else (15, 20)
    values = {f"f{k}": 50.0 + k for k in range(FEATURES)}
    relationship = {"strain": 0.1}
    types: dict[str, FeatureType] = {f"customer.{name}": "number" for name in values}
    types["relationship.strain"] = "number"
    rows, curves = [], dict[str, list[tuple[float, float]]]()
    for count in COUNTS[:2] if size == "smoke" else COUNTS:
        sources = [f"customer.f{k % FEATURES} < {100 + k}.0 && relationship.strain < 0.99" for k in range(count)]
        compiled, evaluate = compile_all(sources, types, {})
        assert all(compiled)
        programs = [compile_condition(source) for source in sources]

        def by_cel(programs=programs) -> list[bool]:  # type: ignore[no-untyped-def] # the loop's
            context = build_context({"customer": values, "relationship": relationship})
            return [program.holds(context) for program in programs]

        assert list(evaluate(values, relationship, {}, {})) == by_cel()
        found = interleaved(
            {"python": lambda evaluate=evaluate: evaluate(values, relationship, {}, {}), "cel": by_cel},  # type: ignore[misc]
            rounds,
            repeats,
            time.thread_time,
        )
        rows.append((f"{count}", found["python"], found["cel"], f"{found['cel'] / found['python']:.0f} ×"))
        for name, us in found.items():
            curves.setdefault(name, []).append((float(count), us))
    return Result(
        title="Conditions",
        what=f"all answered for one customer of {FEATURES} features, µs of CPU, medians of {rounds} rounds",
        against="common-expression-language, compiled, context included",
        command=f"{PYTHON} --only conditions",
        tables=(Table(("conditions", "nbx µs", "cel µs", "ratio"), tuple(rows)),),
        plots=(
            Plot(
                "conditions_alone", "Conditions answered", "conditions", "µs",
                tuple(Curve(name, tuple(points)) for name, points in curves.items()),
            ),
        ),
        size=size,
    )  # fmt: skip
