"""Writes and shows the results of an evaluation: summary.json, report.html and a table on the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from arlarena.proto.atomic_files import write_bytes
from arlarena.rollout.evaluation.directory import read_evaluation
from arlarena.rollout.evaluation.report.html_page import write_page
from arlarena.rollout.evaluation.report.prices import ModelPrice
from arlarena.rollout.evaluation.report.rows import attempt_dollars
from arlarena.rollout.evaluation.report.summary_view import Summarise, figures_of, summarise_with
from arlarena.rollout.evaluation.report.terminal import results_table
from arlarena.rollout.evaluation.statistics.summary import results_of, summarise_records

SUMMARY, PAGE = "summary.json", "report.html"


def summarise() -> Summarise:
    """Return the function that computes the figures of a group of attempts."""
    return summarise_with(results_of)


def write_results(directory: Path, price: ModelPrice | None, console: Console) -> None:
    """Write summary.json and report.html, and print the table of results. The evaluation may be unfinished.

    Raises:
        EvaluationError: the plan or the journal cannot be read.
        OSError: a file cannot be written.
    """
    results = read_evaluation(directory)
    summary = summarise_records(results.plan, results.records, lambda record: attempt_dollars(record, price))
    write_bytes(directory / SUMMARY, summary.to_json())
    write_page(results, directory / PAGE, summarise(), price)
    title = f"{results.plan.model}, {results.plan.strategy}"
    console.print(results_table(title, figures_of(results, summarise()), results.records, price))
    console.print(f"{directory / SUMMARY}\n{directory / PAGE}", soft_wrap=True)
