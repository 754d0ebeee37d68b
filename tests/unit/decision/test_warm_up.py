"""After warming up nothing is compiled any more: else the first customers of a process wait for it."""

from __future__ import annotations

import subprocess
import sys

from tests.service import ROOT

CODE = """
from pathlib import Path

from numba.core.dispatcher import Dispatcher

from nbx.bandits import kernels as of_bandits
from nbx.catalog.parse import parse_catalog
from nbx.catalog.plan import Plan
from nbx.decision.warm_up import warm_up
from nbx.features import kernels as of_features
from tests.worlds import Desk, small_plan

def compiled():
    kernels = [*vars(of_bandits).values(), *vars(of_features).values()]
    return {each.__name__: len(each.signatures) for each in kernels if isinstance(each, Dispatcher)}

warm_up()
before = compiled()
bank = Plan(parse_catalog(Path("examples/retail_bank.yaml").read_text()), 1)
decided = 0
for plan in (small_plan(), bank):
    desk = Desk(plan)
    for name, placement in plan.placements.items():
        for slots in {1, placement.placement.slots}:
            assert desk.decide("anna", name, slots=slots).decision_id
            decided += 1
assert decided >= 8
after = compiled()
print(*[name for name, count in after.items() if count != before[name]])
"""


def test_what_is_served_is_compiled_before() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr
