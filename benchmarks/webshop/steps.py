"""Compares steps of our shop with steps of a shop that renders pages like the original WebShop (`flask_shop.py`).

This module also measures the memory of a session.

For each step, the CPU time of the thread and the wall time are measured. A shop never waits, so both times are equal on
an idle machine. If other processes use the same cores, the wall time also includes the time of these processes.
"""

from __future__ import annotations

import gc
import random
import tracemalloc
from collections import defaultdict
from statistics import median
from time import perf_counter, thread_time
from typing import Any, NamedTuple

from arlarena.environments.webshop.environment import WebShopEnvironment
from arlarena.environments.webshop.shop.pages import SEARCH_ACTION
from arlarena.environments.webshop.shop.reward import score_purchase
from arlarena.environments.webshop.shop_game import ShopGame
from arlarena.proto.env_api import ResetSpec
from benchmarks.webshop.flask_shop import FlaskShop

EPISODES, STEPS = 100, 14
BLOCK = 20  # number of episodes that our shop plays before the Flask shop plays the same episodes
SEARCH_SHARE = 0.1  # probability of a search after the first action; the first action is always a search
SESSIONS = 1000


class StepTime(NamedTuple):
    """The time of a step in seconds. `cpu`: CPU time of the thread. `wall`: wall time."""

    cpu: float
    wall: float


Times = dict[str, list[StepTime]]  # kind of action → times of the steps


def script(
    environment: WebShopEnvironment, index: int, *, seed: int | None = None, search_share: float = SEARCH_SHARE
) -> list[str]:
    """Return random actions for an episode with the goal `index`.

    The first action is a search for words of the goal. Each later action is a search with probability `search_share`,
    otherwise a click. If the last page is the page of a product, the last action is a purchase. `seed`: seed of the
    actions; None: `index`.
    """
    draw = random.Random(index if seed is None else seed)
    game = environment.game(environment.task(ResetSpec(index=index)))
    actions = [_search(game, draw)]
    game.play(actions[0])
    # The search page allows only searches. An episode without further searches must therefore not return to this page.
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
    """Play the same actions in our shop and in the Flask shop. Return the times, for CPU time and for wall time.

    For each of the two, the result contains the mean milliseconds of a step for each kind of action. It also contains
    the time of the Flask shop divided by the time of our shop. A step of our shop also makes the prompt, the keys and
    the metadata. A step of the Flask shop does not make them.

    Raises:
        SystemExit: a page of our shop differs from the page of the Flask shop.
    """
    ours: Times = defaultdict(list)
    theirs: Times = defaultdict(list)
    for first in range(0, EPISODES, BLOCK):
        scripts = {index: script(environment, index) for index in range(first, first + BLOCK)}
        shown = {index: _play(environment, index, actions, ours) for index, actions in scripts.items()}
        for index, actions in scripts.items():
            if _play_flask(environment, index, actions, theirs) != shown[index]:
                raise SystemExit(f"error: goal {index}, {actions}: the pages differ")
    return {"pages": len(_all(ours))} | {clock: _comparison(clock, ours, theirs) for clock in StepTime._fields}


def _comparison(clock: str, ours: Times, theirs: Times) -> dict[str, Any]:
    """Return the mean times of both shops, and their ratios. `clock`: `cpu` or `wall`."""

    def seconds(times: list[StepTime]) -> list[float]:
        return [getattr(time, clock) for time in times]

    def means(times: Times) -> dict[str, float]:
        return {kind: _mean_ms(seconds(of_kind)) for kind, of_kind in (times | {"all": _all(times)}).items()}

    return {
        "ours_ms": means(ours),
        "flask_ms": means(theirs),
        "ratio": round(sum(seconds(_all(theirs))) / sum(seconds(_all(ours))), 1),
        "ratio_of_clicks": round(sum(seconds(theirs["click"])) / sum(seconds(ours["click"])), 1),
        "ratio_of_medians": round(median(seconds(_all(theirs))) / median(seconds(_all(ours))), 1),
    }


def _play(environment: WebShopEnvironment, index: int, actions: list[str], times: Times) -> list[str]:
    episode = environment.start(environment.task(ResetSpec(index=index)))
    pages = []
    for action in actions:
        reply = f"<think>x</think><action>{action}</action>"
        begin = _now()
        result = episode.step(reply)
        times[action.partition("[")[0]].append(_since(begin))
        pages.append(result.observation.text)
    return pages


def _play_flask(environment: WebShopEnvironment, index: int, actions: list[str], times: Times) -> list[str]:
    flask = _flask_shop(environment, index)
    pages = []
    for action in actions:
        begin = _now()
        pages.append(flask.step_and_observe(action))
        times[action.partition("[")[0]].append(_since(begin))
    return pages


def session_bytes(environment: WebShopEnvironment) -> float:
    """Return the mean memory of a session in the middle of an episode, in bytes.

    Caches that sessions share do not count, because other sessions fill these caches before the measurement.
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


def _now() -> StepTime:
    return StepTime(thread_time(), perf_counter())


def _since(begin: StepTime) -> StepTime:
    end = _now()
    return StepTime(end.cpu - begin.cpu, end.wall - begin.wall)


def _all(times: Times) -> list[StepTime]:
    return [value for values in times.values() for value in values]


def _mean_ms(times: list[float]) -> float:
    return round(1e3 * sum(times) / len(times), 4)
