"""A person plays Sokoban and WebShop with the keyboard, and goes on from a turn of a recorded episode."""

import json

import pytest
from support.console.page_browser_support import checked_tab
from support.console.page_support import make_run, page_server

from arlarena.environments.sokoban.game import start_of
from arlarena.environments.sokoban.room import Room
from arlarena.environments.sokoban.solver import least_moves
from arlarena.environments.webshop.environment import load
from arlarena.proto.env_api import ResetSpec

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]  # environment servers start: 20 s
# The server looks for new runs when it lists them.
INDEXED = """fetch('api/runs').then(reply => reply.json())
    .then(found => found.runs.some(run => run.id === 'played' && run.index.episodes === 1))"""
KEYS = {"up": "ArrowUp", "down": "ArrowDown", "left": "ArrowLeft", "right": "ArrowRight"}
SHOP = {"products": 300, "evaluation_goals": 8, "max_steps": 12}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A server with a run of WebShop. Yields (page server, folder)."""
    folder = tmp_path_factory.mktemp("play")
    run = make_run(folder / "webshop")
    options = "".join(f"{key} = {value}\n" for key, value in SHOP.items())
    (run / "config.toml").write_text(f'[environment]\nname = "webshop"\n[environment.options]\n{options}')
    with page_server([run], folder) as server:
        yield server, folder


def start(page, query):
    tab = page.open(f"play?{query}", ".play-form")
    tab.get_by_role("button", name="Start").click()
    tab.wait_for_selector(".play-grid")
    return tab


def test_sokoban_is_played_with_the_arrow_keys_and_continued_from_a_turn(page, site):
    server, folder = site
    tab = start(page, "environment=sokoban&index=2")
    tab.wait_for_selector(".board")
    seen = tab.locator("pre.text").first.text_content()
    grid = "\n".join(line for line in seen.splitlines() if line.startswith("#"))
    room = Room.parse(grid)
    moves = least_moves(room, start_of(room)).moves
    for number, move in enumerate(moves):
        tab.keyboard.press(KEYS[move])
        tab.wait_for_selector(f".log li:nth-child({number + 1})")
    tab.wait_for_selector("text=Solved")
    line = json.loads((folder / "played" / "episodes.jsonl").read_text().splitlines()[-1])
    assert (line["success"], [each["action"] for each in line["turns"]]) == (True, list(moves))
    page.wait_for(INDEXED)
    episode = server.ok("/api/runs/played/episodes")["episodes"][0]["id"]
    page.open(f"episode/played/{episode}/1", "main[data-turn='1']")
    tab.keyboard.press("p")
    tab.wait_for_selector("text=1 turn replayed, same state")
    assert tab.locator(".log").count() == 0
    tab.keyboard.press(KEYS[moves[1]])
    tab.wait_for_selector(".log li")
    assert tab.locator(".log code").inner_text() == moves[1]


def test_webshop_is_played_with_the_keyboard(page, monkeypatch):
    monkeypatch.delenv("WEBSHOP_DATA", raising=False)
    tab = start(page, "run=webshop&index=2")
    game = load("test", SHOP)
    shop = game.game(game.task(ResetSpec(split="test", index=2)))
    tab.wait_for_selector(".shop-search")
    assert tab.evaluate("document.activeElement.className") == "shop-search"
    tab.keyboard.type(shop.wanted.title)
    tab.keyboard.press("Enter")
    tab.wait_for_selector(f".shop button:has-text('{shop.wanted.asin}')")
    for label in (shop.wanted.asin, *(value for _, value in shop.goal.options), "Buy Now"):
        turn = tab.locator(".log li").count()
        tab.get_by_role("button", name=label, exact=False).first.focus()
        tab.keyboard.press("Enter")
        tab.wait_for_selector(f".log li:nth-child({turn + 1})")
    tab.wait_for_selector("text=Score 1.00")


def test_playing_can_be_disabled(browser, tmp_path):
    make_run(tmp_path / "run")
    with (
        page_server([tmp_path / "run"], tmp_path, play=False) as server,
        checked_tab(browser, f"http://127.0.0.1:{server.port}") as page,
    ):
        tab = page.open("play", "main[data-ready]")
        assert "Playing is disabled." in tab.locator(".state").inner_text()
