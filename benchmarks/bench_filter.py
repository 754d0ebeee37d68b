"""What guardrails add to a decision: rules over 200 actions and 40 distinct conditions, against the same without any.

    python -m benchmarks.bench_filter [--seconds 10]

Both filter the same customer, who has met 30 of the actions; rounds alternate, CPU time is counted, medians are told.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

from benchmarks.catalogs import guarded, sized
from nbx.catalog.plan import Plan
from nbx.decision.choice import allowed
from nbx.decision.messages import DecideRequest
from nbx.features.state import CustomerState, Pause, ProfileValue

NOW_MS = 1_767_268_800_000
ROUND = 20


def customer(plan: Plan) -> CustomerState:
    """Return somebody who has a past with 30 actions."""
    now_s = NOW_MS // 1000
    return CustomerState(
        profile={name: ProfileValue(50.0, NOW_MS) for name in plan.profile_features},
        exposures={f"a{i}": [now_s - 86_400 * (4 * j + 1) for j in range(3)][::-1] for i in range(30)},
        touches={"web": sorted(now_s - 40_000 * (j + 1) for j in range(64))},
        pauses={f"a{i}": Pause(NOW_MS + 1000, "declined", f"p{i}/0") for i in range(40, 44)},
    )


def measure(seconds: float, actions: int = 200, width: int = 32, conditions: int = 40) -> tuple[float, float]:
    """Return median microseconds of a filter without and with guardrails, interleaved."""
    request = DecideRequest(customer_id="anna", placement="hero")
    sides = []
    for catalog in (sized(actions, width), guarded(actions, width, conditions)):
        plan = Plan(catalog, 1)
        sides.append((plan, customer(plan)))
    times: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for (plan, state), told in zip(sides, times, strict=True):
            began = time.thread_time()
            for _ in range(ROUND):
                allowed(plan, state, request, NOW_MS, salt="s", purse={"all/units": 10, "all/money": 10**6})
            told.append((time.thread_time() - began) / ROUND * 1e6)
    return median(times[0]), median(times[1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=10.0)
    bare, full = measure(parser.parse_args().seconds)
    print(f"200 actions without guardrails: {bare:.0f} us; with 40 conditions and full contact policy: {full:.0f} us")
    print(f"guardrails add {full - bare:.0f} us (bar: 150 us)")


if __name__ == "__main__":
    main()
