"""Actions, transitions and keys of visits, and the environment's options."""

import json

import msgspec
import pytest
from support.environments.webshop_support import MemoryCatalogue, goals_of, product, shop_environment, small_catalogue

from arlarena.environment.contract import CHECKS
from arlarena.environment.protocols import ExpertUnavailable
from arlarena.environments.webshop.options import read_options
from arlarena.environments.webshop.shop.actions import ShopAction, click, clicks_on, parse_action, search
from arlarena.environments.webshop.shop.goal import Goal
from arlarena.proto.config import ConfigError
from arlarena.proto.env_api import ResetSpec

ODD_OPTIONS = 66  # number of the product with options called like buttons
TWO_AXES = 65  # number of the product with "red" on two axes


def started(index=0, split="train", **options):
    environment = shop_environment(**options)
    return environment.start(environment.task(ResetSpec(split=split, index=index)))


def game_after(*actions, index=0, **options):
    environment = shop_environment(**options)
    game = environment.game(environment.task(ResetSpec(index=index)))
    for action in actions:
        assert game.accepts(action), action
        game.play(action)
    return game


def opened(number, *actions, **options):
    asin = small_catalogue().product(number).asin
    return game_after(f"search[{asin}]", f"click[{asin}]", *actions, **options)


# ---- actions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("search[Red Shoes]", ShopAction("search", "red shoes")),
        ("click[Buy Now] and more", ShopAction("click", "buy now")),
        ("click[a]b]", ShopAction("click", "a]b")),
        ("click[ x ]", ShopAction("click", " x ")),
        ("search[a\nb]", None),
        ("search[a]\nclick[b]", ShopAction("search", "a")),
        ("click[a[b]", None),
        ("click[]]", ShopAction("click", "]")),
        ("click[]", None),
        ("[x]", None),
        ("Search[x]", None),
        (" search[x]", None),
        ("buy[x]", None),
        ("]", None),
        ("", None),
    ],
)
def test_actions_are_read_as_by_the_originals_expression(text, action):
    assert parse_action(text) == action


def test_a_long_text_of_brackets_is_read_in_linear_time():
    assert parse_action("[" * 2_000_000) is None


def test_a_search_for_a_title_with_brackets_can_be_written():
    assert parse_action(search("Lamp [2 Pack]\nnew")) == ShopAction("search", "lamp  2 pack  new")


# ---- transitions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("odd", ["", "two [2", "line\nend", "Upper", "Σίσυφος", "İ"])
def test_only_the_names_that_an_action_can_write_have_clicks(odd):
    names = ["red", "size] 4", "ß", "ὀδυσσεύς"]
    assert clicks_on(names) == [f"click[{name}]" for name in names]
    assert all(parse_action(click(name)) == ShopAction("click", name) for name in names)
    assert parse_action(click(odd)) != ShopAction("click", odd)
    assert clicks_on([names[0], odd, *names[1:]]) == clicks_on(names)


def test_a_search_is_possible_on_every_page_and_clears_the_product():
    for actions in ([], ["search[lamp]"], ["search[lamp]", "click[a000000003]", "click[black]", "click[features]"]):
        place = game_after(*actions, "search[tea]").place
        assert (place.page, place.keywords, place.number) == ("results", "tea", 1)
        assert (place.product, place.options) == (None, {})


def test_the_listed_actions_are_the_clicks_and_on_the_search_page_a_search():
    (example,) = game_after().examples()
    assert example == search(game_after().goal.instruction)
    game = opened(3)
    assert list(game.examples()) == game.offered().split("\n")
    assert all(game.accepts(action) for action in game.examples())
    assert game.accepts("search[anything else]")
    game.play("click[buy now]")
    assert game.examples() == []


def test_previous_leads_from_sub_page_to_product_to_results():
    game = opened(3, "click[black]", "click[description]", "click[< prev]")
    assert (game.place.page, game.place.options) == ("item", {"color": "black"})
    game.play("click[< prev]")
    assert (game.place.page, game.place.product, game.place.options) == ("results", None, {})


def test_previous_returns_to_the_same_page_of_results():
    game = game_after("search[home]", "click[next >]", "click[next >]")
    asin = next(name for name in game.page.clickables if name.startswith("a0"))
    game.play(f"click[{asin}]")
    game.play("click[< prev]")
    assert (game.place.page, game.place.number) == ("results", 3)


def test_the_first_page_of_results_has_no_previous_page():
    assert not game_after("search[home]").accepts("click[< prev]")


def test_back_to_search_forgets_the_visited_products():
    game = opened(3, "click[back to search]")
    assert game.state() == game_after().state()


def test_an_option_on_two_axes_is_chosen_on_the_last_one():
    assert opened(TWO_AXES, "click[red]").place.options == {"trim": "red"}


def test_an_option_called_like_a_button_acts_as_the_button():
    assert opened(ODD_OPTIONS, "click[description]").place.sub_page == "description"
    assert opened(ODD_OPTIONS, "click[attributes]").place.sub_page == "attributes"
    assert opened(ODD_OPTIONS, "click[next >]").place.options == {"a": "next >"}
    assert opened(ODD_OPTIONS, "click[buy now]").over
    assert not opened(ODD_OPTIONS).accepts("click[search]")


def test_a_second_choice_on_an_axis_replaces_the_first():
    assert opened(3, "click[black]", "click[light blue]").place.options == {"color": "light blue"}


def test_an_empty_search_finds_nothing():
    game = game_after("search[ ]")
    assert game.text().endswith("Page 1 (Total results: 0) [SEP] Next >")


@pytest.mark.parametrize("action", ["click[buy now]", "nonsense", "search[]", "click[search]"])
def test_an_invalid_action_changes_nothing_and_is_marked(action):
    episode = started()
    before = episode.observe()
    result = episode.step(f"<think>x</think><action>{action}</action>")
    assert (result.observation.action_valid, result.observation.format_valid, result.reward) == (False, True, 0.0)
    assert result.observation.text == before.observation.text
    assert result.metadata.state_key == before.metadata.state_key


def test_a_purchase_ends_the_episode_with_the_reward_of_success_alone():
    episode = started()
    results = [episode.step(text) for text in episode.expert()]
    assert [result.reward for result in results] == [0.0] * (len(results) - 1) + [10.0]
    last = results[-1]
    assert (last.metadata.score, last.metadata.success, last.observation.terminated) == (1.0, True, True)
    other = started()
    for text in ("search[home]", "click[a000000001]", "click[buy now]"):
        result = other.step(text)
    assert (result.reward, result.metadata.success, result.done) == (0.0, False, True)
    assert 0 < result.metadata.score < 1


# ---- keys, prompts, options ------------------------------------------------------------------------------------------


def test_states_are_equal_whatever_the_order_of_choices():
    one, other = opened(3, "click[black]", "click[small]"), opened(3, "click[small]", "click[black]")
    assert one.state() == other.state()
    assert one.state() != opened(3, "click[black]").state()


@pytest.mark.parametrize(("form", "equal"), [("text", True), ("rich", False)])
def test_visited_products_are_part_of_the_state_where_pages_show_them(form, equal):
    visited = game_after("search[home]", "click[a000000003]", "click[< prev]", observation=form)
    fresh = game_after("search[home]", observation=form)
    assert (visited.state() == fresh.state()) == equal
    assert (visited.text() == fresh.text()) == equal


def test_equal_states_have_equal_texts_and_a_copy_is_independent():
    game = opened(3, "click[black]")
    twin = game.copy()
    game.play("click[buy now]")
    assert game.over
    assert not twin.over
    assert twin.text() == opened(3, "click[black]").text()


def test_the_content_key_depends_on_product_and_options_alone():
    catalogue = small_catalogue()
    goals = catalogue.goals["train"]
    goals.append(msgspec.structs.replace(goals[0], instruction="other words", price_upper=50.0))
    environment = shop_environment(catalogue)
    keys = [environment.game(environment.task(ResetSpec(index=index))).content_key for index in range(len(goals))]
    assert keys[0] == keys[-1]
    assert len(set(keys)) == len(keys) - 1


def test_the_prompt_has_the_instruction_once_and_the_last_two_turns():
    for template in ("full", "compact"):
        episode = started(template=template)
        for action in ("search[lamp]", "click[a000000003]", "click[black]"):
            prompt = episode.step(action).observation.prompt
        assert prompt.count(episode.observe().observation.text.split(" [SEP] ")[1]) == 1
        assert "Your action: click[black]" in prompt
        assert "search[lamp]" not in prompt
        assert "\nclick[buy now]" in prompt


def test_the_search_page_offers_a_search_and_other_pages_their_valid_clicks():
    assert game_after().offered() == "search[<your query>]"
    game = opened(68)  # its options have empty names, brackets and line ends
    offered = game.offered().split("\n")
    assert all(game.accepts(action) for action in offered)
    assert "click[b]c]" in offered
    assert len(offered) < len(game.page.clickables)


def test_a_catalogue_of_one_product_can_be_played():
    only = product(0)
    goals = goals_of([only])
    catalogue = MemoryCatalogue([only], {"train": goals[:1], "validation": goals[1:], "test": []})
    environment = shop_environment(catalogue)
    episode = environment.start(environment.task(ResetSpec(index=0)))
    assert [episode.step(text) for text in episode.expert()][-1].metadata.success


def test_the_expert_says_that_a_search_does_not_find_the_product():
    catalogue = small_catalogue()
    number = len(catalogue.products)
    catalogue.products.append(product(number, title="\u2615"))
    catalogue.goals["train"][0] = Goal(number, "x", ["x"], [], 10.0)
    environment = shop_environment(catalogue)
    with pytest.raises(ExpertUnavailable, match="does not score 1"):
        environment.start(environment.task(ResetSpec(index=0))).expert()


@pytest.mark.parametrize("form", ["text", "rich"])
@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_the_environment_fulfils_the_contract(check, form):
    check(shop_environment(observation=form, show_score=True))


def test_a_misspelt_option_is_named():
    with pytest.raises(ConfigError, match="observation"):
        read_options("FILE: [environment.options]", {"observation": "html"})
    with pytest.raises(ConfigError, match="goal"):
        read_options("FILE: [environment.options]", {"goal": "human"})


def test_the_info_can_be_sent():
    info = shop_environment().info
    assert info.horizon == 15
    assert [split.name for split in info.splits] == ["train", "validation", "test"]
    assert json.loads(msgspec.json.encode(info))["data"]["description"] == "made by a test"
