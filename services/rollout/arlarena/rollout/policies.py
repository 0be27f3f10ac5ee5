"""Policies: a model on a policy server, the environment's expert, and any model with a chat API."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from random import Random
from typing import Literal
from weakref import WeakKeyDictionary

from arlarena.client.environments import Session, StepOutcome
from arlarena.client.errors import PromptTooLong
from arlarena.client.policy import PolicyClient
from arlarena.proto.thoughts import answer_start
from arlarena.proto.trajectory import PolicyVersion, Sampling, VersionSpan
from arlarena.rollout.conversation import Conversation, Conversations
from arlarena.rollout.episode import Response, turn_seed
from arlarena.rollout.tokens import Tokens

# The recorded version of the tokens in the expert's replies.
EXPERT = PolicyVersion("expert", 0, "-")


def _session_id(seed_key: str) -> str:
    """Returns the session id for the policy server: `seed_key` without the number of the episode at its end.

    The episodes of a group therefore have the same session id, and their requests go to the same replica of the policy
    server. The prompts of these episodes start with the same text, so the replica has to process this text only once.
    """
    return seed_key.rpartition("/")[0] or seed_key


class EnginePolicy:
    """A policy on a policy server. Requests and replies contain token ids, not text.

    `context`: maximum number of tokens of prompt and response together, or None if the server does not report it.
    `stop`: the strings that end a response. The environment defines them.
    """

    def __init__(
        self, client: PolicyClient, tokens: Tokens, sampling: Sampling, context: int | None, stop: Sequence[str] = ()
    ) -> None:
        self._client, self._tokens, self._sampling, self._context = client, tokens, sampling, context
        self._stop = stop
        self._conversations = Conversations(tokens)

    async def respond(self, session: Session, state: StepOutcome, seed_key: str, turn: int) -> Response:
        """Returns a response of the policy server. The room in the context also limits the length of the response.

        Raises:
            PromptTooLong: the prompt leaves no room for a response.
            ServiceError: the policy server is unavailable or refuses the request.
        """
        conversation = self._conversations.for_turn(session, state, turn)
        generation = await self._client.generate(
            conversation.prompt_ids,
            self._sampling_for(len(conversation.prompt_ids)),
            seed=turn_seed(seed_key, turn),
            stop=self._stop,
            request_id=f"{seed_key}/{turn}",
            session=_session_id(seed_key),
        )
        text = self._tokens.text(generation.token_ids)
        conversation.add_response(generation.token_ids, text)
        return Response(
            conversation.new_prompt_ids,
            conversation.reset,
            generation.token_ids,
            generation.logprobs,
            generation.spans,
            generation.finish_reason,
            text,
        )

    def _sampling_for(self, prompt_tokens: int) -> Sampling:
        if self._context is None:
            return self._sampling
        room = self._context - prompt_tokens
        if room < 1:
            context = f"a context of {self._context} tokens"
            message = f"a prompt of {prompt_tokens} tokens leaves no room for a response in {context}"
            raise PromptTooLong(message, 400)
        sampling = self._sampling
        if room >= sampling.max_tokens:
            return sampling
        return Sampling(sampling.temperature, sampling.top_p, sampling.top_k, room)


class ExpertPolicy:
    """The environment's expert. The expert's replies are encoded and end with the end-of-sequence token. All log-probs
    are recorded as 0, because the tokens are not sampled.

    `expert_noise`: the fraction of turns with a replaced reply. Half of the replacements are random admissible actions,
    half are invalid replies. The expert continues from the resulting state. By default, replaced turns have no
    loss: a cloned policy learns to recover from mistakes, but does not learn the mistakes themselves.

    `train_on_noise`: if True, all replacements are random admissible actions, and replaced turns have a loss.

    If the environment lists no admissible actions, all replacements are invalid replies in both cases.

    `action`: the environment's format of a reply, with `{action}` in place of the action (`Parser.action`).
    """

    def __init__(
        self, tokens: Tokens, expert_noise: float = 0.0, *, train_on_noise: bool = False, action: str = ""
    ) -> None:
        self._tokens, self._action = tokens, action
        self._expert_noise, self._train_on_noise = expert_noise, train_on_noise
        self._conversations = Conversations(tokens)
        self._plans: WeakKeyDictionary[Session, deque[str]] = WeakKeyDictionary()

    async def respond(self, session: Session, state: StepOutcome, seed_key: str, turn: int) -> Response:
        """Returns the next reply of the expert's plan, or a replacement (see `expert_noise`).

        Requests a new plan from the expert at turn 0, after a replaced turn, and at the end of a plan.
        """
        conversation = self._conversations.for_turn(session, state, turn)
        plan = self._plans.get(session)
        if turn == 0 or not plan:
            plan = self._plans[session] = deque((await session.expert()).plan)
        text = plan.popleft()
        random = Random(turn_seed(seed_key, turn))
        if random.random() < self._expert_noise:
            del self._plans[session]
            return self._response(conversation, self._with_noise(text, state, random), learn=self._train_on_noise)
        return self._response(conversation, text, learn=True)

    def _with_noise(self, text: str, state: StepOutcome, random: Random) -> str:
        actions = state.observation.admissible_actions
        if not actions or not (self._train_on_noise or random.random() < 0.5):
            return self._format_action("")  # a reply without an action is invalid
        thought = text[: answer_start(text) or 0]  # only the action of the expert's reply is replaced
        return thought + self._format_action(random.choice(actions))

    def _format_action(self, action: str) -> str:
        return self._action.replace("{action}", action)

    def _response(self, conversation: Conversation, text: str, *, learn: bool) -> Response:
        ids = self._tokens.reply(text)
        conversation.add_response(ids, text)
        span = VersionSpan(0, len(ids), EXPERT)
        new, reset = conversation.new_prompt_ids, conversation.reset
        return Response(new, reset, ids, [0.0] * len(ids), (span,), "stop", text, learn)


class ChatPolicy:
    """A teacher: any model with OpenAI's chat API. The texts of its replies are encoded with the student's tokenizer.
    The encoded replies end with the end-of-sequence token. All log-probs are recorded as 0.
    """

    def __init__(self, client: PolicyClient, model: str, tokens: Tokens, sampling: Sampling) -> None:
        self._client, self._model, self._tokens, self._sampling = client, model, tokens, sampling
        self._conversations = Conversations(tokens)
        self._version = PolicyVersion("chat", 0, model.replace(":", "-"))

    async def respond(self, session: Session, state: StepOutcome, seed_key: str, turn: int) -> Response:
        """Returns the teacher's reply. A truncated reply has finish reason `length` and no end-of-sequence token."""
        conversation = self._conversations.for_turn(session, state, turn)
        seed = turn_seed(seed_key, turn) >> 32  # some servers accept only seeds of 31 bits
        reply = await self._client.chat(conversation.messages, self._sampling, model=self._model, seed=seed)
        truncated = reply.finish_reason == "length"
        ids = self._tokens.encode(reply.text) if truncated else self._tokens.reply(reply.text)
        conversation.add_response(ids, reply.text)
        span = VersionSpan(0, len(ids), self._version)
        finish: Literal["stop", "length"] = "length" if truncated else "stop"
        new, reset = conversation.new_prompt_ids, conversation.reset
        return Response(new, reset, ids, [0.0] * len(ids), (span,), finish, reply.text)
