"""Problems of a data set that the package `datasets` reads: from a folder, and with a fake package from the Hub."""

import importlib.util
import json

import pytest

from arlarena.environments.tir_math.options import read_options
from arlarena.environments.tir_math.problems import hub
from arlarena.environments.tir_math.problems.sources import problems_of
from arlarena.proto.config import ConfigError

needs_datasets = pytest.mark.skipif(
    importlib.util.find_spec("datasets") is None,
    reason="PACKAGE ABSENT: datasets is not installed, no data set was read (pip install datasets)",
)


def read(**source):
    return problems_of("test", read_options("test", {"tests": {"exam": source}}))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A data set of two splits in a folder; the cache of `datasets` is next to it."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    rows = [
        {
            "id": "a",
            "question": "1+1?",
            "solution": "It is\n#### 2",
            "level": "Level 2",
            "subject": "Sums",
            "year": 2024,
        },
        {
            "id": "b",
            "question": "1/2+1/2?",
            "solution": "So \\boxed{1}.",
            "level": "Level 3",
            "subject": "Sums",
            "year": 2025,
        },
    ]
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (data / "test.jsonl").write_text(json.dumps(rows[0]) + "\n")
    return data


def test_without_datasets_the_error_names_the_package(monkeypatch):
    def absent(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(hub, "import_module", absent)
    with pytest.raises(
        ConfigError,
        match="openai/gsm8k: to read this data set, install the package datasets: pip install datasets",
    ):
        read(name="openai/gsm8k", config="main", problem="question")


class Stored(list):
    """The used part of the result of `load_dataset`."""

    def __init__(self, rows):
        super().__init__(rows)
        self.column_names = list(rows[0])


class Package:
    """The used part of the package; it records its calls."""

    def __init__(self, rows):
        self.rows, self.asked = rows, None

    def disable_progress_bars(self):
        pass

    def load_dataset(self, name, config, split, revision):
        self.asked = (name, config, split, revision)
        if isinstance(self.rows, Exception):
            raise self.rows
        return Stored(self.rows)


def packaged(monkeypatch, rows):
    package = Package(rows)
    monkeypatch.setattr(hub, "import_module", lambda name: package)
    return package


def test_name_configuration_split_and_revision_are_passed_on(monkeypatch):
    package = packaged(monkeypatch, [{"problem": "1+1?", "answer": "2"}])
    read(name="some/where", config="main", split="test", revision="v1")
    assert package.asked == ("some/where", "main", "test", "v1")
    read(name="some/where")
    assert package.asked == ("some/where", None, "train", None)


def test_columns_may_have_other_names_and_other_types(monkeypatch):
    packaged(monkeypatch, [{"q": "1+1?", "a": 2, "id": 5, "level": 1.5, "subject": None, "source": ["x"]}])
    problem = read(name="some/where", problem="q", answer="a").problem("exam", 0)
    assert (problem.id, problem.text, problem.answer, problem.level, problem.kind, problem.source) == (
        "5", "1+1?", "2", None, "", "some/where",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"question": "1+1?", "answer": "2"}], "some/where has no column 'problem'; it has question, answer"),
        ([{"problem": "1+1?", "solution": "2"}], "some/where has no column 'answer'"),
        ([{"problem": "1+1?", "answer": "2"}, {"problem": "1+2?", "answer": None}], "some/where, train row 1: .*null"),
        ([{"problem": "", "answer": "2"}], "some/where, train row 0: the problem is empty"),
        (ConnectionError("no way to the hub"), "some/where: ConnectionError: no way to the hub"),
    ],
)
def test_a_data_set_that_cannot_be_used_is_named(monkeypatch, rows, message):
    packaged(monkeypatch, rows)
    with pytest.raises(ConfigError, match=f"^test train or tests: {message}"):
        read(name="some/where")


@needs_datasets
def test_a_folder_is_read(folder):
    problems = read(name=str(folder), problem="question", answer="solution")
    found = [problems.problem("exam", index) for index in range(2)]
    assert [(one.id, one.answer, one.level, one.kind) for one in found] == [
        ("a", "2", 2, "Sums"),
        ("b", "1", 3, "Sums"),
    ]
    assert read(name=str(folder), split="test", problem="question", answer="solution").sizes() == {"exam": 1}


@needs_datasets
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"split": "dev"}, "dev"),
        ({"answer": "answers"}, "has no column 'answers'; it has id, question"),
        ({"config": "x"}, "x"),
    ],
)
def test_a_missing_split_or_column_of_a_folder_is_named(folder, source, message):
    with pytest.raises(ConfigError, match=message):
        read(**{"name": str(folder), "problem": "question", "answer": "solution", **source})
