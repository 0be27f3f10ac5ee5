"""Reads the official files: products, attributes with synthetic instructions, and instructions written by people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import msgspec

from arlarena.environments.webshop.catalogue.build import Item
from arlarena.environments.webshop.catalogue.goals import Instruction, Options
from arlarena.environments.webshop.catalogue.json_stream import ReadPosition, read_array, read_object
from arlarena.environments.webshop.catalogue.official_products import LONGEST_ASIN, Unusable, asin_of, product_of
from arlarena.environments.webshop.catalogue.problems import DataProblems
from arlarena.environments.webshop.errors import CatalogueError

GoalKind = Literal["synthetic", "human"]

FULL, SMALL = "items_shuffle.json", "items_shuffle_1000.json"
HUMAN = "items_human_ins.json"
MAX_NAMED = 8  # maximum number of files that a message lists
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

    instruction: str | None = None
    instruction_attributes: list[str] | None = None
    instruction_options: list[str] | dict[str, str] | None = None


def find_files(folder: Path, goals: GoalKind) -> OfficialFiles:
    """Return the official files of a folder.

    The file of products is items_shuffle.json or, if it is missing, items_shuffle_1000.json. If both are missing, it is
    the only file *items*.json that does not contain instructions. The file of attributes is items_ins_v2.json for
    items_shuffle.json, and items_ins_v2_1000.json for items_shuffle_1000.json. If this file is missing, the file of
    attributes is the only file items_ins_v2*.json.

    Raises:
        CatalogueError: the folder cannot be read, a file is missing, or there are several candidates. The message lists
            the expected files.
    """
    try:
        if not folder.is_dir():
            raise CatalogueError(f"{folder}: no such folder; {EXPECTED}")
        # Not `glob`, which finds nothing in a folder that cannot be read.
        present = sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise CatalogueError(
            f"{folder}: cannot be read: {error.strerror}; let the user of this process read the folder and its files, "
            "or name another folder"
        ) from error
    products = _products_file(folder, present)
    preferred = folder / ATTRIBUTES.get(products.name, "")
    attributes = preferred if preferred in present else _only(folder, present, "items_ins_v2*.json", "attributes")
    human = folder / HUMAN
    files = OfficialFiles(products, attributes, human if goals == "human" and human in present else None)
    if goals == "human" and files.human is None:
        raise CatalogueError(f"{human}: missing; {EXPECTED}")
    if goals == "synthetic" and files.attributes is None:
        raise CatalogueError(f"{folder}: no file of attributes{_names(present)}; {EXPECTED}")
    return files


def _products_file(folder: Path, present: list[Path]) -> Path:
    for name in (FULL, SMALL):
        if folder / name in present:
            return folder / name
    others = [path for path in present if not path.name.startswith(("items_ins", "items_human_ins"))]
    found = _only(folder, others, "*items*.json", "products")
    if found is None:
        raise CatalogueError(f"{folder}: no file of products{_names(present)}; {EXPECTED}")
    return found


def _only(folder: Path, present: list[Path], pattern: str, content: str) -> Path | None:
    """Return the only file that matches a pattern. Return None if no file matches.

    Raises:
        CatalogueError: several files match. `content`: what these files contain, for the message.
    """
    found = [path for path in present if path.match(pattern)]
    if len(found) > 1:
        raise CatalogueError(f"{folder}: several files of {content}{_names(found)}; {EXPECTED}")
    return found[0] if found else None


def _names(paths: list[Path]) -> str:
    """Return the names of some files in brackets, at most `MAX_NAMED` of them, for messages."""
    names = [path.name for path in paths[:MAX_NAMED]] + ["…"] * (len(paths) > MAX_NAMED)
    return f" ({', '.join(names)})" if names else ""


def has_more_products(files: OfficialFiles, limit: int) -> bool:
    """Return whether the file of products has more than `limit` entries. At most `limit` + 1 entries are read."""
    return next(islice(read_array(files.products), limit, None), None) is not None


def read_items(
    files: OfficialFiles,
    goals: GoalKind,
    problems: DataProblems,
    limit: int | None = None,
    position: ReadPosition | None = None,
) -> Iterator[Item]:
    """Yield the products with their instructions.

    Args:
        files: the result of `find_files`.
        goals: the kind of instructions to read.
        problems: counts the entries and the instructions that are left out.
        limit: maximum number of entries to read from the file of products; None for all entries.
        position: is updated while the file of products is read.

    Raises:
        CatalogueError: a file is truncated or invalid.
    """
    attributes = read_object(files.attributes) if files.attributes else {}
    human = read_object(files.human) if files.human else {}
    # WebShop's code has this rule for its own files, in which longer asins are scraping errors.
    longest = LONGEST_ASIN if files.products.name.startswith("items_shuffle") else None
    seen: set[str] = set()
    for number, entry in enumerate(islice(read_array(files.products, position), limit), start=1):
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
    if limit is None:
        for asin in human.keys() - seen:
            problems.add(
                "instructions for a product that the catalogue does not have were left out",
                f"{files.human}, product {asin}",
            )


def _attributes_entry(entries: Mapping[str, msgspec.Raw], asin: str, path: Path | None) -> _AttributesEntry | None:
    return _decoded(entries[asin], _AttributesEntry, path, asin) if asin in entries else None


def _synthetic_instructions(entry: _AttributesEntry | None, where: str, problems: DataProblems) -> list[Instruction]:
    if entry is None or entry.instruction is None:
        return []
    return _instructions(entry.instruction, entry.instruction_attributes, None, where, problems)


def _human_instructions(
    entries: Mapping[str, msgspec.Raw], asin: str, path: Path | None, problems: DataProblems
) -> list[Instruction]:
    if asin not in entries:
        return []
    instructions = []
    for entry in _decoded(entries[asin], list[_HumanEntry] | None, path, asin) or []:
        given = entry.instruction_options or []
        options: list[tuple[str, str] | str] = list(given.items()) if isinstance(given, dict) else list(given)
        text = (entry.instruction or "").strip(".")
        instructions += _instructions(text, entry.instruction_attributes, options, f"{path}, product {asin}", problems)
    return instructions


def _instructions(
    text: str, attributes: list[str] | None, options: Options | None, where: str, problems: DataProblems
) -> list[Instruction]:
    """Return the instruction in a list. An instruction that cannot be a goal is counted, and the list is empty."""
    if not text.strip():
        problems.add("an instruction without text was left out", where)
    elif not attributes:
        problems.add("an instruction without attributes was left out", where)
    else:
        return [Instruction(text, attributes, options)]
    return []


def _decoded(raw: msgspec.Raw, kind: Any, path: Path | None, asin: str) -> Any:
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
