"""Builds a catalogue's folder from a series of products with their instructions.

    build_folder(target, items, CatalogueFacts(key, "files of /data", official=True, splits="official"))

The folder has the products, the instructions, the goals of each split, and the index for searching. It is written into
a temporary folder beside it, which is then renamed, so a folder is complete or absent.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
from array import array
from collections.abc import Iterable, Iterator
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
    MOST_COMBINATIONS,
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
from arlarena.proto.atomic_files import write_json

FORMAT = 1  # of a built folder; another number makes old folders unusable
BATCH = 1000  # products whose nouns are found together


class Item(NamedTuple):
    """A product and the instructions whose goal it is."""

    product: Product
    instructions: list[Instruction]


class Nouns(Protocol):
    """Finds the nouns of titles. See `nouns.NounFinder`."""

    def find(self, titles: list[str], /) -> list[list[str]]:
        """Return the nouns of each title."""
        ...


@dataclass(frozen=True, slots=True)
class CatalogueFacts:
    """What is known about a catalogue before it is built.

    Attributes:
        key: identifies sources and options; a folder with another key is another catalogue.
        description: of the source, for `/v1/info`.
        official: whether the products are the data of published results.
        splits: the original's shuffle, or by hash of the content.
    """

    key: str
    description: str
    official: bool | None
    splits: Method


class Meta(msgspec.Struct, frozen=True):
    """meta.json of a built folder. `content`: the hash of products and goals."""

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
    """Hold the lock of a folder, NAME.lock beside it. Waits for the process that has it.

    Raises:
        CatalogueError: the parent folder cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(target.with_name(f"{target.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise CatalogueError(f"{target}: cannot be written ({error.strerror}): name another folder as index") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def build_folder(
    target: Path,
    items: Iterable[Item],
    facts: CatalogueFacts,
    *,
    problems: DataProblems | None = None,
    nouns: Nouns | None = None,
    total: int | None = None,
) -> Meta:
    """Write a catalogue's folder. The caller holds its lock. A folder at `target` is replaced.

    Args:
        target: the folder to write.
        items: products in order. Asins must be unique.
        facts: of the catalogue.
        problems: what the reading of `items` reports; stored as warnings.
        nouns: finds the nouns of products that have none. None: they are left as they are.
        total: number of products for the progress bar, which is shown on a terminal.

    Raises:
        CatalogueError: there is no product, or `items` raised it.
        OSError: the folder cannot be written.
    """
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a killed build
    partial.mkdir()
    try:
        meta = _write(partial, items, facts, problems or DataProblems(), nouns, total)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
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
    total: int | None,
) -> Meta:
    writer = _Writer(folder, problems)
    # tqdm shows nothing if stderr is no terminal.
    with tqdm(total=total, unit=" products", desc="building", disable=None, file=sys.stderr) as progress:
        for batch in _batches(items):
            for item in _with_nouns(batch, nouns):
                writer.add(item)
            progress.update(len(batch))
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
        self._goals = array("q")  # instruction and combination of each goal

    def add(self, item: Item) -> None:
        product = item.product
        number = len(self._products)
        self._products.append(self._encoder.encode(product))
        self._asins.append(product.asin.encode())
        self._index.add(document(product))
        for instruction in item.instructions:
            record = stored(instruction, number, product)
            count = goals_of(record, product)
            if count > MOST_COMBINATIONS:
                place = f"product {product.asin}, which has {count:,}"
                self._problems.add(f"only the first {MOST_COMBINATIONS:,} combinations of options became goals", place)
            for combination in range(min(count, MOST_COMBINATIONS)):
                self._goals.extend((len(self._instructions), combination))
            self._instructions.append(self._encoder.encode(record))

    def finish(self, facts: CatalogueFacts) -> Meta:
        if not len(self._products):
            raise CatalogueError(f"{facts.description}: no product can be used. " + " ".join(self._problems.lines()))
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
