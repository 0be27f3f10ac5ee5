"""Text files of users: files of any editor are read, and errors name other encodings."""

import codecs
from dataclasses import dataclass

import pytest

from arlarena.environment.protocols import TaskError
from arlarena.environment.registry import load
from arlarena.environments.alfworld.errors import GameError
from arlarena.environments.alfworld.files.export import export
from arlarena.environments.alfworld.files.game_files import FileGames
from arlarena.environments.alfworld.options import read_options as alfworld_options
from arlarena.environments.sokoban.rooms import generate
from arlarena.environments.tir_math.options import read_options
from arlarena.environments.tir_math.problems.sources import problems_of
from arlarena.proto.config import ConfigError, read_file
from arlarena.proto.text.files import TextFileError, read_text
from arlarena.trainer.cloning.conversations import read_conversations

BOM = codecs.BOM_UTF8


@dataclass
class Read:
    """A kind of user file: its bytes without a byte-order mark, and a function that reads it."""

    data: bytes
    read: object
    name: str


def _game(tmp_path_factory):
    folder = tmp_path_factory.mktemp("games")
    return (export(folder, "train", 0, alfworld_options("t", {"things": [4, 8], "receptacles": 6})) / "game.tw-pddl",)


def _play(path):
    games = FileGames(path)
    return games.sizes(), games.game("train", 0).content_key


def _levels(path):
    return [split.size for split in load("t", "sokoban", {"levels": str(path)}).splits]


def _problems(path):
    result = problems_of("t", read_options("t", {"tests": {"one": str(path)}}))
    return [result.problem("one", index).answer for index in range(result.sizes()["one"])]


def _level_text():
    rooms = [generate(7, 7, 1, seed) for seed in range(60)]
    return "".join(f"; {i}\n" + "\n".join(room.rows()) + "\n\n" for i, room in enumerate(rooms)).encode()


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    (game,) = _game(tmp_path_factory)
    talk = b'{"messages": [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b\xc3\xa9"}]}\n'
    problem = b'{"problem": "caf\xc3\xa9: 1 + 1?", "answer": "2"}\n'
    return {
        "configuration": Read(b'[environment]\nname = "sokoban"\n', read_file, "run.toml"),
        "levels": Read(_level_text(), _levels, "levels.txt"),
        "problems": Read(problem, _problems, "problems.jsonl"),
        "game": Read(game.read_bytes(), _play, "one.tw-pddl"),
        "conversations": Read(talk, lambda path: read_conversations(path, 0.0), "talk.jsonl"),
    }


KINDS = ["configuration", "levels", "problems", "game", "conversations"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_byte_order_mark_and_windows_line_ends_change_nothing(kinds, tmp_path, kind):
    one = kinds[kind]
    path = tmp_path / one.name
    path.write_bytes(one.data)
    plain = one.read(path)
    marked = tmp_path / "marked"
    marked.mkdir()
    (marked / one.name).write_bytes(BOM + one.data.replace(b"\n", b"\r\n"))
    assert one.read(marked / one.name) == plain


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
def test_utf_16_and_utf_32_are_named_with_the_file_and_the_fix(kinds, tmp_path, kind, encoding):
    one = kinds[kind]
    path = tmp_path / one.name
    path.write_bytes(one.data.decode().encode(encoding))
    named = encoding.upper().replace("-LE", "LE").replace("-BE", "BE")
    pattern = rf"{one.name}: is {named}, not UTF-8; convert it: iconv -f {named} -t UTF-8"
    with pytest.raises((ConfigError, GameError, TaskError), match=pattern):
        one.read(path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_latin_1_byte_is_named_with_its_offset_and_line(kinds, tmp_path, kind):
    one = kinds[kind]
    path = tmp_path / one.name
    path.write_bytes(b"\n\n" + one.data + b"caf\xe9")
    offset, line = len(one.data) + 5, one.data.count(b"\n") + 3
    with pytest.raises(
        (ConfigError, GameError, TaskError), match=rf"{one.name}: byte 0xe9 at offset {offset} \(line {line}\)"
    ):
        one.read(path)


def test_a_byte_order_mark_inside_concatenated_files_is_removed(tmp_path):
    path = tmp_path / "joined.jsonl"
    lines = [b'{"problem": "1?", "answer": "1"}\n', b'{"problem": "2?", "answer": "2"}\r\n']
    path.write_bytes(b"".join(BOM + line for line in lines))
    assert _problems(path) == ["1", "2"]


def test_a_compressed_file_is_named(tmp_path):
    path = tmp_path / "problems.jsonl.gz"
    path.write_bytes(b"\x1f\x8b\x08\x00")
    with pytest.raises(TextFileError, match=r"problems\.jsonl\.gz: is compressed with gzip; unpack it first"):
        read_text(path)


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 100_000])
def test_a_configuration_beyond_the_parsers_limits_is_an_error_that_names_it(tmp_path, value):
    path = tmp_path / "run.toml"
    path.write_text(f"[run]\nseed = {value}\n")
    with pytest.raises(ConfigError, match=r"run\.toml: not valid TOML"):
        read_file(path)


def test_a_too_deeply_nested_line_is_named(tmp_path):
    path = tmp_path / "problems.jsonl"
    path.write_text('{"problem": ' + "[" * 100_000 + "\n")
    with pytest.raises(ConfigError, match=r"problems\.jsonl, line 1: "):
        _problems(path)


def test_every_byte_of_plain_text_is_kept(tmp_path):
    text = 'a\tb é \u2028 \x85 {"x": 1}\n'
    (tmp_path / "text").write_bytes(text.encode())
    assert read_text(tmp_path / "text") == text
    (tmp_path / "empty").write_bytes(b"")
    assert read_text(tmp_path / "empty") == ""
