"""An episode that a person plays. Each search and each click is one action of the episode.

    visit = Visit(environment, task, "test-0-4f1c-1")
    visit.play(visit.search_action("red shoes"))
    visit.play(visit.click_action(3))              # the fourth clickable of the page

The actions have the form of a model's replies. So a person and a model get the same observations, rewards and values of
`action_valid` and `format_valid`.
"""

from __future__ import annotations

import time

from arlarena.environment.replies import parse, reply
from arlarena.environment.text_game import TextEpisode
from arlarena.environments.webshop.environment import WebShopEnvironment
from arlarena.environments.webshop.human.record import (
    HumanEpisode,
    HumanTurn,
    PlayedEnvironment,
    RecordedPurchase,
)
from arlarena.environments.webshop.shop.actions import click, is_clickable, search
from arlarena.environments.webshop.shop.session import SEARCH
from arlarena.proto.trajectory import Task

MAX_SEARCH_CHARS = 300  # longer searches are cut; the longest instruction is shorter


class Visit:
    """An episode that a person plays. Records each action. Not thread-safe.

    Attributes:
        game: the game, with the current page, the goal and the purchase.
        episode: the episode; it counts the steps.
        state: the result of the last step.
        id: the id of the episode in the record.
    """

    def __init__(self, environment: WebShopEnvironment, task: Task, episode_id: str) -> None:
        self._environment = environment
        self.game = environment.game(task)
        self.episode = TextEpisode(environment, task, self.game)
        self.state = self.episode.observe()
        self.id = episode_id
        self._turns: list[HumanTurn] = []
        self._started_at, self._started = time.time(), time.monotonic()
        self._last = self._started

    @property
    def task(self) -> Task:
        """The task."""
        return self.episode.task

    @property
    def done(self) -> bool:
        """Whether a product was bought, or the maximum number of steps is reached."""
        return self.episode.done

    @property
    def last_action(self) -> str:
        """The last action, "" at the start."""
        return self._turns[-1].action if self._turns else ""

    def search_action(self, words: str) -> str | None:
        """Return the action of a search. Return None if the text has no words.

        Unprintable characters become spaces, and the text is cut to MAX_SEARCH_CHARS characters. `<` and `>` also
        become spaces if the reply with this action could not be parsed.
        """
        words = " ".join("".join(char if char.isprintable() else " " for char in words).split())[:MAX_SEARCH_CHARS]
        action = search(words)
        if not _can_be_written(action):  # parse() would read the text as reply tags
            action = search(words.replace("<", " ").replace(">", " "))
        words = action.removeprefix("search[").removesuffix("]")
        return action if words.strip() else None

    def click_action(self, position: int) -> str | None:
        """Return the click action for clickable number `position` (from 0). Return None if the page has no such
        clickable, or if the clickable cannot be clicked.
        """
        names = list(self.game.page.clickables)
        if not 0 <= position < len(names) or not can_be_clicked(names[position]):
            return None
        return click(names[position])

    def play(self, action: str) -> None:
        """Play an action as one step.

        Raises:
            RuntimeError: the episode is over.
        """
        self.play_response(reply("", action))

    def play_response(self, response: str) -> None:
        """Play a complete reply.

        Raises:
            RuntimeError: the episode is over.
        """
        before = self.state
        after = self.episode.step(response)
        now = time.monotonic()
        assert before.metadata is not None
        assert after.metadata is not None
        turn = HumanTurn(
            turn=len(self._turns),
            observation=before.observation.text,
            response=response,
            action=after.metadata.action,
            reward=after.reward or 0.0,
            action_valid=after.observation.action_valid,
            format_valid=after.observation.format_valid,
            state_key=before.metadata.state_key,
            admissible_actions=tuple(before.observation.admissible_actions or ()),
            seconds=round(now - self._last, 3),
        )
        self._turns.append(turn)
        self.state, self._last = after, now

    def record(self) -> HumanEpisode:
        """Return the record of the finished episode."""
        observation, metadata = self.state.observation, self.state.metadata
        assert metadata is not None
        info = self._environment.info
        options = {name: value for name, value in info.options.items() if name not in info.paths}
        return HumanEpisode(
            id=self.id,
            task=self.task.id,
            split=self.task.split,
            index=self.task.index,
            seed=self.task.seed,
            kind=metadata.kind,
            success=metadata.success,
            score=metadata.score,
            total_reward=round(sum(turn.reward for turn in self._turns), 4),
            terminated=observation.terminated,
            truncated=observation.truncated,
            optimal_moves=metadata.optimal_moves,
            metrics={"turns": float(len(self._turns))},
            turns=tuple(self._turns),
            final_observation=observation.text,
            environment=PlayedEnvironment(info.name, info.version, options),
            started_at=round(self._started_at, 3),
            duration_s=round(self._last - self._started, 3),
            purchase=self._purchase(),
        )

    def _purchase(self) -> RecordedPurchase | None:
        place, score = self.game.place, self.game.purchase
        if score is None or place.product is None:
            return None
        bought = self.game.shop.catalogue.product(place.product)
        return RecordedPurchase(bought.asin, dict(place.options), bought.price, score.details())


def can_be_clicked(name: str) -> bool:
    """Return whether a click on this clickable can be written in a reply. The clickable `search` cannot be clicked,
    because a search needs words.
    """
    return name != SEARCH and is_clickable(name) and _can_be_written(click(name))


def _can_be_written(action: str) -> bool:
    return parse(reply("", action)).action == action
