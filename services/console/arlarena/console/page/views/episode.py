"""JSON objects of an episode, of a turn, and of the visits to a state."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt

from arlarena.console.page.index.queries import episode_object
from arlarena.console.page.views.records import LoadedEpisode
from arlarena.console.page.views.reply_marks import format_problems, reply_marks
from arlarena.console.page.views.tokens import RunTokenizer
from arlarena.proto.records.group_records import INSIDE, MemberRecord, TurnFigures
from arlarena.proto.text.wording import printable
from arlarena.proto.trajectory import Trajectory, Turn, prompt_lengths

# Limits of one reply of the server. If a text was cut, `truncated` is true.
TEXT_CHARS, PREVIEW_CHARS, MAX_TOKENS, MAX_ACTIONS, MAX_TURNS = 1_000_000, 200, 20_000, 2_000, 2_000


def shown_text(text: str | None) -> dict[str, Any] | None:
    """Returns a text as an object of the API: at most `TEXT_CHARS` characters, and whether the text was cut."""
    return None if text is None else {"text": text[:TEXT_CHARS], "truncated": len(text) > TEXT_CHARS}


def floats(data: bytes) -> npt.NDArray[np.float32]:
    """Returns the float32 values in `data` (little-endian)."""
    return np.frombuffer(data, dtype="<f4")


def rounded(values: npt.NDArray[np.float32]) -> list[float | None]:
    """Returns numbers for JSON: the shortest decimal of each float32. A value that is not finite becomes None."""
    return [float(str(value)) if np.isfinite(value) else None for value in values]


def mean(values: npt.NDArray[np.float32]) -> float | None:
    """Returns the mean, or None if there are no values."""
    return float(values.mean(dtype=np.float64)) if len(values) else None


def visits_of(loaded: LoadedEpisode) -> Counter[str]:
    """Returns the number of turns in each state, over all episodes of the group (without a group: one episode)."""
    episodes = loaded.group.trajectories if loaded.group else (loaded.trajectory,)
    return Counter(turn.state_key for episode in episodes for turn in episode.turns if turn.state_key)


def _at(values: tuple[Any, ...], turn: int) -> Any:
    return values[turn] if turn < len(values) else None


def figure_means(figures: TurnFigures | None) -> dict[str, Any]:
    """Returns means over the tokens of a turn. If `figures` is None, all values are None."""
    if figures is None:
        return dict.fromkeys(("mean_ratio", "mean_entropy", "outside", "kept"))
    clip = np.frombuffer(figures.clip, dtype=np.uint8)
    return {
        "mean_ratio": mean(floats(figures.ratios)),
        "mean_entropy": mean(floats(figures.entropies)),
        "outside": float((clip != INSIDE).mean()) if len(clip) else 0.0,
        "kept": figures.kept,
    }


def episode_view(loaded: LoadedEpisode) -> dict[str, Any]:
    """Returns the response of `GET …/episodes/{id}`. The route adds the fields of `queries.neighbours`."""
    trajectory, member = loaded.trajectory, loaded.member
    visits = visits_of(loaded)
    spans = [span.version for turn in trajectory.turns for span in turn.spans]
    return episode_object(loaded.row) | {
        "fault": trajectory.fault,
        "terminated": trajectory.terminated,
        "truncated": trajectory.truncated,
        "seed": loaded.task.seed,
        "split": loaded.task.split,
        "index": loaded.task.index if loaded.task.index >= 0 else None,
        "weights": str(spans[-1]) if spans else None,
        "duration_s": trajectory.duration_s,
        "metrics": trajectory.metrics,
        "reason": member.reason if member else None,
        "age": member.age if member else None,
        "final_observation": (loaded.final_observation or "")[:TEXT_CHARS] or None,
        "has_tokens": loaded.has_tokens,
        "has_figures": bool(member and member.turns),
        "turn_list": [
            _turn_row(turn, number, member, visits, with_group=loaded.group is not None)
            for number, turn in enumerate(trajectory.turns[:MAX_TURNS])
        ],
    }


def _turn_row(
    turn: Turn, number: int, member: MemberRecord | None, visits: Counter[str], *, with_group: bool
) -> dict[str, Any]:
    return {
        "turn": number,
        "action": printable(turn.action[:PREVIEW_CHARS]),
        "reward": turn.reward,
        "action_valid": turn.action_valid,
        "format_valid": turn.format_valid,
        "no_action": turn.no_action,
        "finish_reason": turn.finish_reason,
        "state_key": turn.state_key,
        "visits": visits.get(turn.state_key) if with_group else None,
        "advantage": _at(member.advantages, number) if member else None,
        "episode_advantage": _at(member.episode_advantages, number) if member else None,
        "step_advantage": _at(member.step_advantages, number) if member else None,
        "tokens": len(turn.loss_mask),
        "preview": turn.observation[:PREVIEW_CHARS],
    } | figure_means(_at(member.turns, number) if member else None)


def turn_view(loaded: LoadedEpisode, number: int, tokens: RunTokenizer) -> dict[str, Any]:
    """Returns the object of `GET …/turns/{turn}`. `number` must be a turn of the episode."""
    trajectory, turn, member = loaded.trajectory, loaded.trajectory.turns[number], loaded.member
    return {
        "episode": loaded.row["key"],
        "turn": number,
        "turns": len(trajectory.turns),
        "prompt": _prompt(trajectory, number, tokens) if loaded.has_tokens else None,
        "observation": shown_text(turn.observation),
        "reply": {
            "text": turn.response[:TEXT_CHARS],
            "truncated": len(turn.response) > TEXT_CHARS,
            "tokens": len(turn.loss_mask) if loaded.has_tokens else None,
            "format_valid": turn.format_valid,
            "finish_reason": turn.finish_reason,
            "marks": reply_marks(turn.response[:TEXT_CHARS]),
            "problems": format_problems(turn),
        },
        "action": turn.action[:TEXT_CHARS],
        "action_valid": turn.action_valid,
        "no_action": turn.no_action,
        "admissible_actions": list(turn.admissible_actions[:MAX_ACTIONS]) or None,
        "reward": turn.reward,
        "advantage": _advantage(member, number),
        "state_key": turn.state_key,
        "observation_key": turn.observation_key,
        "visits": visits_of(loaded).get(turn.state_key) if loaded.group else None,
        "next": _next(loaded, number, tokens),
        "versions": [
            {"start": span.start, "end": span.end, "version": str(span.version), "step": span.version.step}
            for span in turn.spans
        ],
        "images": list(turn.images),
        "tokens": _token_lists(turn, _at(member.turns, number) if member else None, tokens)
        if loaded.has_tokens
        else None,
    }


def _prompt(trajectory: Trajectory, number: int, tokens: RunTokenizer) -> dict[str, Any]:
    first = max(start for start, _ in trajectory.conversations() if start <= number)
    length = prompt_lengths(trajectory.turns)[number]
    parts = [ids for turn in trajectory.turns[first:number] for ids in (turn.new_prompt(), turn.tokens())]
    ids = np.concatenate([*parts, trajectory.turns[number].new_prompt()])
    text = tokens.text(ids[:MAX_TOKENS].tolist())
    cut = length > MAX_TOKENS or len(text or "") > TEXT_CHARS
    return {"text": None if text is None else text[:TEXT_CHARS], "truncated": cut, "tokens": length}


def _advantage(member: MemberRecord | None, number: int) -> dict[str, Any] | None:
    if member is None or not member.advantages:
        return None
    return {
        "episode": _at(member.episode_advantages, number),
        "step": _at(member.step_advantages, number),
        "total": _at(member.advantages, number),
        "anchor_size": _at(member.anchor_sizes, number),
    }


def _next(loaded: LoadedEpisode, number: int, tokens: RunTokenizer) -> dict[str, Any]:
    trajectory = loaded.trajectory
    last = number + 1 == len(trajectory.turns)
    following = None if last else trajectory.turns[number + 1]
    tool_output = None
    if following is not None and not following.reset:
        tool_output = shown_text(tokens.text(following.new_prompt()[:MAX_TOKENS].tolist()))
    observation = following.observation if following else loaded.final_observation
    return {
        "observation": shown_text(observation),
        "tool_output": tool_output,
        "terminated": last and trajectory.terminated,
        "truncated": last and trajectory.truncated,
    }


def _token_lists(turn: Turn, figures: TurnFigures | None, tokens: RunTokenizer) -> dict[str, Any]:
    ids, mask = turn.tokens()[:MAX_TOKENS], turn.mask()[:MAX_TOKENS]
    sampler = turn.behaviour_logprobs()
    sampled = np.flatnonzero(turn.mask())

    def aligned(values: npt.NDArray[Any]) -> list[Any]:
        """Returns one value for each token of the turn. The value is None if the token's mask is 0."""
        placed: list[Any] = [None] * len(turn.loss_mask)
        for place, value in zip(sampled.tolist(), values, strict=False):
            placed[place] = value
        return placed[:MAX_TOKENS]

    result: dict[str, Any] = {
        "ids": ids.tolist(),
        "texts": tokens.texts(ids.tolist()),
        "mask": mask.tolist(),
        "sampler_log_probs": rounded(sampler[:MAX_TOKENS]),
    }
    names = ("log_probs", "old_log_probs", "reference_log_probs", "entropies", "ratios", "clip")
    result |= dict.fromkeys(names)
    if figures is not None:
        old = floats(figures.old_log_probs) if figures.old_log_probs else sampler[sampled]
        columns = {"log_probs": floats(figures.log_probs), "old_log_probs": old}
        columns |= {"entropies": floats(figures.entropies), "ratios": floats(figures.ratios)}
        if figures.reference_log_probs:
            columns["reference_log_probs"] = floats(figures.reference_log_probs)
        result |= {name: aligned(np.asarray(rounded(values), dtype=object)) for name, values in columns.items()}
        result["clip"] = aligned(np.asarray(list(figures.clip), dtype=object))
    return result | {"kept": figures.kept if figures else None, "truncated": len(turn.loss_mask) > MAX_TOKENS}


def visits_view(loaded: LoadedEpisode, number: int, gamma: float, siblings: list[str]) -> dict[str, Any]:
    """Returns the object of `GET …/visits`: all turns of the group in the state of turn `number`.

    `siblings`: the keys of the group's episodes, in the order of the members.
    """
    state = loaded.trajectory.turns[number].state_key
    episodes = list(enumerate(loaded.group.trajectories)) if loaded.group else [(None, loaded.trajectory)]
    visits = []
    for member, trajectory in episodes if state else ():
        step_returns = discounted([turn.reward for turn in trajectory.turns], gamma)
        record = loaded.record.members[member] if loaded.record and member is not None else None
        for place, turn in enumerate(trajectory.turns):
            if turn.state_key != state:
                continue
            key = loaded.row["key"] if member is None else siblings[member]
            visits.append(
                {
                    "episode": key,
                    "member": member,
                    "turn": place,
                    "action": printable(turn.action[:PREVIEW_CHARS]),
                    "action_valid": turn.action_valid,
                    "reward": turn.reward,
                    "step_return": step_returns[place],
                    "step_advantage": _at(record.step_advantages, place) if record else None,
                    "advantage": _at(record.advantages, place) if record else None,
                    "success": trajectory.success,
                    "this": key == loaded.row["key"] and place == number,
                }
            )
    return {"state_key": state, "visits": visits}


def discounted(rewards: list[float], gamma: float) -> list[float]:
    """Returns the step return R_k of each turn: the sum over m ≥ k of gamma^(m-k) r_m (GiGPO)."""
    total, result = 0.0, list[float]()
    for reward in reversed(rewards):
        total = reward + gamma * total
        result.append(total)
    return result[::-1]
