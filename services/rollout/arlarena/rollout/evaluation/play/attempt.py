"""Plays one attempt of an evaluation. Restores the attempt in a new session if the environment server fails.

    state = reset(task)
    while not done:   response = player(state);   state = step(response)

The attempt keeps its responses. After a failure, the caller calls `play` again with a new session. `play` then sends
the kept responses to the environment, and continues after the last kept response. It does not request replies twice. If
the environment does not repeat its states, the attempt deletes the responses and restarts from its first turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from arlarena.client.environments import Session, StepOutcome
from arlarena.client.errors import PolicyFault
from arlarena.rollout.episode import FAULT, PROMPT_TOO_LONG, ActionPatterns, Assignment
from arlarena.rollout.evaluation.errors import AttemptFailed
from arlarena.rollout.evaluation.interrupts import StopSignal
from arlarena.rollout.evaluation.models.errors import TooLong
from arlarena.rollout.evaluation.models.protocol import NO_TOKENS, Finish, ModelMessage, PictureBytes
from arlarena.rollout.evaluation.play.caller import AttemptCaller, ReplayDiverged
from arlarena.rollout.evaluation.play.pictures import PictureStore
from arlarena.rollout.evaluation.records import AttemptKey, AttemptRecord, Status, TurnRecord
from arlarena.rollout.evaluation.strategies.protocol import ModelCaller, Player, TurnView

# Maximum number of restarts from the first turn. Each restart may cost the requests of a complete attempt.
MAX_DIVERGENCES = 3
# Fault code of a reply that the environment server refuses, for example because the reply is too long.
REPLY_REFUSED = "reply_refused"


@dataclass(frozen=True, slots=True)
class PlayedTurn:
    """A response, and the key of the environment's state before the response."""

    state_key: str
    response: str
    finish: Finish


@dataclass(slots=True)
class _Course:
    """The states, turns and messages of an attempt since the last reset."""

    first: StepOutcome
    state: StepOutcome
    turns: list[TurnRecord] = field(default_factory=list)
    messages: list[ModelMessage] = field(default_factory=list)
    images: tuple[str, ...] = ()
    patterns: ActionPatterns = field(default_factory=ActionPatterns)

    def observe(self, state: StepOutcome, names: tuple[str, ...], pictures: tuple[PictureBytes, ...]) -> None:
        """Add a new state to the messages, as in training.

        In a conversation, the state adds one message. Otherwise the state's prompt replaces all messages.
        """
        text = state.observation.message
        if text is None:
            self.messages = [ModelMessage("user", state.prompt, pictures)]
        else:
            self.messages.append(ModelMessage("user", text, pictures))
        self.state, self.images = state, names

    def finish_turn(self, played: PlayedTurn, after: StepOutcome | None) -> None:
        """Record a turn. `after`: the state after the step, or None if the environment rejected the response."""
        before = self.state
        if after is not None:
            self.patterns.observe(before, after)
        self.messages.append(ModelMessage("assistant", played.response))
        self.turns.append(
            TurnRecord(
                observation=before.observation.text,
                response=played.response,
                action=after.metadata.action if after else "",
                reward=after.reward if after else 0.0,
                action_valid=after.observation.action_valid if after else False,
                format_valid=after.observation.format_valid if after else False,
                no_action=after.metadata.no_action if after else False,
                state_key=before.metadata.state_key,
                finish=played.finish,
                images=self.images,
            )
        )


class Attempt:
    """One attempt. After a ServiceError, `play` may be called again with a new session.

    Attributes:
        played: the responses so far. A replay sends them to the environment again.
        in_step: whether the last call of `play` ended during a step of the environment.
        restarts: how many times the attempt was restored in a new session. The caller of `play` counts them.
        divergences: how many times the attempt restarted from its first turn because a replay diverged.
    """

    def __init__(
        self,
        key: AttemptKey,
        assignment: Assignment,
        player: Player,
        caller: AttemptCaller | None,
        pictures: PictureStore | None,
        *,
        stop: StopSignal,
        sees_images: bool = False,
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        """Create an attempt without turns.

        Args:
            key: identifies the attempt in records.
            assignment: the task, and the key of its random seeds.
            player: chooses the responses.
            caller: sends requests to the model; None: the player has no model.
            pictures: loads images; None: images are not loaded.
            stop: interrupts a player without a model.
            sees_images: whether the model gets the images.
            on_progress: is called after each answer of the environment to a reset or step.
        """
        self.key, self._assignment, self._player, self._caller = key, assignment, player, caller
        self._pictures, self._sees, self._on_progress, self._stop = pictures, sees_images, on_progress, stop
        self._started, self._began = time.time(), time.monotonic()
        self._memory: dict[str, Any] = {}
        self._course: _Course | None = None
        self.played: list[PlayedTurn] = []
        self.in_step = False
        self.restarts = self.divergences = 0

    async def play(self, session: Session) -> AttemptRecord:
        """Play the attempt to its end, and return its record.

        Raises:
            ServiceError: the environment server failed. Call `play` again with a new session.
            AttemptFailed: the attempt cannot continue.
            EvaluationStopped, EvaluationError: the evaluation ends. The attempt has no result.
        """
        while True:
            try:
                return await self._play(session)
            except ReplayDiverged as error:
                self.divergences += 1
                if self.divergences > MAX_DIVERGENCES:
                    raise AttemptFailed(f"the environment does not repeat its states: {error}", "infra_error") from None
                self._start_afresh()

    def failed(self, status: Status, error: str) -> AttemptRecord:
        """Return a record with the status `status`. The record contains the turns since the last reset."""
        return self._record(status, error)

    def refused(self, error: str) -> AttemptRecord:
        """Return the record for an attempt that ends because the environment server refuses the last response."""
        assert self._course is not None
        self._course.finish_turn(self.played[-1], None)
        return self._record("policy_error", error, REPLY_REFUSED)

    async def _play(self, session: Session) -> AttemptRecord:
        self.in_step, task = False, self._assignment.task
        first = await session.reset(split=task.split, index=task.index, seed=task.seed, episode_id=self._assignment.id)
        course = self._course = _Course(first, first)
        await self._observe(course, first)
        while not course.state.done:
            try:
                played = await self._response(course, session)
            except TooLong as error:
                return self._record("policy_error", str(error), PROMPT_TOO_LONG)
            self.in_step = True
            try:
                after = await session.step(played.response)
            except PolicyFault as error:
                course.finish_turn(played, None)
                return self._record("policy_error", str(error), error.code)
            self.in_step = False
            course.finish_turn(played, after)
            await self._observe(course, after)
        return self._record("ok", "")

    async def _observe(self, course: _Course, state: StepOutcome) -> None:
        self._on_progress()
        names: tuple[str, ...] = ()
        pictures: tuple[PictureBytes, ...] = ()
        if self._pictures is not None and state.observation.images and not state.done:
            names, pictures = await self._pictures.load(state.observation)
        course.observe(state, names, pictures if self._sees else ())

    async def _response(self, course: _Course, session: Session) -> PlayedTurn:
        """Return the response in the current turn: the kept response if there is one, else the player's response."""
        turn, state = len(course.turns), course.state
        if turn < len(self.played):
            if self.played[turn].state_key != state.metadata.state_key:
                raise ReplayDiverged(f"the state in turn {turn} of {self.key} differs from the recorded state")
            return self.played[turn]
        if self._caller is not None:
            self._caller.begin_turn(turn, state.metadata.state_key)
        call: ModelCaller = self._caller if self._caller is not None else _no_model
        view = TurnView(turn, session, state, course.messages, call, self._assignment.seed_key, self._memory)
        responding = self._player.respond(view)
        # A player without a model may wait for a person, so the stop signal cancels its wait. A player with a model is
        # not cancelled, because replies to requests in flight are recorded.
        response = await (self._stop.unless_stopped(responding) if self._caller is None else responding)
        last = self._caller.last if self._caller is not None else None
        self.played.append(PlayedTurn(state.metadata.state_key, response, last.finish if last else "stop"))
        return self.played[-1]

    def _start_afresh(self) -> None:
        self.played.clear()
        self._memory.clear()
        if self._caller is not None:
            self._caller.start_afresh()

    def _record(self, status: Status, error: str, fault: str = "") -> AttemptRecord:
        course, caller = self._course, self._caller
        state = course.state if course else None
        turns = tuple(course.turns) if course else ()
        patterns = course.patterns if course else ActionPatterns()
        metrics = {"turns": float(len(turns)), **patterns.counts()}
        first = course.first.metadata if course else None
        return AttemptRecord(
            key=self.key,
            task_id=first.task_id if first else self._assignment.task.id,
            content_key=(first.content_key or first.state_key) if first else "",
            kind=first.kind if first else "",
            status=status,
            success=status == "ok" and state is not None and state.metadata.success,
            score=state.metadata.score if status == "ok" and state is not None else 0.0,
            total_reward=sum(turn.reward for turn in turns),
            steps=len(turns),
            terminated=state is not None and state.observation.terminated,
            truncated=bool(fault) or (state is not None and state.observation.truncated),
            turns=turns,
            metrics=metrics | ({FAULT + fault: 1.0} if fault else {}),
            usage=caller.usage if caller else NO_TOKENS,
            requests=caller.requests if caller else 0,
            started=self._started,
            seconds=time.monotonic() - self._began,
            error=error,
            final_observation=state.observation.text if state else "",
            restarts=self.restarts,
            divergences=self.divergences,
        )


async def _no_model(messages: object, *, purpose: str = "") -> Any:
    raise TypeError("this player has a strategy that calls a model, but the evaluation has no model")
