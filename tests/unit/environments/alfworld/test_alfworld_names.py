"""Names of things."""

from arlarena.environments.alfworld.engine.names import kind_of, names_of


def test_the_first_thing_of_a_kind_by_id_has_the_highest_number():
    ids = ["apple_bar_2", "apple_bar_1", "apple_bar_3", "mug_bar_9"]
    assert names_of(ids) == {
        "apple_bar_1": "apple 3",
        "apple_bar_2": "apple 2",
        "apple_bar_3": "apple 1",
        "mug_bar_9": "mug 1",
    }


def test_ids_are_ordered_as_text():
    assert names_of(["egg_bar_10", "egg_bar_9"]) == {"egg_bar_10": "egg 2", "egg_bar_9": "egg 1"}
    assert names_of(["egg_bar__plus_1", "egg_bar__minus_1"]) == {
        "egg_bar__minus_1": "egg 2",
        "egg_bar__plus_1": "egg 1",
    }


def test_a_repeated_id_is_one_thing():
    assert names_of(["egg_bar_1", "egg_bar_1"]) == {"egg_bar_1": "egg 1"}


def test_basins_are_not_what_they_are_the_basins_of():
    ids = ["sink_bar_1", "sink_bar_1_bar_sinkbasin", "bathtub_bar_1_bar_bathtubbasin"]
    assert names_of(ids) == {ids[0]: "sink 1", ids[1]: "sinkbasin 1", ids[2]: "bathtubbasin 1"}
    assert kind_of("sink_bar_1_bar_sinkbasin") == "sinkbasin"


def test_what_is_no_thing_keeps_its_id_and_a_space():
    assert names_of(["agent1", "appletype"]) == {"agent1": "agent1 ", "appletype": "appletype "}
    assert kind_of("agent1") is None
