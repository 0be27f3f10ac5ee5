"""The language of a game's texts: parsing, derivation and errors."""

import json

import pytest

from arlarena.environments.alfworld.engine.domain import GRAMMAR
from arlarena.environments.alfworld.engine.grammar import answers, read_grammar
from arlarena.environments.alfworld.errors import GameError

NAMES = ("you", "box", "egg", "jar", "pan")


class Facts:
    """Facts by predicate; entities are indices of NAMES."""

    def __init__(self, **rows):
        self._rows = {name: sorted(found) for name, found in rows.items()}

    def holds(self, predicate, values):
        return values in self._rows.get(predicate, [])

    def rows(self, predicate, pattern):
        for row in self._rows.get(predicate, []):
            if all(p is None or p == value for p, value in zip(pattern, row, strict=True)):
                yield row

    def name(self, entity):
        return NAMES[entity]


SEPARATORS = {
    "list_empty": [{"rhs": "nothing"}],
    "list_separator": [{"rhs": ", "}],
    "list_last_separator": [{"rhs": ", and "}],
}


def written(rules, actions=""):
    block = {"task": [{"rhs": "Do it."}], **SEPARATORS, **rules}
    return f'grammar :: """\n{json.dumps(block)}\n""";\n{actions}'


def text_of(rhs, facts=None, binding=None, **rules):
    grammar, _ = read_grammar(written({"x": [{"rhs": rhs}], **rules}))
    return grammar.derive("x", facts or Facts(), binding or {})


def test_words_rules_and_values():
    assert text_of("plain words") == "plain words"
    assert text_of("a #y# c", y=[{"rhs": "b"}]) == "a b c"
    assert text_of("#y##y#", y=[{"rhs": "b"}]) == "bb"
    assert text_of("{o.name}, {o.indefinite + ' ' + o.name} or {o.definite}", binding={"o": 2}) == "egg, a egg or the"
    assert text_of("{o}", binding={"o": 3}) == "jar"


def test_only_leading_white_space_of_a_text_is_dropped():
    assert text_of("\n  a\n b ") == "a\n b "
    actions = 'action go { template :: " go"; feedback :: "\n gone {o.name} "; }'
    grammar, _ = read_grammar(written({}, actions))
    assert (grammar.command("go", Facts(), {}), grammar.feedback("go", Facts(), {"o": 1})) == ("go", "gone box ")


def test_lists_have_matches_in_the_order_of_ids():
    facts = Facts(inside=[(4, 1), (2, 1), (3, 1)])
    rhs = "In it: [{o.name | inside(o:object, r:receptacle)}]."
    assert text_of(rhs, facts, {"r": 1}) == "In it: egg, jar, and pan."
    assert text_of(rhs, Facts(inside=[(2, 1), (3, 1)]), {"r": 1}) == "In it: egg, and jar."
    assert text_of(rhs, Facts(inside=[(2, 1)]), {"r": 1}) == "In it: egg."
    assert text_of(rhs, facts, {"r": 2}) == "In it: nothing."
    assert text_of("[{#y# | inside(o:object, r:receptacle)}]", facts, {"r": 1}, y=[{"rhs": "<{o.name}>"}]) == (
        "<egg>, <jar>, and <pan>"
    )


def test_the_first_rule_whose_condition_holds_gives_the_text():
    rules = [
        {"condition": "open(r:receptacle) & full(r:receptacle)", "rhs": "both"},
        {"condition": "open(r:receptacle)", "rhs": "open"},
        {"rhs": "neither"},
    ]
    assert text_of("#y#", Facts(open=[(1,)], full=[(1,)]), {"r": 1}, y=rules) == "both"
    assert text_of("#y#", Facts(open=[(1,)], full=[(2,)]), {"r": 1}, y=rules) == "open"
    assert text_of("#y#", Facts(), {"r": 1}, y=rules) == "neither"
    with pytest.raises(GameError, match="no condition of the rules #y# holds"):
        text_of("#y#", Facts(), {"r": 1}, y=rules[:2])


@pytest.mark.parametrize(
    ("rhs", "message"),
    [
        ("#never#", "grammar: no condition of the rules #never# holds"),
        ("#long#" * 20, "grammar: a text is longer than 65536 characters"),
        ("{nobody.name}", "grammar: a text uses the name 'nobody', which the game does not have"),
        ("[{o.name | inside(o:object)}]", "grammar: a condition has a wrong number of variables: "),
    ],
)
def test_the_error_of_a_text_states_the_true_reason(rhs, message):
    never = [{"condition": "open(r:receptacle)", "rhs": ""}]
    with pytest.raises(GameError) as caught:
        text_of(rhs, Facts(inside=[(2, 1)]), {"r": 1}, never=never, long=[{"rhs": "x" * 4000}])
    assert str(caught.value).startswith(message)


def query(text):
    found = []
    grammar, _ = read_grammar(written({"x": [{"condition": text, "rhs": ""}]}))
    found += [rule.condition for rule in grammar.rules["x"]]
    return found[0]


def test_queries_bind_join_and_keep_variables_distinct():
    facts = Facts(at=[(0, 4)], stands=[(1, 4), (2, 4), (3, 3)], inside=[(2, 2), (3, 1)])
    joined = query("at(a:agent, l:place) & stands(r:receptacle, l:place)")
    assert list(answers(facts, joined, {})) == [{"a": 0, "l": 4, "r": 1}, {"a": 0, "l": 4, "r": 2}]
    assert list(answers(facts, joined, {"l": 3})) == []
    assert list(answers(facts, query("inside(o:object, r:receptacle)"), {})) == [{"o": 3, "r": 1}], (
        "2 in 2 is one thing"
    )
    assert list(answers(facts, query("stands(r:receptacle, l:place)"), {"x": 1})) == [{"x": 1, "r": 2, "l": 4}], (
        "1 is taken"
    )


def test_games_share_the_grammar_without_the_task():
    one, task = read_grammar(written({"x": [{"rhs": "y"}]}).replace("Do it.", 'Say \\"é\\".'))
    other, another = read_grammar(written({"x": [{"rhs": "y"}]}))
    assert (task, another) == ('Say "é".', "Do it.")
    assert one.derive("task", Facts(), {}) == task
    assert one.rules["x"] is other.rules["x"]


def test_comments_and_rules_within_actions_are_read():
    block = json.dumps({"go.feedback": [{"rhs": "Gone."}]})
    fields = f'template :: "go"; feedback :: "#go.feedback#"; grammar :: """\n# c\n{block}\n""";'
    actions = f"# a comment\naction Go {{ {fields} }}"
    grammar, _ = read_grammar(written({}, actions))
    assert grammar.feedback("go", Facts(), {}) == "Gone."


def test_the_predicates_of_a_grammar_are_listed():
    assert "not_inreceptacle" in read_grammar(GRAMMAR)[0].predicates


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'one rule "task" with one text is expected, but there are 0'),
        (written({}) + written({}), 'one rule "task" with one text is expected, but there are 2'),
        (written({}).replace(SEPARATORS["list_empty"][0]["rhs"], 'no"thing'), "a block is not a JSON object of rules"),
        (written({"x": [{"rhs": "{o.weight}"}]}), r"\{o.weight\} is not understood"),
        (written({"x": [{"condition": "open(r)", "rhs": ""}]}), r"condition 'open\(r\)' is not understood"),
        (written({"x": [{"rhs": "[{o.name | in the box}]"}]}), "condition ' in the box' is not understood"),
        (written({"x": [{"rhs": "#nowhere#"}]}), "#nowhere# is used, but there is no such rule"),
        (written({}, 'action Go { template :: "go"; }'), "action Go needs a template and a feedback"),
    ],
)
def test_a_broken_grammar_is_refused_with_the_reason(text, message):
    with pytest.raises(GameError, match=message):
        read_grammar(text)
