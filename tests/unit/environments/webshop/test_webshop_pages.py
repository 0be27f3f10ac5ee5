"""Pages and clickables beside an independent rendering: HTML, BeautifulSoup, and the original's conversion."""

import random

import pytest
from support.environments.webshop.pair import Pair, play_all_pages, play_random_visits
from support.environments.webshop_support import shop_environment

from arlarena.proto.env_api import ResetSpec

FORMS = ("text", "rich")


@pytest.mark.parametrize("form", FORMS)
def test_pages_of_random_visits_equal_the_reference(form):
    play_random_visits(form, random.Random(form), 220)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("number", range(60, 72))
def test_all_pages_of_an_odd_product_equal_the_reference(form, number):
    play_all_pages(form, number)


def test_the_first_page_is_the_documented_one():
    pair = Pair("text")
    goal = pair.game.goal.instruction
    assert pair.game.text() == f"WebShop [SEP] Instruction: [SEP] {goal} [SEP] Search"
    pair.play("search[home]")
    assert pair.game.text().startswith(
        f"Instruction: [SEP] {goal} [SEP] Back to Search [SEP] Page 1 (Total results: 50) [SEP] Next > [SEP] A000000000"
    )


def test_a_page_behind_the_last_is_empty_and_leads_back():
    pair = Pair("text")
    pair.play("search[home]")
    for _ in range(998):
        assert pair.game.play("click[next >]") == 0.0
    assert pair.game.text().endswith("Page 999 (Total results: 50) [SEP] < Prev [SEP] Next >")
    pair.game.play("click[< prev]")
    assert "Page 998 " in pair.game.text()


def test_clicked_options_and_visited_products_are_marked_in_rich_pages():
    pair = Pair("rich")
    for action in ("search[home]", "click[a000000003]", "click[black]", "click[small]"):
        pair.play(action)
    text = pair.game.text()
    assert text.startswith("You have clicked small.\nYou have clicked black.\nInstruction:\n")
    assert "  [clicked button] black [clicked button_]\n" in text
    pair.play("click[< prev]")
    assert "\n\n[clicked button] A000000003 [clicked button_]\n" in pair.game.text()
    assert "[clicked button] A000000004" not in pair.game.text()


def test_the_page_after_a_purchase_shows_the_parts_of_the_score_on_request():
    environment = shop_environment(show_score=True)
    game = environment.game(environment.task(ResetSpec(index=0)))
    for action in ("search[home]", "click[a000000003]", "click[buy now]"):
        game.play(action)
    assert game.purchase is not None
    assert "'r_type': " in game.text()
    assert f"[SEP] {game.purchase.total} [SEP] Reward Details [SEP] {{'" in game.text()
