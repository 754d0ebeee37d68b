"""Whatever a catalog file holds, the answer is what is wrong with it: soon, in little memory, and beside decisions."""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
from time import process_time
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest

from nbx.catalog.parse import CatalogFaults, parse_catalog
from tests.edge.bad_catalogs import SHAPES
from tests.service import ROOT

if TYPE_CHECKING:
    from tests.service import Running

MEMORY_BYTES = 256 << 20
"""More than a process has when it begins to read; 10 MB are kept three times, and 150,000 values take 40 MB."""
CPU_S = 3.0
"""Measured: below 1 s each on a machine that does nothing else; a busy one takes thrice that."""
RATE = 40.0
SENT = ("tag lines", "too many keys", "deep paths", "one long name", "emoji", "conditions", "unlike groups")


def read_all() -> None:
    """Read every shape, and tell what became of it."""
    limit = psutil.Process().memory_info().vms + MEMORY_BYTES
    for name, shape in SHAPES.items():
        text = shape()
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        began, told = process_time(), []
        try:
            parse_catalog(text)
        except CatalogFaults as faults:
            told = [str(finding) for finding in faults.findings]
        spent_s = process_time() - began
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        sys.stdout.write(json.dumps([name, spent_s, len(told), max(map(len, told), default=0)]) + "\n")


@pytest.fixture(scope="module")
def read() -> dict[str, tuple[float, int, int]]:
    """Shape → CPU seconds, findings, characters of the longest."""
    made = subprocess.run(
        [sys.executable, "-c", "from tests.edge.test_bad_catalogs import read_all; read_all()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr[-2000:]
    return {name: tuple(rest) for name, *rest in map(json.loads, made.stdout.splitlines())}


@pytest.mark.timeout(300)  # the first of them waits for all shapes: 10 s of a core, which may have other work
@pytest.mark.parametrize("name", SHAPES)
def test_a_file_made_to_hurt_is_told_what_is_wrong(name: str, read: dict[str, tuple[float, int, int]]) -> None:
    spent_s, findings, longest = read[name]
    assert spent_s < CPU_S
    assert findings <= 1001
    assert longest < 4000
    assert findings > 0 or name == "white space"


def test_decisions_go_on_while_such_files_are_checked(service: Running) -> None:
    bodies = {name: SHAPES[name]().encode(errors="surrogatepass") for name in SENT}

    async def check(client: httpx.AsyncClient) -> dict[str, Any]:
        answers = await asyncio.gather(*(client.post("/v1/catalog/check", content=each) for each in bodies.values()))
        return dict(zip(bodies, answers, strict=True))

    async def load() -> tuple[dict[str, Any], list[httpx.Response]]:
        loop = asyncio.get_running_loop()
        async with httpx.AsyncClient(base_url=service.url, headers=service.headers(), timeout=60.0) as client:
            began, calls, number = loop.time(), [], 0
            checks = asyncio.create_task(check(client))
            while not checks.done():
                await asyncio.sleep(max(0.0, began + number / RATE - loop.time()))
                request = {"customer_id": f"hurt-{number}", "placement": "web"}
                calls.append(asyncio.create_task(client.post("/v1/decisions", json=request)))
                number += 1
            return checks.result(), await asyncio.gather(*calls)

    checked, decided = asyncio.run(load())
    for name, answer in checked.items():
        assert (answer.status_code, answer.json()["code"]) == (422, "catalog"), name
    assert len(decided) > RATE / 4
    assert [answer.text for answer in decided if answer.status_code != 200 or answer.json()["degraded"]] == []
