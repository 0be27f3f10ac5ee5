"""Reads the official files: products, attributes with synthetic instructions, and instructions written by people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from arlarena.environments.webshop.catalogue.build import Item
from arlarena.environments.webshop.catalogue.goals import Instruction
from arlarena.environments.webshop.catalogue.json_stream import read_array
from arlarena.environments.webshop.catalogue.official_products import LONGEST_ASIN, Unusable, asin_of, product_of
from arlarena.environments.webshop.catalogue.problems import DataProblems
from arlarena.environments.webshop.errors import CatalogueError

GoalKind = Literal["synthetic", "human"]
Entry = TypeVar("Entry")

FULL, SMALL = "items_shuffle.json", "items_shuffle_1000.json"
HUMAN = "items_human_ins.json"
ATTRIBUTES = {FULL: "items_ins_v2.json", SMALL: "items_ins_v2_1000.json"}
EXPECTED = (
    f"expected {FULL} or {SMALL} (or one other file *items*.json with products), items_ins_v2.json or "
    f'items_ins_v2_1000.json, and {HUMAN} for goals = "human"'
)


@dataclass(frozen=True, slots=True)
class OfficialFiles:
    """The official files of a folder. `attributes` and `human` are None if the file is absent or not used."""

    products: Path
    attributes: Path | None
    human: Path | None

    def all(self) -> list[Path]:
        """Return the files that exist."""
        return [path for path in (self.products, self.attributes, self.human) if path]


class _AttributesEntry(msgspec.Struct):
    """An entry of items_ins_v2*.json. The file has one entry for each asin (product id)."""

    attributes: list[str] | None = None
    instruction: str | None = None
    instruction_attributes: list[str] | None = None


class _HumanEntry(msgspec.Struct):
    """An entry of items_human_ins.json. The file has a list of entries for each asin (product id)."""

    instruction: str
    instruction_attributes: list[str] = []
    instruction_options: list[str] | dict[str, str] = []


def find_files(folder: Path, goals: GoalKind) -> OfficialFiles:
    """Return the official files of a folder.

    The file of products is items_shuffle.json, else items_shuffle_1000.json, else the only file *items*.json that does
    not contain instructions. The file of attributes is the file of the same data set, else the only file
    items_ins_v2*.json.

    Raises:
        CatalogueError: a file is missing, or there are several candidates. The message lists the expected files.
    """
    if not folder.is_dir():
        raise CatalogueError(f"{folder}: no such folder; {EXPECTED}")
    products = _products_file(folder)
    preferred = folder / ATTRIBUTES.get(products.name, "")
    attributes = preferred if preferred.is_file() else _only(folder, "items_ins_v2*.json")
    human = folder / HUMAN
    files = OfficialFiles(products, attributes, human if goals == "human" and human.is_file() else None)
    if goals == "human" and files.human is None:
        raise CatalogueError(f"{human}: missing; {EXPECTED}")
    if goals == "synthetic" and files.attributes is None:
        raise CatalogueError(f"{folder}: no file of attributes; {EXPECTED}")
    return files


def _products_file(folder: Path) -> Path:
    for name in (FULL, SMALL):
        if (folder / name).is_file():
            return folder / name
    found = [path for path in sorted(folder.glob("*items*.json")) if not _has_instructions(path.name)]
    if len(found) != 1:
        problem = (
            "no file of products" if not found else f"several files of products ({', '.join(p.name for p in found)})"
        )
        raise CatalogueError(f"{folder}: {problem}; {EXPECTED}")
    return found[0]


def _has_instructions(name: str) -> bool:
    return name.startswith(("items_ins", "items_human_ins"))


def _only(folder: Path, pattern: str) -> Path | None:
    """Return the only file that matches a pattern, or None if no file matches."""
    found = sorted(folder.glob(pattern))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise CatalogueError(f"{folder}: several files of attributes ({names}); {EXPECTED}")
    return found[0] if found else None


def has_more_products(files: OfficialFiles, most: int) -> bool:
    """Return whether the file of products has more than `most` entries. At most `most` + 1 entries are read."""
    return next(islice(read_array(files.products), most, None), None) is not None


def read_items(
    files: OfficialFiles, goals: GoalKind, problems: DataProblems, most: int | None = None
) -> Iterator[Item]:
    """Yield the products with their instructions.

    Args:
        files: the result of `find_files`.
        goals: the kind of instructions to read.
        problems: counts the entries and the instructions that are left out.
        most: maximum number of entries to read from the file of products; None for all entries.

    Raises:
        CatalogueError: a file is truncated or invalid.
    """
    attributes = _by_asin(files.attributes) if files.attributes else {}
    human = _by_asin(files.human) if files.human else {}
    # WebShop's code has this rule for its own files, in which longer asins are scraping errors.
    longest = LONGEST_ASIN if files.products.name.startswith("items_shuffle") else None
    seen: set[str] = set()
    for number, entry in enumerate(islice(read_array(files.products), most), start=1):
        try:
            asin = asin_of(entry) if isinstance(entry, Mapping) else ""
            where = f"{files.products}, product {asin or f'number {number:,}'}"
            if longest and len(asin) > longest:
                problems.add(f"a product with an asin longer than {longest} characters was left out", where)
                continue
            if asin in seen:
                problems.add("a second product with the same asin was left out", where)
                continue
            known = _attributes_entry(attributes, asin, files.attributes)
            product = product_of(entry, None if known is None else known.attributes, problems, where)
        except Unusable as error:
            problems.add(str(error), f"{files.products}, product number {number:,}")
            continue
        seen.add(asin)
        if goals == "human":
            instructions = _human_instructions(human, asin, files.human, problems)
        else:
            instructions = _synthetic_instructions(known, f"{files.attributes}, product {asin}", problems)
        yield Item(product, instructions)


def _attributes_entry(entries: Mapping[str, msgspec.Raw], asin: str, path: Path | None) -> _AttributesEntry | None:
    return _decoded(entries[asin], _AttributesEntry, path, asin) if asin in entries else None


def _synthetic_instructions(entry: _AttributesEntry | None, where: str, problems: DataProblems) -> list[Instruction]:
    if entry is None or entry.instruction is None:
        return []
    if not entry.instruction_attributes:
        problems.add("an instruction without attributes was left out", where)
        return []
    return [Instruction(entry.instruction, entry.instruction_attributes)]


def _human_instructions(
    entries: Mapping[str, msgspec.Raw], asin: str, path: Path | None, problems: DataProblems
) -> list[Instruction]:
    if asin not in entries:
        return []
    instructions = []
    for entry in _decoded(entries[asin], list[_HumanEntry], path, asin):
        if not entry.instruction_attributes:
            problems.add("an instruction without attributes was left out", f"{path}, product {asin}")
            continue
        given = entry.instruction_options
        options: list[tuple[str, str] | str] = list(given.items()) if isinstance(given, dict) else list(given)
        instructions.append(Instruction(entry.instruction.strip("."), entry.instruction_attributes, options))
    return instructions


def _by_asin(path: Path) -> dict[str, msgspec.Raw]:
    """Return the entries of a JSON object by asin, without decoding them."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, msgspec.Raw])
    except OSError as error:
        raise CatalogueError(f"{path}: cannot be read: {error.strerror}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CatalogueError(
            f"{path}: invalid or truncated JSON ({error}); it must be an object whose keys are asins; download the "
            "file again"
        ) from error


def _decoded(raw: msgspec.Raw, kind: type[Entry], path: Path | None, asin: str) -> Entry:
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CatalogueError(f"{path}, product {asin}: invalid entry ({error}); correct or remove it") from error


def description(files: OfficialFiles, goals: GoalKind) -> str:
    """Return a description of the data for `/v1/info`."""
    return f"{goals} goals of {files.products}"


def is_official(files: OfficialFiles) -> bool | None:
    """Return whether the products are the published data set. Return None (unknown) if the file has another name."""
    return True if files.products.name in (FULL, SMALL) else None
