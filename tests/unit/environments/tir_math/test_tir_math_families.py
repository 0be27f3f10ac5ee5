"""Generated problems: reproducible, in one split each, solved by their expert programs, and following options."""

import contextlib
import io
import itertools
import json
import os
import subprocess
import sys
import time
from collections import Counter

import pytest

from arlarena.environment.protocols import TaskError
from arlarena.environments.tir_math.errors import ProblemsError
from arlarena.environments.tir_math.judge.arithmetic import evaluate
from arlarena.environments.tir_math.problems import families as module
from arlarena.environments.tir_math.problems import gym
from arlarena.environments.tir_math.problems.catalogue import FAMILIES
from arlarena.environments.tir_math.problems.families import SPLITS, GeneratedProblems, split_of

ASKED = {
    "count_primes", "prime_factorization", "products", "base_conversion", "polynomial_equations", "advanced_geometry",
    "countdown", "gcd", "lcm",
}  # fmt: skip
SLOW = {"polynomial_equations": 30, "advanced_geometry": 60}  # number of problems checked; 150 in other families


GOLDEN = [
    ("lcm", "23072504"),
    ("advanced_geometry", "13.67°"),
    ("bitwise_arithmetic", "0x5702cbe3"),
    ("prime_factorization", "523 \u00d7 593"),
    ("gcd", "6"),
    ("dice", "721/2400"),
    ("count_primes", "548"),
    ("base_conversion", "5227a"),
]


class AnyKey(set):
    """A set that contains everything."""

    def __contains__(self, key):
        return True


def made(name=None, panel_size=256, **options):
    return GeneratedProblems({name: options} if name else None, panel_size)


@pytest.fixture(scope="module")
def mix():
    return made()


def outcome(program):
    """A program's output and run time. Expert programs are trusted, so no sandbox is needed."""
    printed, start = io.StringIO(), time.process_time()
    with contextlib.redirect_stdout(printed):
        exec(compile(program, "<expert>", "exec"), {"__name__": "__main__"})
    return printed.getvalue(), time.process_time() - start


def test_all_required_families_exist():
    assert set(FAMILIES) > ASKED


@pytest.mark.parametrize("name", FAMILIES)
def test_the_expert_of_a_family_finds_the_answer_of_every_problem(name):
    problems = made(name)
    for index in range(SLOW.get(name, 150)):
        problem = problems.problem("train", index)
        printed, seconds = outcome(problem.expert)
        answer = printed.strip()
        assert problem.right(answer), (problem, printed)
        assert answer.isascii(), "a sandbox without a locale prints it too"
        assert len(answer) <= 512, "what the environment shows of an output"
        assert seconds < 5
        assert problem.expert.count("\n") <= 16


@pytest.mark.parametrize("name", FAMILIES)
def test_the_gold_answer_is_right_and_another_answer_is_wrong(name):
    problems = made(name)
    drawn = [problems.problem("train", index) for index in range(20)]
    for problem in drawn:
        assert problem.right(problem.answer), problem
        assert not problem.right("I do not know")
        assert not problem.right("")
        assert not problem.right(problem.text)
    other = sum(one.right(two.answer) for one in drawn for two in drawn if one.key != two.key)
    assert other <= (60 if name == "gcd" else 20), "of 380"


LONG = {"polynomial_equations", "advanced_geometry"}  # eight seconds each


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in FAMILIES]
)
def test_the_splits_of_a_family_are_disjoint_in_content_and_text(name):
    problems, count = made(name), SLOW.get(name, 150) // 3
    drawn = {split: [problems.problem(split, index) for index in range(count)] for split in SPLITS}
    for split, found in drawn.items():
        assert {split_of(problem.key) for problem in found} == {split}
    texts = {split: {problem.text for problem in found} for split, found in drawn.items()}
    for one, two in itertools.combinations(SPLITS, 2):
        assert not texts[one] & texts[two]
    for split in ("validation", "test"):
        assert len({problem.key for problem in drawn[split]}) == count


def test_the_same_question_in_other_words_has_the_same_content():
    """Countdown has three wordings and numbers in any order for one problem."""
    family = FAMILIES["countdown"]
    assert family.content({"numbers": [3, 4, 5], "target": 60}) == family.content({"numbers": [5, 3, 4], "target": 60})
    polynomial = FAMILIES["polynomial_equations"]
    one, two = ({"variable": name, "polynomial_expr": f"3*{name}**2 - 4"} for name in "ah")
    assert polynomial.content(one) == polynomial.content(two)
    triangle = {"A": ("0", "0"), "B": ("1", "2"), "C": ("3", "1"), "task_type": "orthocenter"}
    turned = {**triangle, "A": triangle["B"], "B": triangle["A"]}
    geometry = FAMILIES["advanced_geometry"]
    assert geometry.content(triangle) == geometry.content(turned)
    assert geometry.content({**triangle, "task_type": "angle_measure"}) != geometry.content(
        {**turned, "task_type": "angle_measure"}
    )


def test_evaluation_splits_have_a_size_and_training_has_none(mix):
    assert mix.sizes() == {"train": None, "validation": 256, "test": 256}
    assert made(panel_size=7).sizes() == {"train": None, "validation": 7, "test": 7}


PROGRAM = """
import json, sys
from arlarena.environments.tir_math.problems.families import GeneratedProblems
problems = GeneratedProblems(None, 256)
wanted = json.loads(sys.argv[1])
print(json.dumps([[p.id, p.text, p.answer, p.expert] for p in (problems.problem(*one) for one in wanted)]))
"""


def test_an_index_gives_the_same_problem_in_any_order_and_process(mix):
    wanted = [("test", 5), ("train", 10**9), ("train", 3), ("validation", 2), ("test", 0), ("train", 0)]
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    command = [sys.executable, "-c", PROGRAM, json.dumps(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    here = [mix.problem(*one) for one in reversed(wanted)][::-1]
    assert json.loads(done.stdout) == [[p.id, p.text, p.answer, p.expert] for p in here]


def test_problems_do_not_change_between_versions(mix):
    """If an index gets another problem, runs are not comparable: raise MAKER_VERSION and note it in the changelog."""
    found = [mix.problem("test", index) for index in range(8)]
    assert [(problem.kind, problem.answer) for problem in found] == GOLDEN


def test_the_mix_has_every_family_by_its_weight(mix):
    drawn = Counter(mix.problem("train", index).kind for index in range(500))
    total = sum(family.weight for family in FAMILIES.values())
    for name, family in FAMILIES.items():
        expected = 500 * family.weight / total
        assert abs(drawn[name] - expected) < 5 * expected**0.5, (name, drawn[name], expected)


def test_weights_can_be_set():
    problems = GeneratedProblems({"gcd": {"weight": 9}, "lcm": {"weight": 1}}, 16)
    drawn = Counter(problems.problem("train", index).kind for index in range(500))
    assert set(drawn) == {"gcd", "lcm"}
    assert 400 < drawn["gcd"] < 500


def test_a_problem_takes_milliseconds():
    problems = made()
    problems.problem("train", 0)
    start = time.process_time()
    for index in range(1, 201):
        problems.problem("train", index)
    assert (time.process_time() - start) / 200 < 0.03  # 2.4 ms on an idle machine


def test_options_reach_the_generator():
    numbers = [made("count_primes", max_n=300).problem("train", index) for index in range(50)]
    assert all(int(word) <= 300 for problem in numbers for word in problem.text.split() if word.isdigit())
    plus = made("countdown", operators=["+"], min_numbers=3, max_numbers=3, min_target=10)
    for index in range(20):
        value, used = evaluate(plus.problem("train", index).answer)
        assert len(used) == 3
        assert value == sum(used)


def test_other_options_give_other_problems():
    one, two = made("gcd"), made("gcd", max_value=999)
    assert [one.problem("train", index).text for index in range(5)] != [
        two.problem("train", index).text for index in range(5)
    ]


@pytest.mark.parametrize(
    ("families", "message"),
    [
        ({"count_prime": {}}, "unknown family 'count_prime'; did you mean 'count_primes'"),
        ({"sudoku": {}}, "unknown family 'sudoku'; known: advanced_geometry, "),
        ({"count_primes": {"max": 3}}, "count_primes: unknown option 'max'; did you mean 'max_n'"),
        ({"count_primes": {"seed": 3}}, "count_primes: unknown option 'seed'"),
        ({"count_primes": {"max_n": "many"}}, "count_primes: max_n = 'many': Input should be a valid integer"),
        ({"count_primes": {"max_n": 10**9}}, "count_primes: max_n = 1000000000: must be at most 1000000"),
        ({"count_primes": {"min_n": 5, "max_n": 4}}, "count_primes: min_n must be less than or equal to max_n"),
        ({"gcd": {"min_numbers": 1}}, "gcd: min_numbers must be at least 2"),
        ({"gcd": {"weight": 0}}, "gcd: weight = 0: must be a number above 0"),
        ({"gcd": {"weight": "x"}}, "gcd: weight = 'x'"),
        ({"gcd": {"weight": True}}, "gcd: weight = True"),
        ({"advanced_geometry": {"task_types": ["circle"]}}, "these options give no problem: Unknown task_type: circle"),
        ({"countdown": {"operators": ["^"]}}, "countdown: invalid operator specified"),
        ({"countdown": {"max_value": 2, "operators": ["+"]}}, "countdown: these options give no problem"),
        ({"prime_factorization": {"max_value": 10**11}}, "at most 10000000000"),
        ({}, "families is empty; known: "),
    ],
)
def test_impossible_options_are_refused(families, message):
    with pytest.raises(ProblemsError) as refused:
        GeneratedProblems(families, 256)
    assert message in str(refused.value)


def test_a_family_with_too_few_problems_for_a_split_is_an_error():
    problems, found = made("count_primes", max_n=10, panel_size=50), []

    def draw_all():
        for index in range(50):
            found.append(problems.problem("test", index).key)

    with pytest.raises(
        TaskError, match=r"count_primes has no further problem for test/\d+ in 2000 attempts: either widen"
    ):
        draw_all()
    assert 5 <= len(found) == len(set(found))


def test_without_reasoning_gym_the_error_names_the_package(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == gym.PACKAGE]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(gym.util, "find_spec", lambda name: None)
    with pytest.raises(
        ProblemsError, match=r"reasoning-gym is not installed: pip install --no-deps reasoning-gym==0\.1\.25"
    ):
        made("gcd")


def test_only_the_needed_modules_of_reasoning_gym_are_imported():
    program = (
        "import json, sys\n"
        "from arlarena.environments.tir_math.problems.families import GeneratedProblems\n"
        "GeneratedProblems(None, 4).problem('train', 0)\n"
        "print(json.dumps(sorted(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert {f"reasoning_gym.{family.module}" for family in FAMILIES.values()} <= loaded
    assert not loaded & {"matplotlib", "pycosat", "cellpylib", "reasoning_gym.composite", "torch"}


def test_trivial_problems_are_not_used():
    gcds = [made("gcd").problem("train", index).answer for index in range(100)]
    assert min(map(int, gcds)) > 2
    roots = [made("polynomial_equations").problem("train", index).answer for index in range(20)]
    assert "0.0" not in roots
    assert "" not in roots


def test_drawing_stops_after_the_maximum_of_drafts(monkeypatch):
    problems = made("gcd")
    monkeypatch.setattr(module, "MAX_DRAFTS", 3)
    with pytest.raises(TaskError, match="in 3 attempts"):
        problems.draw("test", 0, AnyKey())
