"""Builds a catalogue's folder from a series of products with their instructions.

    build_folder(target, items, CatalogueFacts(key, "files of /data", official=True, splits="official"))

The folder has the products, the instructions, the goals of each split, and the index for searching. The build writes
its files into a temporary folder beside the target. At the end, the build syncs the files and renames the temporary
folder. So the target is either complete or absent, even after a power failure.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec
import numpy as np
from tqdm import tqdm

from arlarena.environment.hashing import digest
from arlarena.environments.webshop.catalogue.goals import (
    MAX_COMBINATIONS,
    Instruction,
    StoredInstruction,
    content_key,
    goal,
    goals_of,
    stored,
)
from arlarena.environments.webshop.catalogue.problems import DataProblems
from arlarena.environments.webshop.catalogue.splits import Method, hashed_splits, official_splits
from arlarena.environments.webshop.catalogue.tables import BlobWriter, RecordTable, write_array, write_sorted_texts
from arlarena.environments.webshop.errors import CatalogueError
from arlarena.environments.webshop.search.build import IndexBuilder
from arlarena.environments.webshop.shop.product import Product
from arlarena.proto.atomic_files import fsync_path, write_json

FORMAT = 1  # version of the format of built folders; folders of other versions cannot be read
BATCH = 1000  # number of titles in one call of `Nouns.find`


class Item(NamedTuple):
    """A product, and the instructions that ask for this product."""

    product: Product
    instructions: list[Instruction]


class Nouns(Protocol):
    """Finds the nouns of titles. See `nouns.NounFinder`."""

    def find(self, titles: Sequence[str], /) -> list[list[str]]:
        """Return the nouns of each title."""
        ...


class BuildProgress(NamedTuple):
    """The settings of a progress bar.

    Attributes:
        total: the final number; None if unknown.
        unit: the unit of the numbers.
        reached: returns the current number. If None, the bar counts the added products.
    """

    total: int | None
    unit: str = " products"
    reached: Callable[[], int] | None = None


@dataclass(frozen=True, slots=True)
class CatalogueFacts:
    """The facts about a catalogue that are known before it is built.

    Attributes:
        key: identifies the sources and the options. A folder with another key contains another catalogue.
        description: description of the source, for `/v1/info`.
        official: whether the products are the data set of the published results; None if unknown.
        splits: how goals are assigned to splits. `official`: by the shuffle of WebShop's code; `hash`: by the hash of
            the goals' content.
    """

    key: str
    description: str
    official: bool | None
    splits: Method


class Meta(msgspec.Struct, frozen=True):
    """The content of meta.json in a built folder.

    Attributes:
        products: number of products.
        goals: number of goals in each split.
        content: hash of the products, the instructions and the method of the splits.
        warnings: problems in the source files that did not stop the build.
    """

    format: int
    key: str
    description: str
    official: bool | None
    products: int
    goals: dict[str, int]
    content: str
    warnings: list[str]


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Hold the lock of a folder inside the `with` block. The lock is the file NAME.lock in the parent folder. If
    another process holds the lock, print a message to standard error, and wait.

    Raises:
        CatalogueError: the parent folder cannot be written, or the file system does not support locks.
    """
    handle = None
    try:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(target.with_name(f"{target.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"waiting for another process that builds {target}", file=sys.stderr, flush=True)
                fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            raise unwritable(target, error) from error
        yield
    finally:
        if handle is not None:
            os.close(handle)


def unwritable(folder: Path, error: OSError) -> CatalogueError:
    """Return the error for a folder that cannot be written."""
    fix = "free space on the disk, or set" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "set"
    return CatalogueError(
        f"{folder}: cannot be written: {error.strerror or error}; {fix} index (or --index) to another folder"
    )


def build_folder(
    target: Path,
    items: Iterable[Item],
    facts: CatalogueFacts,
    *,
    problems: DataProblems | None = None,
    nouns: Nouns | None = None,
    progress: BuildProgress | None = None,
) -> Meta:
    """Write a catalogue's folder. The caller must hold the folder's lock (see `locked`). A folder at `target` is
    replaced.

    Args:
        target: the folder to write.
        items: the products with their instructions, in order. All asins (product ids) must differ.
        facts: the facts about the catalogue.
        problems: counts the problems that are found while `items` is read. The problems are stored as warnings.
        nouns: finds the nouns in a product's title if `Product.nouns` is empty. If None, `Product.nouns` stays empty.
        progress: the settings of the progress bar; default: the bar counts products. The bar is shown only on a
            terminal.

    Raises:
        CatalogueError: there is no product, an asin occurs twice, or `items` raises this error.
        OSError: the folder cannot be written.
    """
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # an earlier build may have been killed
    partial.mkdir()
    try:
        meta = _write(partial, items, facts, problems or DataProblems(), nouns, progress or BuildProgress(None))
        for path in [*partial.iterdir(), partial]:
            fsync_path(path)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        fsync_path(target.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return meta


def _write(
    folder: Path,
    items: Iterable[Item],
    facts: CatalogueFacts,
    problems: DataProblems,
    nouns: Nouns | None,
    progress: BuildProgress,
) -> Meta:
    writer = _Writer(folder, problems)
    # With disable=None, tqdm shows nothing if standard error is not a terminal.
    with tqdm(
        total=progress.total, unit=progress.unit, unit_scale=True, desc="reading", disable=None, file=sys.stderr
    ) as bar:
        for batch in _batches(items):
            for item in _with_nouns(batch, nouns):
                writer.add(item)
            bar.update(progress.reached() - bar.n if progress.reached else len(batch))
        bar.set_description("writing the index")
        return writer.finish(facts)


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    iterator = iter(items)
    while batch := list(islice(iterator, BATCH)):
        yield batch


def _with_nouns(batch: list[Item], nouns: Nouns | None) -> list[Item]:
    if nouns is None or all(item.product.nouns for item in batch):
        return batch
    found = nouns.find([item.product.title for item in batch])
    return [
        item if item.product.nouns else item._replace(product=msgspec.structs.replace(item.product, nouns=of_title))
        for item, of_title in zip(batch, found, strict=True)
    ]


def document(product: Product) -> str:
    """Return the text that is searched: title, description, first bullet and options, in lower case."""
    options = ", and ".join(f"{name}: {', '.join(values)}" for name, values in product.options.items())
    bullet = product.bullets[0] if product.bullets else ""
    return f"{product.title} {product.description} {bullet} {options}".lower()


class _Writer:
    """Writes the tables of a folder."""

    def __init__(self, folder: Path, problems: DataProblems) -> None:
        self._folder, self._problems = folder, problems
        self._products, self._instructions = BlobWriter(folder, "products"), BlobWriter(folder, "instructions")
        self._index = IndexBuilder(folder)
        self._encoder = msgspec.msgpack.Encoder()
        self._asins: list[bytes] = []
        self._goals = array("q")  # two numbers for each goal: its instruction, and its combination of options

    def add(self, item: Item) -> None:
        product = item.product
        number = len(self._products)
        self._products.append(self._encoder.encode(product))
        self._asins.append(product.asin.encode())
        self._index.add(document(product))
        for instruction in item.instructions:
            record = stored(instruction, number, product)
            count = goals_of(record, product)
            if count > MAX_COMBINATIONS:
                place = f"product {product.asin}, which has {count:,}"
                self._problems.add(f"only the first {MAX_COMBINATIONS:,} combinations of options became goals", place)
            for combination in range(min(count, MAX_COMBINATIONS)):
                self._goals.extend((len(self._instructions), combination))
            self._instructions.append(self._encoder.encode(record))

    def finish(self, facts: CatalogueFacts) -> Meta:
        if not len(self._products):
            reasons = "; ".join(self._problems.lines()) or "the file has no products; download or write the file again"
            raise CatalogueError(f"{facts.description}: no product can be used: {reasons}")
        self._products.close()
        self._instructions.close()
        self._write_asins()
        self._index.finish()
        sizes = self._write_goals(facts.splits)
        content = digest(" ".join(_file_digest(self._folder / name) for name in ("products.bin", "instructions.bin")))
        meta = Meta(
            FORMAT,
            facts.key,
            facts.description,
            facts.official,
            len(self._products),
            sizes,
            digest(f"{FORMAT} {facts.splits} {content}"),
            self._problems.lines(),
        )
        write_json(self._folder / "meta.json", meta)
        return meta

    def _write_asins(self) -> None:
        order = sorted(range(len(self._asins)), key=self._asins.__getitem__)
        for before, after in pairwise(order):
            if self._asins[before] == self._asins[after]:
                raise CatalogueError(f"the asin {self._asins[after].decode()} occurs twice")
        write_sorted_texts(self._folder, "asins", (self._asins[number] for number in order))
        write_array(self._folder, "asin_numbers", np.array(order, np.int32))

    def _write_goals(self, method: Method) -> dict[str, int]:
        goals = np.array(self._goals, np.int64).reshape(-1, 2)
        products = RecordTable(self._folder, "products", Product)
        instructions = RecordTable(self._folder, "instructions", StoredInstruction)
        of_instruction = np.array([instructions[number].product for number in range(len(instructions))], np.int64)

        def key(number: int) -> tuple[str, ...]:
            instruction, combination = map(int, goals[number])
            record = instructions[instruction]
            product = products[record.product]
            return content_key(goal(record, product, combination), product)

        if method == "official":
            splits = official_splits(of_instruction[goals[:, 0]], key)
        else:
            splits = hashed_splits(len(goals), lambda number: "\0\0".join(key(number)))
        write_array(self._folder, "goals", goals)
        for name, members in splits.items():
            write_array(self._folder, name, members.astype(np.int64))
        return {name: len(members) for name, members in splits.items()}


def _file_digest(path: Path) -> str:
    """Return the hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()
