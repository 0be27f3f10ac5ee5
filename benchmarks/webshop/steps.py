"""Compares steps of our shop with those of a shop that renders as the original WebShop does (`flask_shop.py`).

Also measures the memory of a session.

Times are CPU times, because other processes may use the same cores. Neither shop waits for anything.
"""

from __future__ import annotations

import gc
import random
import tracemalloc
from collections import defaultdict
from time import thread_time as _cpu_s
from typing import Any

from arlarena.environments.webshop.environment import WebShopEnvironment
from arlarena.environments.webshop.shop.pages import SEARCH_ACTION
from arlarena.environments.webshop.shop.reward import score_purchase
from arlarena.environments.webshop.shop_game import ShopGame
from arlarena.proto.env_api import ResetSpec
from benchmarks.webshop.flask_shop import FlaskShop

EPISODES, STEPS = 100, 14
BLOCK = 20  # number of episodes that our shop plays before the Flask shop plays the same episodes
SEARCH_SHARE = 0.1  # chance that an action after the first is a search; the first action is always a search
SESSIONS = 1000
Times = dict[str, list[float]]  # seconds of each step, by the kind of action


def script(
    environment: WebShopEnvironment, index: int, *, seed: int | None = None, search_share: float = SEARCH_SHARE
) -> list[str]:
    """Return the random actions of an episode.

    The first action is a search for words of the goal. Each later action is a search with the probability
    `search_share`, and otherwise a click. If the last page is that of a product, a purchase is added.
    """
    draw = random.Random(index if seed is None else seed)
    game = environment.game(environment.task(ResetSpec(index=index)))
    actions = [_search(game, draw)]
    game.play(actions[0])
    # A search is the only action of the search page. So an episode without further searches must not return to it.
    left_out = {"click[buy now]", SEARCH_ACTION, *(() if search_share else ("click[back to search]",))}
    while len(actions) < STEPS:
        clicks = [action for action in game.offered().splitlines() if action not in left_out]
        search = not clicks or draw.random() < search_share
        actions.append(_search(game, draw) if search else draw.choice(clicks))
        game.play(actions[-1])
    if "click[buy now]" in game.offered():
        actions.append("click[buy now]")
    return actions


def _search(game: ShopGame, draw: random.Random) -> str:
    words = game.wanted.title.replace("[", " ").replace("]", " ").split()
    return f"search[{' '.join(draw.sample(words, min(len(words), draw.randint(2, 6))))}]"


def compare_steps(environment: WebShopEnvironment) -> dict[str, Any]:
    """Play the same actions in both shops. Return the mean milliseconds of a step, by the kind of action.

    A step of our shop also makes the prompt, keys and metadata. A step of the Flask shop does not make them.

    Raises:
        SystemExit: a page of our shop differs from that of the Flask shop.
    """
    ours: Times = defaultdict(list)
    theirs: Times = defaultdict(list)
    for first in range(0, EPISODES, BLOCK):
        scripts = {index: script(environment, index) for index in range(first, first + BLOCK)}
        shown = {index: _play(environment, index, actions, ours) for index, actions in scripts.items()}
        for index, actions in scripts.items():
            if _play_flask(environment, index, actions, theirs) != shown[index]:
                raise SystemExit(f"error: goal {index}, {actions}: the pages differ")
    return {
        "pages": sum(map(len, ours.values())),
        "ours_ms": {kind: _mean_ms(times) for kind, times in ours.items()} | {"all": _mean_ms(_all(ours))},
        "flask_ms": {kind: _mean_ms(times) for kind, times in theirs.items()} | {"all": _mean_ms(_all(theirs))},
        "ratio": round(sum(_all(theirs)) / sum(_all(ours)), 1),
        "ratio_of_clicks": round(sum(theirs["click"]) / sum(ours["click"]), 1),
    }


def _play(environment: WebShopEnvironment, index: int, actions: list[str], times: Times) -> list[str]:
    episode = environment.start(environment.task(ResetSpec(index=index)))
    pages = []
    for action in actions:
        reply = f"<think>x</think><action>{action}</action>"
        begin = _cpu_s()
        result = episode.step(reply)
        times[action.partition("[")[0]].append(_cpu_s() - begin)
        pages.append(result.observation.text)
    return pages


def _play_flask(environment: WebShopEnvironment, index: int, actions: list[str], times: Times) -> list[str]:
    flask = _flask_shop(environment, index)
    pages = []
    for action in actions:
        begin = _cpu_s()
        pages.append(flask.step_and_observe(action))
        times[action.partition("[")[0]].append(_cpu_s() - begin)
    return pages


def session_bytes(environment: WebShopEnvironment) -> float:
    """Return the memory of a session in the middle of an episode, in bytes.

    The memory of caches that sessions share is not counted. Uncounted sessions fill these caches first.
    """
    scripts = [script(environment, index)[: STEPS // 2] for index in range(SESSIONS)]
    kept = [_played(environment, index, scripts[index]) for index in range(SESSIONS)]
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    kept += [_played(environment, index, scripts[index]) for index in range(SESSIONS)]
    gc.collect()
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return used / SESSIONS


def _played(environment: WebShopEnvironment, index: int, actions: list[str]) -> Any:
    episode = environment.start(environment.task(ResetSpec(index=index)))
    for action in actions:
        if not episode.done:
            episode.step(action)
    return episode


def _flask_shop(environment: WebShopEnvironment, index: int) -> FlaskShop:
    catalogue = environment.shop.catalogue
    goal = catalogue.goal("train", index)
    wanted = catalogue.product(goal.product)

    def score(bought: int, options: dict[str, str]) -> float:
        return score_purchase(goal, wanted, catalogue.product(bought), options.values()).total

    return FlaskShop(catalogue, goal.instruction, score)


def _all(times: Times) -> list[float]:
    return [value for values in times.values() for value in values]


def _mean_ms(times: list[float]) -> float:
    return round(1e3 * sum(times) / len(times), 4)
