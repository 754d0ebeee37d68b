"""Which runs to make, and making them: defaults on every seed, grids on a few, the best of each grid on the rest.

The best setting of a policy is chosen on the very runs it is reported on, per task: generous to peers. Seeds come
before tasks, so that a run broken off has something to say of every task.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from statistics import fmean
from typing import TYPE_CHECKING

from benchmarks.quality import cache, protocols
from benchmarks.quality.task import stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from benchmarks.quality.policy import Peer, Setting
    from benchmarks.quality.protocols import Result
    from benchmarks.quality.task import Task

SCREEN = 2
"""Seeds on which every point of a grid runs."""


@dataclass(frozen=True)
class Scope:
    """What is compared."""

    tasks: tuple[Task, ...]
    peers: Mapping[str, Peer]
    settings: tuple[Setting, ...]
    seeds: int
    rows: int | None = None
    """At most so many a run; None: as many as the task says."""
    jobs: int = 1


@dataclass(frozen=True)
class Unit:
    """Settings to run over one stream."""

    task: Task
    seed: int
    rows: int
    settings: tuple[Setting, ...]


Runs = dict[str, dict["Setting", dict[int, "Result"]]]
"""By task, setting, seed."""
Done = tuple["Setting", cache.Key, "Result | None"]


class Runner:
    """Runs what is not on file yet."""

    def __init__(self, scope: Scope, store: cache.Cache, report: Callable[[str, int, int], None]) -> None:
        self.scope, self.store, self.report = scope, store, report
        self.runs: Runs = {task.name: {} for task in scope.tasks}
        self.gave_up: dict[str, dict[str, None]] = {task.name: {} for task in scope.tasks}

    def everything(self) -> Runs:
        """Defaults and screening, then the best of each grid on the seeds that are left."""
        scope = self.scope
        always = [s for s in scope.settings if not s.values or s.peer == "nbx"]
        self._run(
            "defaults and grids",
            [
                self._unit(task, seed, list(scope.settings) if seed < SCREEN else always)
                for seed in range(scope.seeds)
                for task in scope.tasks
            ],
        )
        self._run(
            "best of each grid",
            [
                self._unit(task, seed, [s for s in self._best(task.name) if s not in always])
                for seed in range(SCREEN, scope.seeds)
                for task in scope.tasks
            ],
        )
        return self.runs

    def slow(self, task: str) -> list[str]:
        """Settings that were given up on a task."""
        return list(self.gave_up[task])

    def _unit(self, task: Task, seed: int, settings: list[Setting]) -> Unit:
        rows = task.rows if self.scope.rows is None else min(task.rows, self.scope.rows)
        return Unit(task, seed, rows, tuple(s for s in settings if self._runs(s, task, seed)))

    def _runs(self, setting: Setting, task: Task, seed: int) -> bool:
        peer = self.scope.peers[setting.peer]
        return seed < peer.seeds.get(setting.policy, seed + 1) and not (task.money and setting.policy in peer.binary)

    def _best(self, task: str) -> list[Setting]:
        """Best setting of each policy on the screening seeds."""
        best: dict[tuple[str, str], tuple[float, Setting]] = {}
        for setting, results in self.runs[task].items():
            seen = [results[seed].reward for seed in range(SCREEN) if seed in results]
            if len(seen) < SCREEN:
                continue
            mean, name = fmean(seen), (setting.peer, setting.policy)
            if name not in best or mean > best[name][0]:
                best[name] = mean, setting
        return [setting for _, setting in best.values()]

    def _run(self, phase: str, units: list[Unit]) -> None:
        total = sum(len(unit.settings) for unit in units)
        for done, (unit, (setting, key, result)) in enumerate(self._results(units), 1):
            if key not in self.store.results:
                self.store.put(key, result)
            if result is None:
                self.gave_up[unit.task.name][f"{setting.peer} {setting.label}"] = None
            else:
                self.runs[unit.task.name].setdefault(setting, {})[unit.seed] = result
            self.report(f"{phase}: {unit.task.name}, seed {unit.seed}, {setting.peer} {setting.label}", done, total)

    def _results(self, units: list[Unit]) -> Iterator[tuple[Unit, Done]]:
        peers = self.scope.peers
        if self.scope.jobs == 1:
            for unit in units:
                for done in run(unit, peers, self.store.results):
                    yield unit, done
            return
        with ProcessPoolExecutor(self.scope.jobs, get_context("spawn")) as pool:
            waiting = {pool.submit(_run_all, unit, peers, self.store.results): unit for unit in units if unit.settings}
            for future in as_completed(waiting):
                for done in future.result():
                    yield waiting[future], done


def _run_all(unit: Unit, peers: Mapping[str, Peer], known: Mapping[cache.Key, Result | None]) -> list[Done]:
    return list(run(unit, peers, known))


def run(unit: Unit, peers: Mapping[str, Peer], known: Mapping[cache.Key, Result | None]) -> Iterator[Done]:
    """Run settings over one stream; a known result is not run again."""
    if not unit.settings:
        return
    rows = stream(unit.task, unit.task.load(unit.seed), unit.seed, unit.rows)
    fingerprint = rows.fingerprint
    for setting in unit.settings:
        peer = peers[setting.peer]
        key = cache.key(rows, fingerprint, peer, setting)
        yield setting, key, known[key] if key in known else protocols.play(rows, peer.make(setting, rows))
