"""Plays recorded replies on the environment again, and compares the recorded values with the new values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from arlarena.proto.text.wording import counted
from arlarena.proto.trajectory import Trajectory
from arlarena.rollout.episode import FAULT, EpisodeRecord
from arlarena.rollout.evaluation.certificate.checks import Evidence
from arlarena.rollout.evaluation.certificate.recorded import (
    NO_MORE_REPLIES,
    RecordedEpisode,
    RecordedReplies,
    assignments_of,
)
from arlarena.rollout.evaluation.served import CONCURRENCY
from arlarena.rollout.play_all import EvalResults, play_all
from arlarena.rollout.runner import Runner
from arlarena.rollout.tokens import Tokens

# The compared fields of a turn. All files record `FIELDS`. Only files of groups record `KEY_FIELDS` and `TOKEN_FIELDS`.
FIELDS = ("observation", "state_key", "reward", "action", "action_valid", "format_valid", "no_action")
KEY_FIELDS = ("observation_key", "images")
TOKEN_FIELDS = ("new_prompt_ids", "reset")
# The compared fields of an episode.
END_FIELDS = ("terminated", "truncated", "score", "success", "outcome")


def sample(episodes: Sequence[RecordedEpisode], per_file: int, seed: int) -> list[RecordedEpisode]:
    """Returns at most `per_file` episodes of each file, chosen by `seed`. If `per_file` is 0, returns all episodes."""
    by_file: dict[str, list[RecordedEpisode]] = {}
    for episode in episodes:
        by_file.setdefault(episode.source, []).append(episode)
    if not per_file:
        return list(episodes)
    random = Random(seed)
    return [episode for found in by_file.values() for episode in random.sample(found, min(per_file, len(found)))]


async def play_recorded(runner: Runner, episodes: list[RecordedEpisode], tokens: Tokens | None) -> EvalResults:
    """Play the recorded replies of each episode. Returns the new episodes and the errors, by position in `episodes`.

    Raises:
        Refused: the environment lacks the task of an episode. The caller must remove such episodes first.
        ServicesDown: the server is down.
    """
    if not episodes:
        return EvalResults()
    assignments, by_key = assignments_of(episodes)
    return await play_all(runner, assignments, RecordedReplies(by_key, tokens), concurrency=CONCURRENCY)


async def check_replay(
    runner: Runner, episodes: Sequence[RecordedEpisode], tokens: Tokens | None, total: int
) -> Evidence:
    """Replay `episodes`. Compare the recorded observations, rewards, keys and endings with those of the replay.

    Episodes without a turn are left out. `tokens`: None if the tokenizer cannot be read; prompts are then not compared.
    `total`: number of recorded episodes in all files, for a note.
    """
    evidence = Evidence("sampled episodes replay byte for byte", "episode")
    chosen = [episode for episode in episodes if episode.trajectory.turns]
    played = await play_recorded(runner, chosen, tokens)
    turns = 0
    for number, recorded in enumerate(chosen):
        again = played.episodes.get(number)
        if again is None:
            evidence.not_checked.append(f"{recorded}: {played.errors.get(number, 'the server is down')}")
            continue
        turns += len(recorded.trajectory.turns)
        first = next(differences(recorded, again, with_tokens=tokens is not None), None)
        evidence.compare([] if first is None else [f"{recorded}: {first}"])
    if len(chosen) < len(episodes):
        evidence.notes.append(f"{counted(len(episodes) - len(chosen), 'episode')} without a turn left out")
    prompts = "prompts compared as token ids" if tokens else "prompts not compared: the tokenizer cannot be read"
    evidence.notes.append(f"{counted(turns, 'turn')}; {len(chosen)} of {total} recorded episodes; {prompts}")
    return evidence


def differences(recorded: RecordedEpisode, again: EpisodeRecord, *, with_tokens: bool) -> Iterator[str]:
    """Yield a text for each recorded value that differs from the value in the replay, in the order of the episode."""
    old, new = recorded.trajectory, again.trajectory
    names = FIELDS + (KEY_FIELDS if recorded.has_keys else ())
    names += TOKEN_FIELDS if with_tokens and recorded.has_tokens else ()
    for number, (one, two) in enumerate(zip(old.turns, new.turns, strict=False)):
        for name in names:
            mine, theirs = getattr(one, name), getattr(two, name)
            if not _same(mine, theirs):
                yield f"turn {number}: {name} is {_short(mine)} in the record, {_short(theirs)} now"
    if len(old.turns) > len(new.turns):
        yield f"the record has {len(old.turns)} turns, but the episode ends after {len(new.turns)}"
    elif new.fault.endswith(NO_MORE_REPLIES) and not _ended_by_prompt(old):
        yield f"the record ends after {len(old.turns)} turns, but the episode continues"
    else:
        yield from _end_differences(recorded, again)


def _end_differences(recorded: RecordedEpisode, again: EpisodeRecord) -> Iterator[str]:
    old, new = recorded.trajectory, again.trajectory
    for name in END_FIELDS:
        if getattr(old, name) != getattr(new, name):
            yield f"at the end: {name} is {getattr(old, name)} in the record, {getattr(new, name)} now"
    if _faults(old) != _faults(new):
        yield f"at the end: fault {sorted(_faults(old))} in the record, {sorted(_faults(new))} now"
    text = again.last.observation.text
    if recorded.final_observation not in (None, text):
        yield f"at the end: observation is {_short(recorded.final_observation)} in the record, {_short(text)} now"


def _faults(trajectory: Trajectory) -> set[str]:
    return {name for name in trajectory.metrics if name.startswith(FAULT)}


def _ended_by_prompt(trajectory: Trajectory) -> bool:
    """Returns True if a policy fault ended the recorded episode, for example a prompt that was too long.

    The replay of this episode also ends without a further reply. This is not a difference.
    """
    return bool(_faults(trajectory)) and trajectory.outcome == "policy_error"


def _same(one: Any, two: Any) -> bool:
    return repr(one) == repr(two) if isinstance(one, float) else bool(one == two)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
