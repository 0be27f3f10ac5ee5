"""Computes one training step of a method on recorded groups: `arlarena replay GROUPS --model DIR --recipe sampo`.

The forward and backward pass of the step are computed, but the weights do not change. Several methods can be compared
on the same groups. As in a run, the batch contains the groups that the method's filter keeps. If the method has
back-fill (an incomplete batch is filled with dropped groups), the batch also contains the groups that the filter drops.
The metrics have the same names as in metrics.jsonl.

Three kinds of records are left out and reported: groups that a run would refuse, demonstrations (played by the
environment's expert or another model), and records that cannot be decoded.
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
from arlarena.trainer.batching.validation import refusal_reason
from arlarena.trainer.check_records import load_records
from arlarena.trainer.learning.learner import Learner
from arlarena.trainer.metrics.diagnostics import episode_metrics, finite_or_null, selection_metrics
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
    """A group that is left out, and the reason.

    `group`: the id of the group. If the record cannot be decoded, `group` is `record N`, with N counted from 0.
    """

    group: str
    reason: str


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """The result of one method.

    `metrics`: values by name, as in metrics.jsonl. `refused`: the groups that are left out.
    """

    recipe: str
    metrics: dict[str, float]
    refused: tuple[Refusal, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the content for JSON: the recipe's name, the metrics and the list `refused`."""
        return (
            {"recipe": self.recipe}
            | finite_or_null(self.metrics)
            | {"refused": [asdict(each) for each in self.refused]}
        )


def load_groups(path: Path) -> list[Group | Refusal]:
    """Return the groups of the file `path`, in order. The file is from the folder RUN/groups or RUN/records.

    In a file of RUN/groups, a record that cannot be decoded becomes a `Refusal`.

    Raises:
        ConfigError: the file cannot be read. A file of RUN/groups has no groups, or none of its records can be decoded.
            A file of RUN/records is empty or has a damaged record. (If it has no groups, the result is empty.)
    """
    if path.suffix == ".records":
        return [record.group for record in load_records(path)[1]]
    try:
        records = list(_records(path.read_bytes()))
    except OSError as error:
        raise ConfigError(f"groups {path}: {error}") from error
    if not records:
        raise ConfigError(f"groups {path}: the file contains no group")
    first = records[0]
    if isinstance(first, Refusal) and not any(isinstance(record, Group) for record in records):
        raise ConfigError(f"groups {path}: no record can be decoded; {first.group}: {first.reason}")
    return records


def _records(data: bytes) -> Iterator[Group | Refusal]:
    """Yield the records of a file. A record has a 4-byte little-endian length N, and then N bytes.

    If a length is wrong, the later records cannot be decoded.
    """
    offset = number = 0
    while offset < len(data):
        end = offset + 4 + int.from_bytes(data[offset : offset + 4], "little")
        try:
            if offset + 4 > len(data) or end > len(data):
                raise SchemaError("the file ends within the record, or the record's length is damaged")
            yield decode_group(data[offset + 4 : end])
        except SchemaError as error:
            yield Refusal(f"record {number}", str(error))
        offset, number = end, number + 1


def replay(groups: Sequence[Group | Refusal], model: str, recipe: Recipe, settings: TrainerSettings) -> ReplayResult:
    """Compute the metrics of one step of `recipe` on `groups` with the policy `model`.

    `model` is also the reference policy. The sampler's log-probs are taken from the groups. No episode counts as stale.
    Damaged records, demonstrations, and groups that a run would refuse are left out, and listed in
    `ReplayResult.refused`.

    Raises:
        ConfigError: no group remains, the policy cannot be loaded, or an entropy or advantage is not finite.
    """
    learner = Learner(load_policy(model), None, recipe, settings)
    admitted, refused = _admit(groups, recipe, learner.policy.config.vocab_size)
    if not admitted:
        first = f"; {refused[0].group}: {refused[0].reason}" if refused else ""
        raise ConfigError(f"{recipe.name}: none of {counted(len(groups), 'group')} can be trained on{first}")
    # `max_tries` is 1, because the file has no further groups that could replace dropped groups.
    selection: Selection[Group] = Selection(recipe.filter, len(admitted), max_tries=1, backfill=recipe.backfill)
    for group in admitted:
        selection.offer(group, returns(group), successes(group))
    selected = selection.close()
    digests = {span.version.digest for g in admitted for t in g.trajectories for turn in t.turns for span in turn.spans}
    try:
        scored = _score(selected.batch, StalenessPolicy(0, 0, dict.fromkeys(digests, 0)), learner)
    except NotFinite as error:
        raise ConfigError(f"{recipe.name} with policy {model}: {error}") from error
    current = next(iter(digests)) if len(digests) == 1 else ""
    rows = training_samples(scored, current, settings.advantage_scale, growing=settings.rows == "episodes")
    counts = {"groups": len(groups), "groups_refused": len(refused), "rows": len(rows)}
    metrics = {name: float(count) for name, count in (counts | selection_metrics(selected)).items()}
    metrics["no_action_share"] = episode_metrics(selected.batch)["no_action_share"]
    # With a learning rate of 0, gradient and weight decay do not change the weights.
    metrics |= learner.update([rows] if rows else [], rate=0.0)
    return ReplayResult(recipe.name, metrics, tuple(refused))


def _admit(groups: Sequence[Group | Refusal], recipe: Recipe, vocabulary: int) -> tuple[list[Group], list[Refusal]]:
    admitted, refused = [], []
    for group in groups:
        if isinstance(group, Refusal):
            refused.append(group)
        elif player := _demonstrator(group):
            refused.append(Refusal(group.id, f"it is a demonstration by {player}, not a sample of a policy"))
        elif reason := refusal_reason(group, vocabulary=vocabulary, recipe=recipe):
            refused.append(Refusal(group.id, reason))
        else:
            admitted.append(group)
    return admitted, refused


def _demonstrator(group: Group) -> str:
    """Return the player of a demonstration; "" if the group is not a demonstration."""
    version = group.oldest
    return {"expert": "the environment's expert", "chat": f"the model {version.digest!r}"}.get(version.incarnation, "")


def _score(groups: Sequence[Group], staleness_policy: StalenessPolicy, learner: Learner) -> list[ScoredGroup]:
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


def table(results: Sequence[ReplayResult]) -> str:
    """Return a text table with one column per method. The lines are the metrics `SHOWN`, and the KL share of each cell.

    After the table, there is one line for each refused group. If only some methods refused the group, the line names
    these methods.
    """
    names = [name for name in SHOWN if any(name in result.metrics for result in results)]
    cell_names = [f"kl_share/{cell}" for cell in CELLS]
    names += [name for name in cell_names if any(name in result.metrics for result in results)]
    width = max(map(len, names))
    columns = [max(12, len(result.recipe)) for result in results]
    lines = [" " * width + "".join(f"  {each.recipe:>{size}}" for each, size in zip(results, columns, strict=True))]
    for name in names:
        cells = [f"{each.metrics[name]:.6g}" if name in each.metrics else "-" for each in results]
        lines.append(
            f"{name:<{width}}" + "".join(f"  {cell:>{size}}" for cell, size in zip(cells, columns, strict=True))
        )
    methods_of: dict[Refusal, list[str]] = {}
    for result in results:
        for refusal in result.refused:
            methods_of.setdefault(refusal, []).append(result.recipe)
    for refusal, methods in methods_of.items():
        by = "" if len(methods) == len(results) else f" by {', '.join(methods)}"
        lines.append(f"refused{by}: {refusal.group}: {refusal.reason}")
    return "\n".join(lines)
