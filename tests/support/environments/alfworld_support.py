"""A hand-written house of ALFWorld.

    loc_0  start of the player
    loc_1  countertop 1 (with apple 2 and mug 1), and drawer 1 (closed, with knife 1)
    loc_2  fridge 1 (closed, with apple 1, which is cool)
    loc_3  microwave 1 (closed)
    loc_4  sinkbasin 1
    loc_5  desk 1 (with desklamp 1)

Apple_bar_1 has the name "apple 2", and Apple_bar_2 has the name "apple 1".
"""

from arlarena.environments.alfworld.engine.domain import DOMAIN, GRAMMAR
from arlarena.environments.alfworld.engine.game import Game, read_rules

PICK = (
    "(exists (?r - receptacle ?o - object) "
    "(and (objectType ?o AppleType) (receptacleType ?r SinkBasinType) (inReceptacle ?o ?r)))"
)
FACTS = """
(atLocation agent1 loc_0)
(receptacleAtLocation CounterTop_bar_1 loc_1) (receptacleType CounterTop_bar_1 CounterTopType)
(receptacleAtLocation Drawer_bar_1 loc_1) (receptacleType Drawer_bar_1 DrawerType) (openable Drawer_bar_1)
(receptacleAtLocation Fridge_bar_1 loc_2) (receptacleType Fridge_bar_1 FridgeType) (openable Fridge_bar_1)
(receptacleAtLocation Microwave_bar_1 loc_3) (receptacleType Microwave_bar_1 MicrowaveType) (openable Microwave_bar_1)
(receptacleAtLocation Sink_bar_1_bar_SinkBasin loc_4) (receptacleType Sink_bar_1_bar_SinkBasin SinkBasinType)
(receptacleAtLocation Desk_bar_1 loc_5) (receptacleType Desk_bar_1 DeskType)
(canContain CounterTopType AppleType) (canContain CounterTopType KnifeType) (canContain CounterTopType MugType)
(canContain DrawerType KnifeType) (canContain DrawerType MugType)
(canContain FridgeType AppleType) (canContain FridgeType MugType)
(canContain MicrowaveType AppleType) (canContain MicrowaveType MugType)
(canContain SinkBasinType AppleType) (canContain SinkBasinType MugType)
(canContain DeskType MugType)
(objectType Apple_bar_1 AppleType) (inReceptacle Apple_bar_1 CounterTop_bar_1) (objectAtLocation Apple_bar_1 loc_1)
(objectType Apple_bar_2 AppleType) (inReceptacle Apple_bar_2 Fridge_bar_1) (objectAtLocation Apple_bar_2 loc_2)
(pickupable Apple_bar_1) (cleanable Apple_bar_1) (heatable Apple_bar_1) (coolable Apple_bar_1) (sliceable Apple_bar_1)
(pickupable Apple_bar_2) (cleanable Apple_bar_2) (heatable Apple_bar_2) (coolable Apple_bar_2) (isCool Apple_bar_2)
(objectType Mug_bar_1 MugType) (inReceptacle Mug_bar_1 CounterTop_bar_1) (objectAtLocation Mug_bar_1 loc_1)
(pickupable Mug_bar_1) (isReceptacleObject Mug_bar_1) (cleanable Mug_bar_1)
(objectType Knife_bar_1 KnifeType) (inReceptacle Knife_bar_1 Drawer_bar_1) (objectAtLocation Knife_bar_1 loc_1)
(pickupable Knife_bar_1)
(objectType DeskLamp_bar_1 DeskLampType) (toggleable DeskLamp_bar_1)
(inReceptacle DeskLamp_bar_1 Desk_bar_1) (objectAtLocation DeskLamp_bar_1 loc_5)
"""
OBJECTS = """
agent1 - agent
loc_0 loc_1 loc_2 loc_3 loc_4 loc_5 - location
CounterTop_bar_1 Drawer_bar_1 Fridge_bar_1 Microwave_bar_1 Sink_bar_1_bar_SinkBasin Desk_bar_1 - receptacle
Apple_bar_1 Apple_bar_2 Mug_bar_1 Knife_bar_1 DeskLamp_bar_1 - object
AppleType MugType KnifeType ButterKnifeType DeskLampType - otype
CounterTopType DrawerType FridgeType MicrowaveType SinkBasinType DeskType - rtype
"""


def tiny_problem(goal=PICK, more="", without=()):
    """Return the house in PDDL, with the facts `more` and without the facts `without`."""
    facts = FACTS
    for fact in without:
        assert fact in facts
        facts = facts.replace(fact, "")
    return f"(define (problem tiny) (:domain alfred) (:objects {OBJECTS}) (:init {facts}{more}) (:goal {goal}))"


def tiny_rules(goal=PICK, more="", without=(), domain=DOMAIN, grammar=GRAMMAR):
    """Return the rules of the house in our engine."""
    return read_rules(domain, grammar, tiny_problem(goal, more, without))


def tiny_game(goal=PICK, more="", without=(), domain=DOMAIN, grammar=GRAMMAR):
    """Return a new game in the house."""
    return Game(tiny_rules(goal, more, without, domain, grammar))


def typed(game, *commands):
    """Play commands, which must be admissible. Return the responses."""
    answers = []
    for command in commands:
        assert command in game.commands, f"{command!r} is not admissible: {list(game.commands)}"
        answers.append(game.play(command))
    return answers
