"""Problems read from files: parsing of lines, splits, and errors."""

import json

import pytest

from arlarena.environment.protocols import TaskError
from arlarena.environments.tir_math.options import read_options
from arlarena.environments.tir_math.problems.problem import text_key
from arlarena.environments.tir_math.problems.rows import gold_of
from arlarena.environments.tir_math.problems.sources import problems_of
from arlarena.proto.config import ConfigError


@pytest.fixture(autouse=True)
def _no_data(monkeypatch):
    monkeypatch.delenv("TIR_MATH_DATA", raising=False)


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def row(number, **fields):
    return {"id": number, "problem": f"What is {number} + {number}?", "answer": str(2 * number), **fields}


def read(**options):
    if "train" in options:
        options["train"] = str(options["train"])
    return problems_of("test", read_options("test", options))


def all_of(problems, split):
    return [problems.problem(split, index) for index in range(problems.sizes()[split])]


@pytest.fixture
def train(tmp_path):
    file = tmp_path / "train.jsonl"
    file.write_text(lines(*(row(number) for number in range(400))))
    return file


def test_a_row_becomes_a_problem(tmp_path):
    file = tmp_path / "one.jsonl"
    file.write_text(lines(row(7, source="made up", level=5, subject="Algebra", difficulty="ignored")))
    (problem,) = all_of(read(tests={"one": str(file)}), "one")
    assert (problem.id, problem.text, problem.answer) == ("7", "What is 7 + 7?", "14")
    assert (problem.kind, problem.level, problem.source) == ("Algebra", 5, "made up")
    assert (problem.form, problem.expert) == ("math", None)
    assert problem.right("14.0")
    assert not problem.right("15")


def test_only_problem_and_answer_are_needed(tmp_path):
    file = tmp_path / "short.jsonl"
    file.write_text(
        '\n{"problem": " 1+1? ", "answer": 2}\n\n{"problem": "1/2?", "answer": 0.5, "level": "Level 3", "id": "b"}\n'
    )
    one, two = all_of(read(tests={"short": str(file)}), "short")
    assert (one.id, one.text, one.answer, one.kind, one.level, one.source) == (
        "2",
        "1+1?",
        "2",
        "",
        None,
        "short.jsonl",
    )
    assert (two.id, two.answer, two.level) == ("b", "0.5", 3)


@pytest.mark.parametrize(
    ("text", "gold"),
    [
        (" 42 ", "42"),
        ("6 + 6 = 12.\n#### 12", "12"),
        (r"So $x = \boxed{\frac{1}{2}}$, as asked.", r"\frac{1}{2}"),
        (r"\frac{1}{2}", r"\frac{1}{2}"),
        (r"\boxed{", r"\boxed{"),
    ],
)
def test_the_answer_is_extracted_from_a_solution(text, gold):
    assert gold_of(text) == gold


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"answer": "2"}', "missing required field `problem`"),
        ('{"problem": "1+1?"}', "missing required field `answer`"),
        ('{"problem": "", "answer": "2"}', "the problem is empty"),
        ('{"problem": " \\n", "answer": "2"}', "the problem is empty"),
        ('{"problem": null, "answer": "2"}', "Expected `str`, got `null`"),
        ('{"problem": "1+1?", "answer": null}', "got `null`"),
        ('{"problem": "1+1?", "answer": ["2"]}', "got `array`"),
        ('{"problem": "1+1?", "answer": true}', "got `bool`"),
        ('{"problem": "1+1?"', "truncated"),
        ("[1]", "Expected `object`, got `array`"),
        ("What is 1+1?", "malformed"),
    ],
)
def test_a_broken_line_is_named(train, line, message):
    train.write_text(f"{train.read_text()}{line}\n")
    with pytest.raises(ConfigError) as refused:
        read(train=train)
    assert f"{train}, line 401: " in str(refused.value)
    assert message in str(refused.value)


def test_a_file_that_is_not_text_is_named(tmp_path):
    file = tmp_path / "latin.jsonl"
    file.write_bytes(lines(row(1)).encode() + b'{"problem": "\xff", "answer": "1"}\n')
    with pytest.raises(ConfigError, match=r"latin\.jsonl: byte 0xff at offset \d+ \(line 2\) is not UTF-8"):
        read(tests={"latin": str(file)})


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"^test train or tests: .*nowhere\.jsonl: cannot be read: No such file"):
        read(train=tmp_path / "nowhere.jsonl")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read(train=tmp_path)


def test_a_file_without_problems_is_named(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(ConfigError, match=r"empty\.jsonl: it has no problems"):
        read(tests={"empty": str(tmp_path / "empty.jsonl")})


def test_repeated_and_unanswered_problems_are_left_out_and_counted(tmp_path):
    file = tmp_path / "double.jsonl"
    file.write_text(
        lines(
            row(1),
            row(1, id=2),
            {"problem": "  what IS 1+1?\n", "answer": "2"},
            {"problem": "A riddle", "answer": ""},
            {"problem": "Another", "answer": " "},
        )
    )
    problems = read(tests={"double": str(file)})
    assert [problem.id for problem in all_of(problems, "double")] == ["1"]
    assert (problems.left_out.repeated, problems.left_out.unanswered, problems.left_out.tested) == (2, 2, 0)


def test_a_test_problem_is_not_trained_on(train, tmp_path):
    held_out = tmp_path / "exam.jsonl"
    held_out.write_text(lines(row(3), {"problem": "what is  9 + 9 ?", "answer": "18"}, row(1000)))
    problems = read(train=train, tests={"exam": str(held_out)})
    seen = {problem.text for split in ("train", "validation") for problem in all_of(problems, split)}
    assert len(all_of(problems, "exam")) == 3
    assert len(seen) == 398
    assert not seen & {"What is 3 + 3?", "What is 9 + 9?"}
    assert problems.left_out.tested == 2


def test_two_test_files_may_share_problems(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(lines(row(1), row(2)))
    problems = read(tests={name: str(tmp_path / f"{name}.jsonl") for name in ("a", "b")})
    assert problems.sizes() == {"a": 2, "b": 2}


def test_validation_is_a_share_of_the_training_file_by_content(train):
    problems = read(train=train, validation_share=0.25)
    sizes = problems.sizes()
    assert sum(sizes.values()) == 400
    assert 60 < sizes["validation"] < 140
    held_out = {problem.key for problem in all_of(problems, "validation")}
    assert not held_out & {problem.key for problem in all_of(problems, "train")}
    # A problem's split does not depend on the other problems or on their order.
    train.write_text("".join(reversed(train.read_text().splitlines(keepends=True))) + lines(row(5000)))
    again = {problem.key for problem in all_of(read(train=train, validation_share=0.25), "validation")}
    assert held_out <= again
    assert len(again) <= len(held_out) + 1


def test_a_validation_share_of_zero_gives_no_validation_split(train):
    assert read(train=train, validation_share=0).sizes() == {"train": 400}


def test_problems_are_in_the_order_of_the_file(train):
    numbers = [int(problem.id) for problem in all_of(read(train=train), "train")]
    assert numbers == sorted(numbers)


@pytest.mark.parametrize(("split", "index"), [("train", -1), ("train", 10**6), ("nowhere", 0)])
def test_a_missing_problem_is_a_task_error(train, split, index):
    with pytest.raises(TaskError, match=f"no problem {split}/{index}"):
        read(train=train).problem(split, index)


def test_an_empty_training_set_is_refused(train):
    with pytest.raises(ConfigError, match=r"none of its 400 problems is left: 400 that are for training"):
        read(train=train, tests={"all": str(train)})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": {"nam": "x"}}, "did you mean 'name'"),
        ({"train": 7}, "must be the path of a file, or a table with the name of a data set"),
        ({"tests": {"train": "x"}}, "tests.train: the name of a test split"),
        ({"tests": {"a/b": "x"}}, "tests.a/b: the name of a test split"),
        ({"tests": {"a": "x"}, "families": {}}, "families is for generated problems"),
        ({"train": "x", "panel_size": 3}, "panel_size is for generated problems"),
        ({"validation_share": 1}, "validation_share = 1"),
        ({"panel_size": 0}, "panel_size = 0"),
        ({"trian": "x"}, "unknown key 'trian'; did you mean 'train'"),
        ({"families": {"gdc": {}}}, "test families: unknown family 'gdc'; did you mean 'gcd'"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(ConfigError) as refused:
        problems_of("test", read_options("test", options))
    assert message in str(refused.value)


def test_without_files_problems_are_generated():
    assert problems_of("test", read_options("test", {"families": {"gcd": {}}, "panel_size": 3})).sizes() == {
        "train": None,
        "validation": 3,
        "test": 3,
    }


def test_files_as_large_as_math_and_aime(tmp_path):
    rows = [row(number, source="made", level=3 + number % 3, subject="Algebra") for number in range(8519)]
    rows += [rows[17], {**rows[18], "id": 9000}]  # repeated
    rows += [{**row(9001), "answer": ""}, {**row(9002), "answer": " "}]
    (tmp_path / "train.jsonl").write_text(lines(*rows))
    for name in ("aime24", "aime25"):
        tests = ({**row(number), "problem": f"{name}: {number}?"} for number in range(102, 132))
        (tmp_path / f"{name}.jsonl").write_text(lines(*tests))
    problems = read(
        train=tmp_path / "train.jsonl",
        tests={name: str(tmp_path / f"{name}.jsonl") for name in ("aime24", "aime25")},
    )
    sizes = problems.sizes()
    assert (sizes["aime24"], sizes["aime25"]) == (30, 30)
    left_out = problems.left_out
    assert (left_out.repeated, left_out.unanswered, left_out.tested) == (2, 2, 0)
    assert sizes["train"] + sizes["validation"] == 8519
    assert 200 < sizes["validation"] < 320
    assert {problem.level for problem in all_of(problems, "train")} == {3, 4, 5}
    assert all(problem.kind for problem in all_of(problems, "train"))
    assert problems.problem("aime24", 0).answer == "204"


def test_the_key_of_a_text_ignores_only_spaces_and_case():
    assert text_key("Find $x$ .\n") == text_key("find  $X$.")
    assert text_key("x + 1") != text_key("x - 1")


@pytest.mark.parametrize("names", [[], ["aime24.jsonl", "simplerl.jsonl"], ["Train.jsonl"], ["train.json"]])
def test_a_folder_without_a_training_set_is_refused_with_the_fix(tmp_path, monkeypatch, names):
    for name in names:
        (tmp_path / name).write_text(lines(row(1)))
    monkeypatch.setenv("TIR_MATH_DATA", str(tmp_path))
    listed = ", ".join(names) or "nothing"
    with pytest.raises(
        ConfigError, match=rf"has no train\.jsonl \(it has {listed}\): rename the training set to train\.jsonl"
    ):
        read()
    if names:  # files named in the options are still read
        assert read(tests={"one": str(tmp_path / names[0])}).sizes() == {"one": 1}


def test_a_folder_of_problems_that_does_not_exist_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("TIR_MATH_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"TIR_MATH_DATA: .*nowhere: this folder does not exist"):
        read()
