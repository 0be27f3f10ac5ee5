"""Starts episodes of people, plays their actions, and records finished episodes. Independent of HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from arlarena.environment.indexed_tasks import index_of
from arlarena.environments.webshop.environment import WebShopEnvironment
from arlarena.environments.webshop.human.layout import Showing
from arlarena.environments.webshop.human.record import append_episode
from arlarena.environments.webshop.human.visit import Visit
from arlarena.environments.webshop.human.visitors import Visitor
from arlarena.proto.env_api import ResetSpec
from arlarena.proto.telemetry import Logger

STALE = "That page was out of date, so nothing was done. This is the current page."
NO_WAY_BACK = "The browser's Back button does not undo actions. Use the buttons of the shop. This is the current page."
NO_WORDS = "Type what you are looking for. Nothing was done."
NO_BUTTON = "The page has no such button. Nothing was done."
NOT_OVER = "This task is not finished yet."


@dataclass(frozen=True, slots=True)
class VisitService:
    """Plays the actions of people. Callers must hold the visitor's lock.

    Attributes:
        environment: the environment of the episodes.
        split: the split of the tasks.
        out: the file of recorded episodes.
        log: the log of recorded episodes and of errors.
        remote: whether pages show images from other servers.
    """

    environment: WebShopEnvironment
    split: str
    out: Path
    log: Logger
    remote: bool = False

    @property
    def size(self) -> int:
        """Number of tasks of the split."""
        return self.environment.shop.catalogue.sizes()[self.split]

    def start_session(self, index: int) -> Visitor:
        """Return the session of a new person, at the start of the task `index`."""
        visitor = Visitor(index)
        self._start(visitor, index)
        return visitor

    def showing(self, visitor: Visitor) -> Showing:
        """Return the content of the person's page. Clear the note, so that it is shown only once."""
        note, visitor.note = visitor.note, ""
        return Showing(visitor.visit, visitor.number, note, self.remote)

    def act(self, visitor: Visitor, form: Mapping[str, str]) -> None:
        """Play the action of a form that the current page sent. For any other form, only set a note for the person."""
        sent = tuple(form.get(name) for name in ("episode", "step", "search", "click"))
        visit = visitor.visit
        if not _is_current(visitor, form) or visit.done:
            visitor.note = "" if sent == visitor.last_form else STALE
            return
        if "search" in form:
            action, problem = visit.search_action(form["search"]), NO_WORDS
        else:
            position = index_of(form.get("click", ""))
            action, problem = None if position is None else visit.click_action(position), NO_BUTTON
        if action is None:
            visitor.note = problem
            return
        visit.play(action)
        visitor.note, visitor.last_form = "", sent
        if visit.done:
            self._record(visitor)

    def next_task(self, visitor: Visitor, form: Mapping[str, str]) -> None:
        """Start the next task if the current task is finished and recorded."""
        sent = ("next", form.get("episode"), form.get("step"))
        if not _is_current(visitor, form):
            visitor.note = "" if sent == visitor.last_form else STALE
        elif not visitor.visit.done:
            visitor.note = NOT_OVER
        elif self._record(visitor):
            self._start(visitor, (visitor.index + 1) % self.size)
            visitor.last_form = sent

    def _start(self, visitor: Visitor, index: int) -> None:
        task = self.environment.task(ResetSpec(split=self.split, index=index))
        number = visitor.number + 1
        visitor.visit = Visit(self.environment, task, f"{self.split}-{index}-{visitor.name}-{number}")
        visitor.number, visitor.index, visitor.recorded, visitor.note = number, index, False, ""

    def _record(self, visitor: Visitor) -> bool:
        """Write the finished episode to the file, unless it is already recorded. Return whether the episode is
        recorded. After an error, the person can try again.
        """
        if visitor.recorded:
            return True
        try:
            append_episode(self.out, visitor.visit.record())
        except OSError as error:
            self.log.error("episode_not_recorded", id=visitor.visit.id, path=str(self.out), error=str(error))
            visitor.note = (
                "Your episode is finished, but it could not be recorded. Tell the operator of this shop. Then try "
                "again with the button below."
            )
            return False
        metadata = visitor.visit.state.metadata
        score = metadata.score if metadata else 0.0
        self.log.info("episode_recorded", id=visitor.visit.id, score=score, turns=visitor.visit.episode.steps)
        visitor.recorded = True
        return True


def _is_current(visitor: Visitor, form: Mapping[str, str]) -> bool:
    """Return whether a form comes from the current page."""
    place = (str(visitor.number), str(visitor.visit.episode.steps))
    return (form.get("episode"), form.get("step")) == place
