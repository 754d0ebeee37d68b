"""`nbx loadtest`: run a scenario, list them, compare two runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from typer.core import TyperGroup

from nbx.cli_options import AsJson, Url, err, out, read_settings, show
from nbx.errors import SetupError

if TYPE_CHECKING:
    from nbx.loadtest.scenario import Transport

FOLDER = "loadtest"


class _RunIsMeant(TyperGroup):
    """Takes `nbx loadtest SCENARIO …` for `nbx loadtest run SCENARIO …`."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["run", *args]
        return super().parse_args(ctx, args)


loadtest_app = typer.Typer(
    cls=_RunIsMeant, no_args_is_help=True, help="Put load on a service, open loop: `nbx loadtest SCENARIO`."
)

Folder = Annotated[Path | None, typer.Option(help="Where scenarios are looked for by name; default: ./loadtest.")]


@loadtest_app.command("run")
def loadtest_run(
    scenario: Annotated[str, typer.Argument(help="Name of a scenario (see `nbx loadtest list`), or a file.")],
    rate: Annotated[float | None, typer.Option(min=0.01, help="Mean requests per second: scales all phases.")] = None,
    duration: Annotated[str, typer.Option(help="Length, such as 30s or 5m: stretches or shrinks all phases.")] = "",
    transport: Annotated[str, typer.Option(help="http, grpc or grpc_stream; default: the scenario's.")] = "",
    connections: Annotated[int | None, typer.Option(min=1, max=4096)] = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    output: Annotated[Path | None, typer.Option("--out", help="Write NAME.json and NAME.html here.")] = None,
    grpc: Annotated[str, typer.Option(help="host:port of gRPC; default: the URL's host and the settings' port.")] = "",
    allow_remote: Annotated[bool, typer.Option("--allow-remote", help="The URL may be another machine's.")] = False,
    folder: Folder = None,
    as_json: AsJson = False,
    url: Url = "",
) -> None:
    """Run a scenario: ends by itself; 1 when the run is not valid or an expectation failed."""
    from nbx.loadtest.report import render_run, summary, write_page
    from nbx.loadtest.result import write_result
    from nbx.loadtest.run import Options, run_load
    from nbx.loadtest.scenario import read_scenario
    from nbx.loadtest.target import target_of
    from nbx.local_key import stored_key

    settings = read_settings()
    target = target_of(url, grpc, stored_key(settings), settings, allow_remote=allow_remote)
    options = Options(
        rate=rate, duration_s=_seconds(duration), transport=_transport(transport), connections=connections, seed=seed
    )
    read = read_scenario(_find(scenario, folder))
    with err.status("preparing") as status:
        result = run_load(
            read,
            target,
            options,
            lambda g: status.update(
                f"{g.elapsed_s:.0f} s: {g.sent} sent, {g.records.answered} answered, {g.records.errors} errors, "
                f"{g.records.degraded} degraded"
            ),
        )
    if output is not None:
        name = f"{result.scenario}-{result.started_ms}"
        output.mkdir(parents=True, exist_ok=True)
        write_result(result, output / f"{name}.json")
        write_page(render_run(result), output / f"{name}.html")
        err.print(f"written: {output / name}.json, .html", markup=False)
    if as_json:
        show(result)
    else:
        for part in summary(result):
            out.print(part)
    raise typer.Exit(0 if result.passed else 1)


@loadtest_app.command("list")
def loadtest_list(folder: Folder = None, as_json: AsJson = False) -> None:
    """List the scenarios."""
    from nbx.loadtest.arrivals import mean_rate
    from nbx.loadtest.scenario import read_scenario

    found = [read_scenario(file).scenario for file in sorted(_folder(folder).glob("*.yaml"))]
    if as_json:
        show([{"scenario": each.scenario, "description": each.description} for each in found])
        return
    table = Table("scenario", "mean rate", "length", "transport", "what")
    for each in found:
        length_s = sum(phase.lasts_s for phase in each.arrivals)
        rate = f"{mean_rate(each.arrivals):.0f}/s"
        table.add_row(each.scenario, rate, f"{length_s:g} s", each.transport, each.description.strip())
    out.print(table)


@loadtest_app.command("compare")
def loadtest_compare(
    first: Annotated[Path, typer.Argument(help="JSON of a run.")],
    second: Annotated[Path, typer.Argument(help="JSON of another run.")],
    page: Annotated[Path | None, typer.Option("--html", help="Write the comparison with plots here.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare two runs: every number of both, and the ratio second / first."""
    from nbx.loadtest.compare import compare, comparison_table
    from nbx.loadtest.report import render_comparison, write_page
    from nbx.loadtest.result import read_result

    runs = read_result(first), read_result(second)
    compared = compare(*runs)
    if page is not None:
        write_page(render_comparison(*runs, compared), page)
    if as_json:
        show(compared)
        return
    for words in compared.warnings:
        out.print(f"[yellow]{words}[/]")
    out.print(comparison_table(compared))


def _seconds(text: str) -> float | None:
    from nbx.loadtest.durations import seconds

    if not text:
        return None
    try:
        length = seconds(float(text) if text.replace(".", "", 1).isdigit() else text)
    except ValueError as error:
        raise SetupError(f"--duration: {error}") from error
    if not length:
        raise SetupError("--duration: must be longer than nothing")
    return float(length)


def _transport(text: str) -> Transport | None:
    match text:
        case "":
            return None
        case "http" | "grpc" | "grpc_stream":
            return text
    raise SetupError(f"--transport: {text!r} is none of http, grpc, grpc_stream")


def _folder(folder: Path | None) -> Path:
    if folder is not None:
        return folder
    here, ours = Path(FOLDER), Path(__file__).parents[1] / FOLDER
    return here if here.is_dir() or not ours.is_dir() else ours


def _find(scenario: str, folder: Path | None) -> Path:
    if scenario.endswith((".yaml", ".yml")):
        return Path(scenario)
    file = _folder(folder) / f"{scenario}.yaml"
    if not file.is_file():
        names = ", ".join(sorted(f.stem for f in _folder(folder).glob("*.yaml"))) or "none"
        raise SetupError(f"there is no scenario {scenario!r} in {_folder(folder)}; there is {names}")
    return file
