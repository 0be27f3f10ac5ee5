"""Measures search engines on the same texts: ours, plain bm25s, and tantivy. Each engine runs in its own process.

    python -m benchmarks.webshop.engines build tantivy 100000 FOLDER
    python -m benchmarks.webshop.engines query tantivy 100000 FOLDER

`build` builds the index of an engine for a number of products in FOLDER. `query` prints JSON: the time to open the
index, the times of queries, and the growth of the process's memory. Before the measurement, a second process opens the
same index and sends the same queries. So memory that both processes share does not count as private memory.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from arlarena.environments.webshop.catalogue.store import StoredCatalogue
from arlarena.environments.webshop.search.analyzer import term, terms
from benchmarks.webshop.corpus import built, documents, queries

K1, B, TOP = 0.9, 0.4, 50  # parameters k1 and b of BM25; maximum number of documents of a query's result
QUERIES = 300
ENGINES = ("ours", "bm25s", "tantivy")
Search = Callable[[str], list[int]]
MEGABYTE = 1e6


def build_bm25s(count: int, folder: Path) -> None:
    """Build the index of bm25s for `count` products in `folder`, with the terms of our analyzer."""
    import bm25s

    numbers: dict[str, int] = {}
    of_word: dict[str, int | None] = {}
    ids = []
    for text in documents(count):
        row = []
        for word in text.split(" "):
            if word not in of_word:
                found = term(word)
                of_word[word] = None if found is None else numbers.setdefault(found, len(numbers))
            if (number := of_word[word]) is not None:
                row.append(number)
        ids.append(row)
    index = bm25s.BM25(k1=K1, b=B, method="lucene")
    index.index((ids, numbers), show_progress=False)
    index.save(str(folder))


def build_tantivy(count: int, folder: Path) -> None:
    """Build the index of tantivy for `count` products in `folder`. Tantivy does not allow other values of k1 and b."""
    import tantivy

    schema = tantivy.SchemaBuilder()
    schema.add_text_field("body", tokenizer_name="en_stem")
    schema.add_integer_field("id", stored=True)
    index = tantivy.Index(schema.build(), path=str(folder))
    writer = index.writer(num_threads=1, heap_size=500_000_000)
    for number, text in enumerate(documents(count)):
        writer.add_document(tantivy.Document(body=text, id=number))
    writer.commit()
    writer.wait_merging_threads()


def build(engine: str, count: int, folder: Path) -> Path:
    """Return the folder of an engine's index for `count` products. If it does not exist in `folder`, first build it."""
    if engine == "ours":
        return built(folder / str(count), count)
    target = folder / f"{engine}-{count}"
    if not target.exists():
        partial = folder / f"{engine}-{count}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        {"bm25s": build_bm25s, "tantivy": build_tantivy}[engine](count, partial)
        partial.rename(target)
    return target


def open_engine(engine: str, folder: Path) -> Search:
    """Open the index of an engine. Return a function: query → numbers of the `TOP` best documents."""
    if engine == "ours":
        return StoredCatalogue(folder).search
    return _open_bm25s(folder) if engine == "bm25s" else _open_tantivy(folder)


def _open_bm25s(folder: Path) -> Search:
    import bm25s

    index = bm25s.BM25.load(str(folder))

    def search(text: str) -> list[int]:
        found: list[int] = index.retrieve([terms(text)], k=TOP, show_progress=False)[0][0].tolist()
        return found

    return search


def _open_tantivy(folder: Path) -> Search:
    import tantivy

    index = tantivy.Index.open(str(folder))
    searcher = index.searcher()

    def search(text: str) -> list[int]:
        hits = searcher.search(index.parse_query(text, ["body"]), TOP).hits
        return [searcher.doc(address)["id"][0] for _, address in hits]

    return search


def measure(engine: str, count: int, folder: Path) -> dict[str, Any]:
    """Open the index of an engine, and send all queries twice. Return the measurements.

    `p50_ms` and `p95_ms` are percentiles of the second round. The memory is in MB (10^6 bytes). `count`: number of
    products. `folder`: folder of the index.
    """
    asked = queries(count, QUERIES)
    second_process = _second_process(engine, count, folder)
    process = psutil.Process()
    before = process.memory_full_info()
    begin = time.perf_counter()
    search = open_engine(engine, folder)
    search(asked[0])
    opened = time.perf_counter() - begin
    first = _times(search, asked)
    second = _times(search, asked)
    after = process.memory_full_info()
    second_process.communicate()
    return {
        "open_and_first_query_s": round(opened, 3),
        "p50_ms": _percentile(second, 50),
        "p95_ms": _percentile(second, 95),
        "first_round_p50_ms": _percentile(first, 50),
        "private_mb": round((after.uss - before.uss) / MEGABYTE, 1),
        "proportional_mb": round((after.pss - before.pss) / MEGABYTE, 1),
        "results": [search(text)[:10] for text in asked],
    }


def _second_process(engine: str, count: int, folder: Path) -> subprocess.Popen[str]:
    """Start a process that runs the command `hold`. Wait until it has sent its queries, and return the process."""
    command = [sys.executable, "-m", "benchmarks.webshop.engines", "hold", engine, str(count), str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def hold(engine: str, count: int, folder: Path) -> None:
    """Open the index of an engine, and send all queries. Keep the index open until the end of standard input."""
    search = open_engine(engine, folder)
    for text in queries(count, QUERIES):
        search(text)
    print("ready", flush=True)
    sys.stdin.read()


def _times(search: Search, asked: list[str]) -> list[float]:
    times = []
    for text in asked:
        begin = time.perf_counter()
        search(text)
        times.append(1e3 * (time.perf_counter() - begin))
    return times


def _percentile(times: list[float], rank: int) -> float:
    return round(float(np.percentile(times, rank)), 3)


def main() -> None:
    """Run the command `build`, `query` or `hold`."""
    command, engine, count, folder = sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
    if command == "hold":
        return hold(engine, count, folder)
    target = build(engine, count, folder)
    if command == "query":
        print(json.dumps(measure(engine, count, target)))


if __name__ == "__main__":
    main()
