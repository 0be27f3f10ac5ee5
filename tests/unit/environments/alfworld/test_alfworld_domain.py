"""A game's rules equal those of this engine, or are refused by name."""

import json
import os
import re
from itertools import islice, pairwise
from pathlib import Path

import pytest

from arlarena.environments.alfworld.engine.domain import DOMAIN, check_domain
from arlarena.environments.alfworld.errors import GameError

ACTIONS = {
    "look", "inventory", "help", "examinereceptacle", "examineobject", "gotolocation", "openobject", "closeobject",
    "pickupobject", "putobject", "cleanobject", "heatobject", "coolobject", "toggleobject", "sliceobject",
}  # fmt: skip


def changed(old, new):
    assert old in DOMAIN
    return DOMAIN.replace(old, new)


def test_the_domain_has_the_actions_of_alfworld():
    assert check_domain(DOMAIN) == ACTIONS


def domains():
    """Other texts of the same domain: an altered copy, and those of the official games in ALFWORLD_DATA."""
    actions = DOMAIN[DOMAIN.index("(:action") :].rstrip().removesuffix(")")
    begins = [match.start() for match in re.finditer(r"\(:action", actions)] + [len(actions)]
    parts = [actions[begin:end] for begin, end in pairwise(begins)]
    commented = "\n\n;; an action\n".join(part.replace("\n", "   ; as ALFRED has it\n") for part in reversed(parts))
    made = DOMAIN[: DOMAIN.index("(:action")] + commented + ")\n"
    files = Path(os.environ.get("ALFWORLD_DATA", "absent")).rglob("*.tw-pddl")
    return [made, *(json.loads(path.read_text())["pddl_domain"] for path in islice(files, 20))]


@pytest.mark.parametrize("text", domains(), ids=lambda text: f"{len(text)} characters")
def test_equivalent_domain_texts_are_accepted(text):
    assert len(text) > 1.2 * len(DOMAIN), "it is another text"
    assert check_domain(text) == ACTIONS


def test_layout_comments_case_and_order_do_not_matter():
    assert check_domain(re.sub(r"\s+", " ", re.sub(r";[^\n]*", "", DOMAIN)).upper()) == ACTIONS
    assert (
        check_domain(changed("(openable ?r) (not (opened ?r))", "(not (opened ?r)) ; said later\n (openable ?r)"))
        == ACTIONS
    )
    assert check_domain(changed("(increase (total-cost) 5)", "(increase (total-cost) 7)")) == ACTIONS, (
        "costs are not played"
    )
    assert check_domain(changed("(receptacleType ?r FridgeType)", "(or (receptacleType ?r FridgeType))")) == ACTIONS


def test_an_alternative_that_can_never_hold_does_not_matter():
    never = "(or (exists (?l - location, ?r - receptacle) (and (atLocation ?a ?l) (inReceptacle ?o ?r))) (holds ?a ?o))"
    assert check_domain(changed(":precondition (holds ?a ?o)", f":precondition {never}")) == ACTIONS
    with pytest.raises(GameError, match="action examineobject differs"):
        check_domain(changed(":precondition (holds ?a ?o)", f":precondition {never.replace('location,', 'location')}"))


def test_games_before_alfworld_0_4_have_no_help():
    begin, end = DOMAIN.index("(:action help"), DOMAIN.index("(:action examineReceptacle")
    assert check_domain(DOMAIN[:begin] + DOMAIN[end:]) == ACTIONS - {"help"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("(not (holdsAny ?a)) (inReceptacle", "(inReceptacle", "action pickupobject differs"),
        ("(isHot ?o) (not (isCool ?o))", "(isHot ?o)", "action heatobject differs"),
        ("(objectType ?ko ButterKnifeType)", "(objectType ?ko PanType)", "action sliceobject differs"),
        ("(:action OpenObject", "(:action Unlock", "action unlock is not in ALFWorld"),
        ("(:action look", "(:act look", "action look is missing"),
        ("(define", "(defined", r"no \(define …\)"),
    ],
)
def test_a_changed_rule_is_named(old, new, message):
    with pytest.raises(GameError, match=message) as refused:
        check_domain(changed(old, new))
    assert "define" in message or "textworld" in str(refused.value), "it says what plays such a game"
