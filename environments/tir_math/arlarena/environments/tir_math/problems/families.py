"""Generated problems. The number of training problems is unlimited. The options of the families, the split and the
index determine each problem.

The content of a problem does not include the wording. The hash of the content determines the split, so no evaluation
problem occurs in training, not even in another wording. Training problems are drawn independently of each other, so
they may repeat. The problems of an evaluation split are distinct; they are generated in order, on first use.
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

MAKER_VERSION = 1  # part of every seed; a new version generates other problems
SHARES = {"train": 5, "validation": 1, "test": 2}  # how many eighths of all contents each split has
SPLITS = tuple(SHARES)
# Maximum number of drafts for one problem. A *draft* is a problem drawn at random. One draft in 1.6 to 8 belongs to the
# requested split. The limit is reached only if a family has too few problems.
MAX_DRAFTS = 2_000
CHECKED = 100  # number of seeds that are tried at the start; at least one of them must give a problem
SOURCE = "reasoning-gym"


def random_for(*key: object) -> Random:
    """Return a random generator seeded by the text of `key` and the version of this module (see `seeded`)."""
    return seeded("tir-math", MAKER_VERSION, *key)


def split_of(key: str) -> str:
    """Return the split of the problem with this content key."""
    return split_of_digest(key, SHARES)


class GeneratedProblems:
    """Generated problems of the given families.

    Args:
        families: the options of each family, including its `weight`. None means all families with default options.
        panel_size: number of problems in each evaluation split.

    Raises:
        ProblemsError: reasoning-gym is not installed, a family or option is unknown, or a value is out of range.
    """

    def __init__(self, families: Mapping[str, Mapping[str, Any]] | None, panel_size: int) -> None:
        chosen = families if families is not None else {name: {} for name in FAMILIES}
        if not chosen:
            raise ProblemsError(f"families is empty; known: {', '.join(sorted(FAMILIES))}")
        self._weights = {name: _weight(name, values) for name, values in sorted(chosen.items())}
        self._options = {name: _options(values) for name, values in chosen.items()}
        self._generators = {name: prepare(name, values) for name, values in self._options.items()}
        for name in self._generators:
            self._check(name)
        self._panel_size = panel_size
        self._eval_sets = {split: EvalProblems(self, split) for split in SPLITS if split != "train"}
        self._training = lru_cache(maxsize=1024)(self._training_problem)

    @property
    def version(self) -> str:
        """Version of this module and of the generators."""
        return f"made-{MAKER_VERSION}-{installed_version()}"

    def _check(self, name: str) -> None:
        """Check that at least one of `CHECKED` seeds gives a problem. `name`: the family's name.

        Raises:
            ProblemsError: no seed gives a problem with the family's options.
        """
        reason = "all problems are trivial"
        for seed in range(CHECKED):
            try:
                if not FAMILIES[name].is_trivial(self._generators[name][seed]["metadata"]):
                    return
            except ValueError as error:
                reason = str(error)
        raise ProblemsError(f"{name}: these options give no problem: {reason}")

    def sizes(self) -> dict[str, int | None]:
        """Return the number of problems in each split; None for unlimited splits."""
        return {split: None if split == "train" else self._panel_size for split in SPLITS}

    def problem(self, split: str, index: int) -> Problem:
        """Return one problem. This takes about a millisecond, or a few milliseconds for the slowest families.

        Raises:
            TaskError: the family of this problem has too few problems.
        """
        return self._training(index) if split == "train" else self._eval_sets[split].problem(index)

    def _training_problem(self, index: int) -> Problem:
        return self.draw("train", index, set())

    def draw(self, split: str, index: int, taken: set[str]) -> Problem:
        """Draw problems for an index until a problem belongs to the split and its content key is not in `taken`. Return
        this problem.

        Raises:
            TaskError: `MAX_DRAFTS` attempts gave no such problem.
        """
        random = random_for(split, index)
        name = random.choices(list(self._weights), list(self._weights.values()))[0]
        random = random_for(name, sorted(self._options[name].items()), split, index)
        for _ in range(MAX_DRAFTS):
            problem = self._draft(name, random.getrandbits(48))
            if problem is not None and split_of(problem.key) == split and problem.key not in taken:
                return problem
        raise TaskError(
            f"{name} has no further problem for {split}/{index} in {MAX_DRAFTS} attempts: either widen its options "
            "under families, lower panel_size or request lower indices"
        )

    def _draft(self, name: str, seed: int) -> Problem | None:
        """Return the problem of a seed. Return None if the generator fails or the problem is trivial."""
        family = FAMILIES[name]
        try:
            entry = self._generators[name][seed]
        except ValueError:
            return None
        meta = entry["metadata"]
        if family.is_trivial(meta):
            return None
        key = digest(repr((name, family.content(meta))))
        return Problem(
            f"{name}-{key[:12]}",
            entry["question"].strip(),
            entry["answer"],
            name,
            None,
            SOURCE,
            key,
            family.form_of(meta),
            family.expert(meta),
        )


class EvalProblems:
    """The distinct problems of an evaluation split, generated in order on first use."""

    def __init__(self, generated: GeneratedProblems, split: str) -> None:
        self._source, self._split = generated, split
        self._problems: list[Problem] = []
        self._keys: set[str] = set()
        self._lock = threading.Lock()

    def problem(self, index: int) -> Problem:
        """Return problem `index`. All earlier problems are generated first, because all problems must differ.

        Raises:
            TaskError: the family of one of these problems has too few problems.
        """
        with self._lock:
            while len(self._problems) <= index:
                problem = self._source.draw(self._split, len(self._problems), self._keys)
                self._problems.append(problem)
                self._keys.add(problem.key)
            return self._problems[index]


def _weight(name: str, values: Mapping[str, Any]) -> float:
    weight = values.get("weight", FAMILIES[name].weight if name in FAMILIES else 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
        raise ProblemsError(
            f"{name}: weight = {weight!r}: must be a number above 0; to exclude the family, leave out its table"
        )
    return float(weight)


def _options(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options for the generator: all except `weight`."""
    return {key: value for key, value in values.items() if key != "weight"}
