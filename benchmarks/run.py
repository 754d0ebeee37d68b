"""Run benchmarks, each in a process of its own, and make the page of all that was ever run here.

    make bench                                   # everything, half an hour
    make bench ARGS="--only budget,decide_http"  # these; the page keeps what the others found before
    make bench ARGS="--skip-long"                # without those of a minute and more that say nothing of deciding
    make bench ARGS="--smoke --no-page"          # does everything still run?

Results lie in `benchmarks/results/`, one file each, which nobody commits; the page is `benchmarks/README.md`. One that
fails is told on the page, and the others go on. Environments of peers are named by `PEERS_PYTHON` and
`FEAST_PYTHON`.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import psutil

from benchmarks.harness import Result, Size, told
from benchmarks.page import write_page
from benchmarks.registry import ENTRIES, LONG, NAMES, ROOT, Entry, measured

RESULTS = ROOT / "benchmarks" / "results"
TIMEOUT_S = 900
_ENCODE, _DECODE = msgspec.json.Encoder().encode, msgspec.json.Decoder(Result).decode


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; returns the exit code: 1 when a benchmark failed. A bar that is not met is no failure."""
    chosen = _parser().parse_args(arguments)
    size: Size = "smoke" if chosen.smoke else "full"
    if chosen.into:
        if chosen.only not in NAMES:
            print(f"there is no benchmark {chosen.only}", file=sys.stderr)
            return 2
        (entry,) = (each for each in ENTRIES if each.name == chosen.only)
        chosen.into.write_bytes(_ENCODE(timed(entry, size)))
        return 0
    wanted = set(chosen.only.split(",")) if chosen.only else set(NAMES) - (LONG if chosen.skip_long else set())
    if unknown := wanted - set(NAMES):
        print(f"there is no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}", file=sys.stderr)
        return 2
    entries = [entry for entry in ENTRIES if entry.name in wanted]
    if chosen.here:
        run_here(entries, size)
        failed: list[str] = []
    else:
        RESULTS.mkdir(exist_ok=True)
        failed = [entry.name for entry in entries if not run_apart(entry, size, RESULTS / f"{entry.name}.json")]
    if not chosen.no_page:
        results = {name: _DECODE(path.read_bytes()) for name in NAMES if (path := RESULTS / f"{name}.json").exists()}
        print(f"page: {write_page(results).relative_to(ROOT)}")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="names, with commas between them")
    parser.add_argument("--skip-long", action="store_true")
    parser.add_argument("--smoke", action="store_true", help="smallest size: does it run?")
    parser.add_argument("--no-page", action="store_true")
    parser.add_argument("--here", action="store_true", help="in this process, over one service; nothing is kept")
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    return parser


def timed(entry: Entry, size: Size) -> Result:
    """Run one in this process, and note how long it took and how busy the machine was."""
    load, began = os.getloadavg()[0], time.perf_counter()
    result = measured(entry, size)
    return msgspec.structs.replace(result, seconds=time.perf_counter() - began, load=load)


def run_here(entries: Sequence[Entry], size: Size) -> None:
    """Run several in this process, those that need a service over one; the first that fails ends it."""
    from benchmarks.catalogs import sized
    from benchmarks.pinned import pinned_service

    async def over_one() -> None:
        async with pinned_service(sized(50, 32, 20)) as nbx:
            for entry in entries:
                if entry.on_service:
                    module = importlib.import_module(f"benchmarks.bench_{entry.name}")
                    print(told(await module.measure_on(nbx, size)), flush=True)

    for entry in entries:
        if not entry.on_service:
            print(told(timed(entry, size)), flush=True)
    if any(entry.on_service for entry in entries):
        asyncio.run(over_one())


def run_apart(entry: Entry, size: Size, path: Path) -> bool:
    """Run one in a process of its own, and keep what it found; whether it came to an end."""
    print(f"== {entry.name}", flush=True)
    part = path.with_suffix(".part")
    argv = [sys.executable, "-m", "benchmarks.run", "--only", entry.name, "--into", str(part)]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    load, began, spent = os.getloadavg()[0], time.perf_counter(), _spent_s()
    try:
        done = subprocess.run(
            [*argv, *(["--smoke"] if size == "smoke" else [])],
            cwd=ROOT,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        said = done.stderr if done.returncode else ""
    except subprocess.TimeoutExpired:
        said = f"not done after {TIMEOUT_S} s"
    if said or not part.exists():
        last = "\n".join(said.strip().splitlines()[-6:]) or "it said nothing"
        result = Result(
            title=entry.title or entry.name,
            what="",
            against=entry.against,
            command=f"python -m benchmarks.run --only {entry.name}",
            failed=last.replace(f"{ROOT}/", ""),
            seconds=time.perf_counter() - began,
            load=load,
            size=size,
        )
    else:
        result = _DECODE(part.read_bytes())
        part.unlink()
    others = max(_spent_s() - spent, 0.0) / (time.perf_counter() - began)
    result = msgspec.structs.replace(result, others=others)
    path.write_bytes(_ENCODE(result))
    print(told(result), flush=True)
    return not result.failed


def _spent_s() -> float:
    """Seconds of CPU that the machine spent on others than the processes of benchmarks that have ended."""
    times, own = psutil.cpu_times(), resource.getrusage(resource.RUSAGE_CHILDREN)
    return float(times.user + times.nice + times.system) - own.ru_utime - own.ru_stime


if __name__ == "__main__":
    sys.exit(main())
