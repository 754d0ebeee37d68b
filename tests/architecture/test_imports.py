"""What the processes of a service do not import: each of it cost a start tens of milliseconds, or memory for good."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.service import ROOT

COMMAND_LINE = {"rich", "typer", "prompt_toolkit", "pygments"}
UNUSED = {"opentelemetry", "pydantic", "pandas", "sklearn", "cffi", "scipy.linalg", "scipy.stats", "numpy.f2py"}
ARCHIVE = {"duckdb", "pyarrow"}
NOT_IMPORTED = {
    "api": {*COMMAND_LINE, *UNUSED, *ARCHIVE, "river", "scipy.special"},
    "learner": {*COMMAND_LINE, *UNUSED, *ARCHIVE, "litestar", "grpc", "scipy.sparse"},
    "keeper": {*COMMAND_LINE, *UNUSED, "duckdb", "litestar", "grpc", "river"},
}
CODE = """
import asyncio, gc, sys
from nbx import __main__
from nbx.runtime import process

async def api():
    from nbx.api.http import make_app
    from nbx.api.plane import DataPlane
    from nbx.api.wiring import wire
    from nbx.settings import Settings
    services = wire(Settings())
    make_app(services, DataPlane(services.decisions, services.events))

def run(main):
    main.close()
    if sys.argv[1] != "keeper":
        from nbx.decision.warm_up import warm_up
        warm_up()
    if sys.argv[1] == "api":
        asyncio.run(api())
    assert gc.isenabled()
    print(*sys.modules, sep="\\n")
    return 0

process.run = run
__main__.main()
"""


@pytest.mark.parametrize("name", NOT_IMPORTED)
def test_a_process_starts_without_what_it_does_not_use(name: str) -> None:
    done = subprocess.run([sys.executable, "-c", CODE, name], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    imported = set(done.stdout.split())
    assert "nbx.errors" in imported
    assert NOT_IMPORTED[name] & imported == set()
