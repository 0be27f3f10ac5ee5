"""Writes the metrics and the episodes of a run as CSV, Parquet or JSON lines.

metrics.csv     one row per step, one column per metric
episodes.csv    one row per recorded episode: task, outcome, advantages, actions
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np

from arlarena.console.page.index.builder import EpisodeIndexer
from arlarena.console.page.index.database import RunDatabase
from arlarena.console.page.index.queries import MAX_LIMIT, episodes
from arlarena.console.page.reading.metrics_table import MetricsTable
from arlarena.console.page.reading.run_files import BoundedFiles, DamagedFile
from arlarena.console.page.views.records import RecordCache
from arlarena.proto.atomic_files import open_atomic
from arlarena.proto.config import ConfigError
from arlarena.proto.text.csv_cells import neutral

SUFFIXES = {"csv": "csv", "parquet": "parquet", "json": "jsonl"}
# Number of rows in a row group of a Parquet file. All rows of a row group are in memory at the same time.
GROUP = 1_000
Row = Mapping[str, Any]


def export_run(run: Path, kind: str, folder: Path) -> list[Path]:
    """Write the metrics and the episodes of a run to `folder`. Returns the paths of the files.

    `kind`: the format, a key of `SUFFIXES`.

    Raises:
        ConfigError: `folder` is inside the run, or pyarrow is missing.
    """
    files = BoundedFiles(run)
    place = folder.resolve()
    if place == files.root or files.root in place.parents:
        raise ConfigError(f"--out {folder} is inside the run: choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{SUFFIXES[kind]}" for name in ("metrics", "episodes")]
    with TemporaryDirectory(prefix="arlarena-export-") as cache:
        for path, rows in zip(paths, (metric_rows(files), episode_rows(files, Path(cache))), strict=True):
            {"csv": _write_csv, "parquet": _write_parquet, "json": _write_json}[kind](path, rows)
    return paths


def metric_rows(files: BoundedFiles) -> Iterator[Row]:
    """Yield one row per step. Metrics that were not recorded in a step are None."""
    metrics = MetricsTable(files)
    metrics.refresh()
    while not metrics.complete:
        metrics.refresh()
    columns = {name: metrics.column(name) for name in metrics.names()}
    for number, step in enumerate(metrics.steps().tolist()):
        values = {name: column[number] for name, column in columns.items() if column is not None}
        yield {"step": int(step)} | {
            name: float(value) if np.isfinite(value) else None for name, value in values.items()
        }


def episode_rows(files: BoundedFiles, cache: Path) -> Iterator[Row]:
    """Yield one row per recorded episode. Episodes that cannot be read are left out."""
    database = RunDatabase(cache, files.root, "export")
    try:
        EpisodeIndexer(files, database).refresh()
        records = RecordCache(files, database)
        offset = 0
        while page := episodes(database, {"offset": str(offset), "limit": str(MAX_LIMIT)})["episodes"]:
            offset += len(page)
            for row in page:
                try:
                    loaded = records.episode(row["id"])
                except DamagedFile:
                    continue
                if loaded is None:
                    continue
                member, turns = loaded.member, loaded.trajectory.turns
                yield row | {
                    "reason": member.reason if member else None,
                    "age": member.age if member else None,
                    "seed": loaded.task.seed,
                    "actions": msgspec.json.encode([turn.action for turn in turns]).decode(),
                    "rewards": msgspec.json.encode([turn.reward for turn in turns]).decode(),
                    "episode_advantages": _list(member.episode_advantages if member else ()),
                    "step_advantages": _list(member.step_advantages if member else ()),
                    "advantages": _list(member.advantages if member else ()),
                }
    finally:
        database.close()


def _list(values: tuple[float, ...]) -> str | None:
    return msgspec.json.encode(values).decode() if values else None


def _write_csv(path: Path, rows: Iterator[Row]) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")
    with open_atomic(path) as file:
        for number, row in enumerate(rows):
            if not number:
                writer.writerow([neutral(name) for name in row])
            writer.writerow([_cell(value) for value in row.values()])
            file.write(buffer.getvalue().encode("utf-8", "replace"))
            buffer.seek(0)
            buffer.truncate()


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else neutral(value) if isinstance(value, str) else value


def _write_json(path: Path, rows: Iterator[Row]) -> None:
    with open_atomic(path) as file:
        for row in rows:
            file.write(msgspec.json.encode(row) + b"\n")


def _write_parquet(path: Path, rows: Iterator[Row]) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigError("Parquet needs pyarrow: pip install 'arlarena-console[parquet]'") from error
    first = list(islice(rows, GROUP))
    types = {bool: pyarrow.bool_(), int: pyarrow.int64(), float: pyarrow.float64(), str: pyarrow.string()}
    kinds = column_kinds(path.stem, first[0] if first else {})
    schema = pyarrow.schema([(name, types[kind]) for name, kind in kinds.items()])
    with open_atomic(path) as file, parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        everything = chain(first, rows)
        while batch := list(islice(everything, GROUP)):
            writer.write_table(pyarrow.Table.from_pylist([dict(row) for row in batch], schema=schema))


# Types of the columns of `episodes`. Columns that are missing here contain text.
_EPISODE_KINDS: dict[str, type] = {
    "step": int, "member": int, "age": int, "seed": int, "turns": int, "invalid": int, "tokens": int,
    "success": bool, "playable": bool, "score": float, "return": float, "advantage": float,
}  # fmt: skip


def column_kinds(table: str, names: Iterable[str]) -> dict[str, type]:
    """Returns the type of each column of `metrics` or `episodes`. Every column may also contain None."""
    if table == "metrics":
        return {name: int if name == "step" else float for name in names}
    return {name: _EPISODE_KINDS.get(name, str) for name in names}
