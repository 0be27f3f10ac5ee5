"""Reading PDDL: what is read, and what is said of what cannot be."""

import pytest

from arlarena.environments.alfworld.engine.pddl import read_expressions, read_problem, typed
from arlarena.environments.alfworld.errors import GameError

WHOLE = "(define (problem p) (:domain d) (:objects a b - thing) (:init (on A b) (= (cost) 0)) (:goal (and (on b a))))"


def test_expressions_are_nested_lists_of_lower_case_words_without_comments():
    assert read_expressions("(Define (x ?Y)) ; a comment (\n two") == [["define", ["x", "?y"]], "two"]
    assert read_expressions("") == []


def test_a_problem_has_objects_facts_and_a_goal():
    problem = read_problem(WHOLE)
    assert problem.objects == {"a": "thing", "b": "thing"}
    assert problem.facts == {("on", "a", "b")}, "costs are no facts"
    assert problem.goal == ["and", ["on", "b", "a"]]


def test_names_come_in_groups_with_their_type():
    assert list(typed(read_expressions("a b - x c - y d"))) == [("a", "x"), ("b", "x"), ("c", "y"), ("d", "object")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(define", "1 parentheses are not closed: the text may be truncated"),
        ("(define (problem p) (:objects", "2 parentheses are not closed"),
        ("(define))", "a closing parenthesis has no opening parenthesis"),
        ("", r"one \(define …\) is expected, but there are 0"),
        (WHOLE + WHOLE, r"one \(define …\) is expected, but there are 2"),
        (WHOLE.replace(":objects", ":things"), "it has no :objects"),
        (WHOLE.replace(":init", ":facts"), "it has no :init"),
        (WHOLE.replace(":goal", ":aim"), "it has no :goal"),
        (WHOLE.replace("(:goal", "(:goal (on a b)"), ":goal must be one expression"),
        (WHOLE.replace("(on A b)", "(on A c)"), r"\(on …\) has the argument 'c', which is not in :objects"),
        (WHOLE.replace("(on A b)", "on"), "'on' in :init is not a fact"),
        (WHOLE.replace("(on A b)", "()"), "in :init is not a fact"),
        (WHOLE.replace("(on A b)", "(not (on a b))"), r"\['not', \['on', 'a', 'b'\]\] in :init is not a fact"),
        (WHOLE.replace("b - thing", "b -"), "a type is missing after '-'"),
        (WHOLE.replace("b - thing", "(b) - thing"), r"a name is expected, but there is \['b'\]"),
    ],
)
def test_a_broken_grammar_is_refused_with_the_reason(text, message):
    with pytest.raises(GameError, match=message):
        read_problem(text)
