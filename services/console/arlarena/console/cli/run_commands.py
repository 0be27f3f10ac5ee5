"""Commands that read run directories: `view`, `runs`, `status`, `export`."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table as RichTable

from arlarena.proto.config import ConfigError
from arlarena.proto.text.wording import percent, printable

Folders = Annotated[
    list[Path] | None,
    typer.Argument(metavar="[RUN]...", help="Run directories, or folders that contain runs; default: the folder runs."),
]
OneRun = Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a run, for example runs/demo.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RUNS = Path("runs")


class ExportFormat(StrEnum):
    """File formats of `arlarena export`."""

    CSV = "csv"
    PARQUET = "parquet"
    JSON = "json"


def view(
    runs: Folders = None,
    host: Annotated[str, typer.Option(help="Address to bind.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: a free port.")] = 8400,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File with the token of the page; default: ARLARENA_PAGE_TOKEN or ARLARENA_PAGE_TOKEN_FILE. Only "
            "loopback addresses work without a token.",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Further host name of the page, such as the name of a proxy. May be repeated."
        ),
    ] = None,
    play: Annotated[
        bool | None,
        typer.Option("--play/--no-play", help="Whether people may play environments; default: only on loopback."),
    ] = None,
    play_dir: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for the records of finished games.")] = Path(
        "runs/played"
    ),
    cache_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder for the indices; default: ARLARENA_CACHE_DIR/page, else ~/.cache/arlarena/page.",
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="If there is no run yet, wait for the first run.")] = False,
    nice: Annotated[int, typer.Option(min=0, max=19, help="Niceness of the server; 19: lowest priority.")] = 0,
) -> None:
    """Show runs in the browser, also during training.

    The server reads the run directories and writes nothing into them. Stop it with Ctrl-C.
    """
    os.nice(nice)
    from arlarena.console.page.command import ViewRequest
    from arlarena.console.page.command import view as serve_view

    serve_view(
        ViewRequest(runs or [RUNS], host, port, token_file, cache_dir, tuple(allow_host or ()), play, play_dir, wait)
    )  # fmt: skip


def list_runs(folders: Folders = None, as_json: AsJson = False) -> None:
    """List runs with their state, steps and success rates."""
    import msgspec

    from arlarena.console.page.run_status import brief_status
    from arlarena.console.page.runs import find_runs

    found = [brief_status(path) for path in find_runs(folders or [RUNS])]
    if as_json:
        typer.echo(msgspec.json.encode(found).decode())
        return
    table = RichTable(box=None, pad_edge=False)
    for column in ("run", "state", "environment", "method", "step", "success %", "before %", "after %"):
        table.add_column(column, justify="right" if column[-1] == "%" or column == "step" else "left")
    for run in found:
        steps = f"{run['step']}/{run['steps']}" if run["steps"] else str(run["step"])
        percentages = (percent(run[key]) for key in ("success", "before", "after"))
        cells = (printable(str(run[key] or "-")) for key in ("path", "state", "environment", "method"))
        table.add_row(*cells, steps, *percentages)
    Console(highlight=False, markup=False).print(table)


def status(run: OneRun, as_json: AsJson = False) -> None:
    """Show the state of a run. With --json, the output is for scripts.

    Exit status: 1 if the run has failed; 2 if RUN contains no run, or several runs; else 0.
    """
    import msgspec

    from arlarena.console.page.run_status import full_status
    from arlarena.console.page.runs import find_runs

    path, *others = find_runs([run])
    if others:
        raise ConfigError(f"{run} contains {len(others) + 1} runs: pass the directory of one run, for example {path}")
    found = full_status(path)
    if as_json:
        typer.echo(msgspec.json.encode(found).decode())
    else:
        for key, value in found.items():
            if value not in (None, [], {}) and not isinstance(value, list | dict):
                typer.echo(f"{key:<18}{printable(str(value))}")
    if found["state"] == "failed":
        raise typer.Exit(1)


def export_arguments(
    directory: Path, format: ExportFormat | None, out: Path | None, further: list[str]
) -> list[str] | None:
    """Export `directory` if it is a run, and return None. For an evaluation, return the arguments for its export.

    Raises:
        ConfigError: an option does not work for this kind of directory, or the run cannot be exported.
    """
    from arlarena.console.page.runs import is_run

    target = out or directory.with_name(f"{directory.resolve().name}-export")
    if is_run(directory):
        if further:
            raise ConfigError(f"{further[0]} works only for evaluations, but {directory} is a run")
        from arlarena.console.page.export import export_run

        for path in export_run(directory, (format or ExportFormat.CSV).value, target):
            typer.echo(str(path))
        return None
    if format is ExportFormat.JSON:
        raise ConfigError(
            f"{directory} is an evaluation: --format json is not needed, because {directory / 'journal.jsonl'} already "
            "contains the attempts as JSON"
        )
    if format is None:
        return [str(directory), *further]
    target.mkdir(parents=True, exist_ok=True)
    return [str(directory), *further, f"--{format.value}", str(target / f"attempts.{format.value}")]
