"""Time libraries that decide in process; run by `bench_peers` with the Python they are installed for.

python -m benchmarks.peers_timing ROUNDS ROWS
"""

from __future__ import annotations

import json
import sys

from benchmarks.quality.peers import PEERS
from benchmarks.quality.policy import Setting
from benchmarks.quality.timing import measure

POLICIES = {
    "nbx": "nbx",
    "vw": "squarecb",
    "gittins": "gittins",
    "mabwiser": "LinTS",
    "river": "LinUCBDisjoint",
    "contextualbandits": "",
}


def main(rounds: int, rows: int) -> dict[str, dict[str, object]]:
    """Time one policy of each that is installed; those that are not have no numbers."""
    told: dict[str, dict[str, object]] = {}
    settings, chosen = [], {}
    for peer in PEERS:
        if peer.name not in POLICIES:
            continue
        policy = POLICIES[peer.name] or peer.policies[0]
        told[peer.name] = {"policy": policy, "version": (peer.version or "").partition("/")[0]}
        if peer.version is not None:
            settings.append(Setting(peer.name, policy))
            chosen[peer.name] = peer
    for setting, cost in measure(tuple(settings), chosen, rounds, rows).items():
        told[setting.peer] |= {"decide_us": cost.decide_us, "learn_us": cost.learn_us}
    return told


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]))))
