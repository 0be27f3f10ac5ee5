"""`python -m arlarena.rollout.evaluation.report leaderboard | compare | export`: tables and files of evaluations."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from arlarena.proto.text.usage_name import program
from arlarena.proto.text.wording import printable
from arlarena.rollout.evaluation.directory import read_evaluation
from arlarena.rollout.evaluation.report.exports import write_csv, write_parquet
from arlarena.rollout.evaluation.report.finish import summarise, write_results
from arlarena.rollout.evaluation.report.inspect_log import write_inspect_logs
from arlarena.rollout.evaluation.report.leaderboard import print_leaderboard, row_name
from arlarena.rollout.evaluation.report.prices import read_prices
from arlarena.rollout.evaluation.report.terminal import comparison_text
from arlarena.rollout.evaluation.statistics.paired import compare as compare_records
from arlarena.rollout.evaluation.usage import run_app

PROGRAM = "arlarena.rollout.evaluation.report"
app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Evaluation = Annotated[Path, typer.Argument(metavar="DIR", help="Directory of an evaluation.")]


@app.command()
def leaderboard(
    directories: Annotated[list[Path], typer.Argument(metavar="DIR", help="Directories of evaluations.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Merge evaluations into one table. The table also shows figures of the ARLArena paper, marked as quoted."""
    print_leaderboard(directories, summarise(), Console(highlight=False), as_json=as_json)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="DIR1", help="Directory of an evaluation.")],
    second: Annotated[Path, typer.Argument(metavar="DIR2", help="Directory of another evaluation.")],
) -> None:
    """Compare two evaluations of the same tasks.

    Prints the success rates, their difference (second minus first) with a paired 95 % interval, and the p-value of a
    sign-flip test.
    """
    results = [read_evaluation(directory) for directory in (first, second)]
    found = compare_records(results[0].records, results[1].records)
    Console(highlight=False).print(Text(comparison_text(found, [row_name(one) for one in results])))


@app.command()
def export(
    directory: Evaluation,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a CSV file.")] = None,
    parquet: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a Parquet file for Hugging Face datasets. Needs pyarrow."),
    ] = None,
    inspect: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write one Inspect log (.eval) per environment.")
    ] = None,
    prices: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Price file (TOML), instead of the built-in file.")
    ] = None,
) -> None:
    """Write the attempts of an evaluation in other formats.

    Without --csv, --parquet and --inspect, the command writes summary.json and report.html again.
    """
    results = read_evaluation(directory)
    price = read_prices(prices).price(results.plan.model, results.plan.base_url)
    written: list[Path] = []
    for path, write in ((csv, write_csv), (parquet, write_parquet)):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(results, path, price)
            written.append(path)
    if inspect is not None:
        inspect.mkdir(parents=True, exist_ok=True)
        written += write_inspect_logs(results, inspect, summarise(), price)
    for path in written:
        Console(highlight=False).print(Text(printable(str(path))), soft_wrap=True)
    if csv is parquet is inspect is None:
        write_results(directory, price, Console(highlight=False))


def main() -> int:
    """Run the command. Returns the exit status: 1 if a directory cannot be used, 2 if the command line is wrong."""
    return run_app(app, program(PROGRAM).removesuffix(f" {sys.argv[1]}" if len(sys.argv) > 1 else ""))


if __name__ == "__main__":
    sys.exit(main())
