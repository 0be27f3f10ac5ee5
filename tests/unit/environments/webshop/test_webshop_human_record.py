"""Recorded episodes of people: the format, the file, and replays."""

import os
from multiprocessing import get_context

import msgspec
import pytest
from support.environments.webshop_support import shop_environment

from arlarena.environments.webshop.human.record import (
    SCHEMA,
    HumanEpisode,
    RecordError,
    append_episode,
    load_episodes,
)
from arlarena.environments.webshop.human.replay import ReplayMismatch, replay
from arlarena.environments.webshop.human.visit import Visit
from arlarena.proto.env_api import ResetSpec
from arlarena.proto.records.episode_lines import EpisodeLine, TurnLine


def played(environment, index=0):
    """A finished episode: the expert's replies as a person's actions, with a detour."""
    visit = Visit(environment, environment.task(ResetSpec(split="test", index=index)), f"test-{index}-someone-1")
    visit.play("search[lotion]")
    for response in visit.episode.expert():
        visit.play_response(response)
    return visit.record()


@pytest.mark.parametrize("form", ["text", "rich"])
def test_a_replay_has_the_same_transcript(tmp_path, form):
    environment, path = shop_environment(observation=form), tmp_path / "folder" / "episodes.jsonl"
    episodes = [played(environment, index) for index in range(4)]
    for episode in episodes:
        append_episode(path, episode)
    loaded = load_episodes(path)
    assert loaded == episodes
    for episode in loaded:
        again = replay(shop_environment(observation=form), episode)
        assert [turn.observation for turn in again.turns] == [turn.observation for turn in episode.turns]
        assert again.final_observation == episode.final_observation
        assert again.purchase == episode.purchase


def test_a_changed_record_is_no_replay():
    environment = shop_environment()
    episode = played(environment)
    turns = list(episode.turns)
    turns[1] = msgspec.structs.replace(turns[1], observation="another page")
    changed = [
        (msgspec.structs.replace(episode, turns=tuple(turns)), "turn 1: observation"),
        (msgspec.structs.replace(episode, score=0.5), "score is '0.5' in the record"),
        (msgspec.structs.replace(episode, turns=(*episode.turns, episode.turns[-1])), "the replay has ended"),
        (msgspec.structs.replace(episode, turns=episode.turns[:-1]), "success is 'True' in the record"),
    ]
    for other, message in changed:
        with pytest.raises(ReplayMismatch, match=message):
            replay(environment, other)


def test_the_format_has_all_keys_of_an_evaluations_episodes():
    record = msgspec.to_builtins(played(shop_environment()))
    turn = TurnLine()
    models = msgspec.to_builtins(EpisodeLine("id", "webshop/test/0", (turn,)))
    assert models["schema"] == SCHEMA
    assert models.keys() <= record.keys()
    assert models["turns"][0].keys() <= record["turns"][0].keys()


def test_an_incomplete_last_line_is_ignored_and_replaced(tmp_path):
    environment, path = shop_environment(), tmp_path / "episodes.jsonl"
    first, second = played(environment, 0), played(environment, 1)
    append_episode(path, first)
    whole = path.read_bytes()
    path.write_bytes(whole + msgspec.json.encode(second)[:-40])
    assert load_episodes(path) == [first]
    append_episode(path, second)
    assert load_episodes(path) == [first, second]
    assert path.read_bytes().startswith(whole)


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "episodes.jsonl"
    append_episode(path, played(shop_environment()))
    with path.open("ab") as file:
        file.write(b'{"schema": 2}\n')
    with pytest.raises(RecordError, match=r"episodes\.jsonl, line 2: not an episode of a person"):
        load_episodes(path)
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0].replace(b'"schema":2', b'"schema":9'))
    with pytest.raises(RecordError, match="line 1: schema 9"):
        load_episodes(path)


def test_a_full_disk_leaves_the_complete_lines(tmp_path, monkeypatch):
    path, episode = tmp_path / "episodes.jsonl", played(shop_environment())
    append_episode(path, episode)
    before, write = path.read_bytes(), os.pwrite

    def half_a_write(handle, data, position):
        write(handle, data[:100], position)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", half_a_write)
    with pytest.raises(OSError, match="No space left"):
        append_episode(path, episode)
    assert path.read_bytes() == before


def append_many(path, episode: HumanEpisode, name):
    for number in range(20):
        append_episode(path, msgspec.structs.replace(episode, id=f"{name}-{number}"))


def test_processes_append_whole_lines_to_one_file(tmp_path):
    path, episode = tmp_path / "episodes.jsonl", played(shop_environment())
    context = get_context("fork")
    processes = [context.Process(target=append_many, args=(path, episode, name)) for name in "abc"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    names = [one.id for one in load_episodes(path)]
    assert sorted(names) == sorted(f"{name}-{number}" for name in "abc" for number in range(20))
