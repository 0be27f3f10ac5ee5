"""Games that a person played on the run page are demonstrations for `arlarena clone`."""

import json
import math
import subprocess
import sys

import pytest
from support.console.page_support import make_run, page_server

from arlarena.environments.sokoban.game import start_of
from arlarena.environments.sokoban.room import Room
from arlarena.environments.sokoban.solver import least_moves
from arlarena.trainer.cloning.conversations import conversation_rows, read_conversations

OPTIONS = {"size": 6, "boxes": 1, "min_moves": 2, "max_moves": 4, "max_steps": 9, "observation": "grid+surroundings"}


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """The folder of two games of Sokoban that a person has solved, with the options of a run."""
    folder = tmp_path_factory.mktemp("played")
    options = "".join(f"{key} = {json.dumps(value)}\n" for key, value in OPTIONS.items())
    config = f'[environment]\nname = "sokoban"\n[environment.options]\n{options}template = "compact"\n'
    (make_run(folder / "run") / "config.toml").write_text(config)
    with page_server([folder / "run"], folder) as page:
        for index in range(2):
            _, game = page.send("POST", "/api/play", {"run": "run", "split": "train", "index": index})
            grid = [line for line in game["state"]["observation"].splitlines() if line.startswith("#")]
            room = Room.parse("\n".join(grid))
            for move in least_moves(room, start_of(room)).moves:
                _, game = page.send("POST", f"/api/play/{game['id']}/step", {"action": move, "thought": "push"})
            assert game["state"]["success"]
    return folder / "played"


def test_the_rows_have_the_prompts_and_replies_of_the_person(played, tiny_directory):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_directory)
    rows = conversation_rows(read_conversations(played / "conversations.jsonl", 0.0), str(tiny_directory))
    turns = [turn for line in (played / "episodes.jsonl").open() for turn in json.loads(line)["turns"]]
    assert len(rows) == len(turns) >= 4
    for row, turn in zip(rows, turns, strict=True):
        assert turn["observation"] in tokenizer.decode(row.prompt)
        assert (
            tokenizer.decode(row.response[:-1])
            == turn["response"]
            == f"<think>push</think><action>{turn['action']}</action>"
        )
        assert row.response[-1] == tokenizer.eos_token_id


@pytest.mark.slow  # runs a cloning process; the test above is quick
def test_clone_learns_from_the_games(played, tiny_directory, tmp_path):
    (tmp_path / "run.toml").write_text("[clone]\nmax_epochs = 30\nbatch_rows = 4\nlr = 0.01\n")
    talk = played / "conversations.jsonl"
    folders = ("--run-dir", tmp_path / "run", "--out", tmp_path / "cloned")
    data = ("--model", tiny_directory, "--demonstrations", talk, "--validation", talk)
    command = [sys.executable, "-m", "arlarena.trainer", "clone", "--config", tmp_path / "run.toml", *data, *folders]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "run" / "clone.json").read_text())
    vocabulary = json.loads((tiny_directory / "config.json").read_text())["vocab_size"]
    assert found["validation_loss"] < math.log(vocabulary) / 4  # a policy that knows nothing has log(vocabulary)
    assert found["turns"] == sum(1 for _ in talk.open())
