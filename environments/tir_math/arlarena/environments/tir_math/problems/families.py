"""Problems that are made, as many as one likes: a function of split and index, in whatever process.

A problem belongs to a split by the hash of its content (what is asked, apart from how), so that none of the evaluation
is met in training, in whatever words. Training problems are drawn independently and may repeat; evaluation splits are
sets of distinct ones, made in order when first asked for.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import lru_cache
from random import Random
from typing import Any

from arlarena.environment.hashing import digest, seeded, split_of_digest
from arlarena.environment.protocols import TaskError
from arlarena.environments.tir_math.errors import ProblemsError
from arlarena.environments.tir_math.problems.catalogue import FAMILIES, prepare
from arlarena.environments.tir_math.problems.gym import installed_version
from arlarena.environments.tir_math.problems.problem import Problem

MAKER_VERSION = 1  # part of every seed: another one makes other problems
SHARES = {"train": 5, "validation": 1, "test": 2}  # eighths of all contents, as in Sokoban
SPLITS = tuple(SHARES)
# One draft in 1.6 to 8 is of the right split; the bound is reached where a family has too few problems.
MAX_DRAFTS = 2_000
CHECKED = 100  # seeds, of which one has to make a problem when a family is prepared
SOURCE = "reasoning-gym"


def random_for(*key: object) -> Random:
    """A generator seeded by the text of `key`, the same in every process and on every machine."""
    return seeded("tir-math", MAKER_VERSION, *key)


def split_of(key: str) -> str:
    """The split that a content belongs to."""
    return split_of_digest(key, SHARES)


class MadeProblems:
    """Problems of some families.

    Args:
        families: options of each, and `weight`, its share of the problems; None for all of them as they are
        panel_size: problems of an evaluation split

    Raises:
        ProblemsError: reasoning-gym is not installed; an unknown family or option; values that are out of range.
    """

    def __init__(self, families: Mapping[str, Mapping[str, Any]] | None, panel_size: int) -> None:
        chosen = families if families is not None else {name: {} for name in FAMILIES}
        if not chosen:
            raise ProblemsError(f"no family is left; known: {', '.join(sorted(FAMILIES))}")
        self._weights = {name: _weight(name, values) for name, values in sorted(chosen.items())}
        self._options = {name: _options(values) for name, values in chosen.items()}
        self._makers = {name: prepare(name, values) for name, values in self._options.items()}
        for name in self._makers:
            self._check(name)
        self._panel_size = panel_size
        self._panels = {split: EvalProblems(self, split) for split in SPLITS if split != "train"}
        self._training = lru_cache(maxsize=1024)(self._training_problem)

    @property
    def version(self) -> str:
        """That of the maker and of its generators."""
        return f"made-{MAKER_VERSION}-{installed_version()}"

    def _check(self, name: str) -> None:
        """Refuse options that the generator accepts and cannot make a problem of."""
        reason = "none of it is worth asking"
        for seed in range(CHECKED):
            try:
                if not FAMILIES[name].dull(self._makers[name][seed]["metadata"]):
                    return
            except ValueError as error:
                reason = str(error)
        raise ProblemsError(f"{name}: these options make no problem: {reason}")

    def sizes(self) -> dict[str, int | None]:
        """Problems of each split; training has no end."""
        return {split: None if split == "train" else self._panel_size for split in SPLITS}

    def problem(self, split: str, index: int) -> Problem:
        """One problem: a millisecond, for the slowest families some.

        Raises:
            TaskError: the family has too few.
        """
        return self._training(index) if split == "train" else self._panels[split].problem(index)

    def _training_problem(self, index: int) -> Problem:
        return self.draw("train", index, set())

    def draw(self, split: str, index: int, taken: set[str]) -> Problem:
        """The first draft of an index that is of the split, and whose content is not taken.

        Raises:
            TaskError: there is none in a bounded number of drafts.
        """
        random = random_for(split, index)
        name = random.choices(list(self._weights), list(self._weights.values()))[0]
        random = random_for(name, sorted(self._options[name].items()), split, index)
        for _ in range(MAX_DRAFTS):
            problem = self._draft(name, random.getrandbits(48))
            if problem is not None and split_of(problem.key) == split and problem.key not in taken:
                return problem
        raise TaskError(
            f"{name} has no further problem for {split}/{index} in {MAX_DRAFTS} drafts: widen its options under "
            "families, lower panel_size, or ask for lower indices"
        )

    def _draft(self, name: str, seed: int) -> Problem | None:
        """The problem of a seed; None where the generator finds none, or one that is not worth asking."""
        family = FAMILIES[name]
        try:
            entry = self._makers[name][seed]
        except ValueError:
            return None
        made = entry["metadata"]
        if family.dull(made):
            return None
        key = digest(repr((name, family.content(made))))
        return Problem(
            f"{name}-{key[:12]}",
            entry["question"].strip(),
            entry["answer"],
            name,
            None,
            SOURCE,
            key,
            family.form_of(made),
            family.expert(made),
        )


class EvalProblems:
    """The distinct problems of an evaluation split, in order, made when first asked for."""

    def __init__(self, made: MadeProblems, split: str) -> None:
        self._made, self._split = made, split
        self._problems: list[Problem] = []
        self._keys: set[str] = set()
        self._lock = threading.Lock()

    def problem(self, index: int) -> Problem:
        """Problem number `index`; all before it are made first, because it must differ from them."""
        with self._lock:
            while len(self._problems) <= index:
                problem = self._made.draw(self._split, len(self._problems), self._keys)
                self._problems.append(problem)
                self._keys.add(problem.key)
            return self._problems[index]


def _weight(name: str, values: Mapping[str, Any]) -> float:
    weight = values.get("weight", FAMILIES[name].weight if name in FAMILIES else 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
        raise ProblemsError(f"{name}: weight = {weight!r}: a number above 0; leave out a family that is not wanted")
    return float(weight)


def _options(values: Mapping[str, Any]) -> dict[str, Any]:
    """The generator's part."""
    return {key: value for key, value in values.items() if key != "weight"}
