"""What any method would make of recorded groups, offline: `arlarena replay GROUPS --model DIR --recipe sampo`.

One step's forward and backward without an optimiser step, over the batch that a run would make of the groups: those
that the method's filter keeps, and the others as back-fill where the method fills up. The figures are those that a run
would have written to metrics.jsonl, so a method can be judged on the very data that another one collected. Groups that
a run would have refused, demonstrations, which no policy sampled, and records that cannot be read are reported and left
out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from arlarena.proto.config import ConfigError
from arlarena.proto.text.wording import counted
from arlarena.proto.trajectory import Group, SchemaError, decode_group
from arlarena.trainer.batching.scoring import NotFinite, ScoredGroup, returns, score, successes, training_samples
from arlarena.trainer.batching.staleness import StalenessPolicy
from arlarena.trainer.batching.validation import refusal
from arlarena.trainer.learning.learner import Learner
from arlarena.trainer.metrics.diagnostics import episode_figures, finite_or_null, selection_figures
from arlarena.trainer.model.policy import load_policy
from arlarena.trainer.objectives import Recipe
from arlarena.trainer.objectives.cell_diagnostics import CELLS
from arlarena.trainer.objectives.filtering import Selection
from arlarena.trainer.settings import TrainerSettings

SHOWN = (
    "groups", "groups_refused", "groups_kept", "groups_backfilled", "groups_filtered", "no_action_share", "rows",
    "updates_skipped", "loss", "policy_loss",
    "grad_norm", "ratio_mean", "ratio_min", "ratio_max", "outside", "clip_negative_low", "clip_positive_high",
    "rows_masked", "off_policy_kl", "reference_kl", "entropy", "mismatch_k3",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Refusal:
    """A group that is left out: its id, or `record N` (from 0) where it cannot be read, and the reason."""

    group: str
    reason: str


@dataclass(frozen=True, slots=True)
class Replayed:
    """What one method made of the groups; `figures` by the names of metrics.jsonl, `refused` the groups left out."""

    recipe: str
    figures: dict[str, float]
    refused: tuple[Refusal, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the name, the figures, and the list `refused`."""
        return (
            {"recipe": self.recipe}
            | finite_or_null(self.figures)
            | {"refused": [asdict(each) for each in self.refused]}
        )


def load_groups(path: Path) -> list[Group | Refusal]:
    """The records of a file that `write_groups` wrote, in order; a `Refusal` stands for one that cannot be read.

    Raises:
        ConfigError: the file cannot be read, or none of its records can.
    """
    try:
        records = list(_records(path.read_bytes()))
    except OSError as error:
        raise ConfigError(f"groups {path}: {error}") from error
    if not records:
        raise ConfigError(f"groups {path}: the file holds no group")
    first = records[0]
    if isinstance(first, Refusal) and not any(isinstance(record, Group) for record in records):
        raise ConfigError(f"groups {path}: none of its records can be read; {first.group}: {first.reason}")
    return records


def _records(data: bytes) -> Iterator[Group | Refusal]:
    """Each record is a 4-byte little-endian length and as many bytes. A length that is wrong loses what follows."""
    offset = number = 0
    while offset < len(data):
        end = offset + 4 + int.from_bytes(data[offset : offset + 4], "little")
        try:
            if offset + 4 > len(data) or end > len(data):
                raise SchemaError("the file is cut short within it, or its length is damaged")
            yield decode_group(data[offset + 4 : end])
        except SchemaError as error:
            yield Refusal(f"record {number}", str(error))
        offset, number = end, number + 1


def replay(groups: Sequence[Group | Refusal], model: str, recipe: Recipe, settings: TrainerSettings) -> Replayed:
    """The figures of one step of `recipe` on `groups` by the policy `model`, which is also the reference.

    The behaviour policy is the one that sampled the groups; every member counts as fresh. Groups that must not be
    learnt from are refused (`validation.py`).

    Raises:
        ConfigError: every group is refused, or the policy's weights are not finite.
    """
    learner = Learner(load_policy(model), None, recipe, settings)
    admitted, refused = _admit(groups, recipe, learner.policy.config.vocab_size)
    if not admitted:
        first = f"; {refused[0].group}: {refused[0].reason}" if refused else ""
        raise ConfigError(f"{recipe.name}: none of {counted(len(groups), 'group')} can be learnt from{first}")
    # As if the tries were used up: the file has all groups that there are.
    selection: Selection[Group] = Selection(recipe.filter, len(admitted), max_tries=1, backfill=recipe.backfill)
    for group in admitted:
        selection.offer(group, returns(group), successes(group))
    selected = selection.close()
    digests = {span.version.digest for g in admitted for t in g.trajectories for turn in t.turns for span in turn.spans}
    try:
        scored = _scored(selected.batch, StalenessPolicy(0, 0, dict.fromkeys(digests, 0)), learner)
    except NotFinite as error:
        raise ConfigError(f"{recipe.name} with policy {model}: {error}") from error
    current = next(iter(digests)) if len(digests) == 1 else ""
    rows = training_samples(scored, current, settings.advantage_scale, growing=settings.rows == "episodes")
    counts = {"groups": len(groups), "groups_refused": len(refused), "rows": len(rows)}
    figures = {name: float(count) for name, count in (counts | selection_figures(selected)).items()}
    figures["no_action_share"] = episode_figures(selected.batch)["no_action_share"]
    # A rate of 0 moves no weight, neither by the gradient nor by the decay.
    figures |= learner.update([rows] if rows else [], rate=0.0)
    return Replayed(recipe.name, figures, tuple(refused))


def _admit(groups: Sequence[Group | Refusal], recipe: Recipe, vocabulary: int) -> tuple[list[Group], list[Refusal]]:
    admitted, refused = [], []
    for group in groups:
        if isinstance(group, Refusal):
            refused.append(group)
        elif player := _demonstrator(group):
            refused.append(Refusal(group.id, f"no policy sampled it: it is a demonstration by {player}"))
        elif reason := refusal(group, vocabulary=vocabulary, recipe=recipe):
            refused.append(Refusal(group.id, reason))
        else:
            admitted.append(group)
    return admitted, refused


def _demonstrator(group: Group) -> str:
    """Who played a demonstration, see `arlarena.rollout.policies`; "" for a group that a policy sampled."""
    version = group.oldest
    return {"expert": "the environment's expert", "chat": f"the model {version.digest!r}"}.get(version.incarnation, "")


def _scored(groups: Sequence[Group], staleness_policy: StalenessPolicy, learner: Learner) -> list[ScoredGroup]:
    settings = learner.settings
    return score(
        learner.recipe,
        groups,
        staleness_policy,
        invalid_penalty=settings.invalid_penalty,
        max_response_tokens=settings.max_response_tokens,
        entropy_fn=learner.mean_entropies,
        no_action_turns=settings.no_action_turns,
        growing=settings.rows == "episodes",
    )


def table(found: Sequence[Replayed]) -> str:
    """The figures side by side, one column a method, and the share of KL by cell; then the groups that were refused,
    with the methods that did where not all of them did.
    """
    names = [name for name in SHOWN if any(name in one.figures for one in found)]
    names += [f"kl_share/{cell}" for cell in CELLS if any(f"kl_share/{cell}" in one.figures for one in found)]
    width = max(map(len, names))
    columns = [max(12, len(one.recipe)) for one in found]
    lines = [" " * width + "".join(f"  {one.recipe:>{size}}" for one, size in zip(found, columns, strict=True))]
    for name in names:
        cells = [f"{one.figures[name]:.6g}" if name in one.figures else "-" for one in found]
        lines.append(
            f"{name:<{width}}" + "".join(f"  {cell:>{size}}" for cell, size in zip(cells, columns, strict=True))
        )
    by: dict[Refusal, list[str]] = {}
    for one in found:
        for each in one.refused:
            by.setdefault(each, []).append(one.recipe)
    for each, methods in by.items():
        who = "" if len(methods) == len(found) else f" by {', '.join(methods)}"
        lines.append(f"refused{who}: {each.group}: {each.reason}")
    return "\n".join(lines)
