"""Exports of an evaluation for other programs: CSV and Parquet, one row per attempt."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arlarena.proto.atomic_files import open_atomic
from arlarena.proto.text.csv_cells import neutral
from arlarena.rollout.evaluation.directory import EvaluationResults
from arlarena.rollout.evaluation.errors import EvaluationError
from arlarena.rollout.evaluation.report.prices import ModelPrice
from arlarena.rollout.evaluation.report.rows import COLUMNS, Cell, chat, metric_names, row

# Number of attempts in a row group of a Parquet file. All attempts of a row group are in memory at the same time.
GROUP = 256


def _cell(value: Cell) -> str | int | float:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return neutral(value) if isinstance(value, str) else value


def csv_text(results: EvaluationResults, price: ModelPrice | None) -> Iterator[str]:
    """Yields the lines of a CSV file (RFC 4180: CRLF, quotes if necessary). An unknown value is an empty cell."""
    names = [*COLUMNS, *(f"metric_{name}" for name in metric_names(results))]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")
    rows = ((_cell(value) for value in row(results, record, price).values()) for record in results.records)
    for cells in (map(neutral, names), *rows):
        writer.writerow(cells)
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()


def write_csv(results: EvaluationResults, path: Path, price: ModelPrice | None = None) -> None:
    """Write the CSV file `path` in UTF-8. An existing file is replaced."""
    with open_atomic(path) as file:
        for line in csv_text(results, price):
            file.write(line.encode("utf-8"))


def write_parquet(results: EvaluationResults, path: Path, price: ModelPrice | None = None) -> None:
    """Write a Parquet file that `datasets.load_dataset("parquet", data_files=…)` loads.

    The file has the columns of the CSV file and two more: `final_observation` and `messages`. `messages` has the form
    of chat data sets: a list of objects with `role` and `content`.

    Raises:
        EvaluationError: pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise EvaluationError("Parquet needs pyarrow: pip install pyarrow") from error
    schema = _schema(pyarrow, metric_names(results))
    with open_atomic(path) as file, parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for records in _batches(results):
            rows = [
                row(results, one, price) | {"final_observation": one.final_observation, "messages": chat(one)}
                for one in records
            ]
            writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))


def _batches(results: EvaluationResults) -> Iterator[tuple[Any, ...]]:
    for start in range(0, len(results.records), GROUP):
        yield results.records[start : start + GROUP]


def _schema(pyarrow: Any, metrics: list[str]) -> Any:
    types = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64(), bool: pyarrow.bool_()}
    message = pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())])
    return pyarrow.schema(
        [
            *((name, types[kind]) for name, kind in COLUMNS.items()),
            *((f"metric_{name}", pyarrow.float64()) for name in metrics),
            ("final_observation", pyarrow.string()),
            ("messages", pyarrow.list_(message)),
        ]
    )
