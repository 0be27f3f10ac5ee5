"""The token history of an episode whose environment sends one message per turn.

    prompt of turn t + 1 = prompt of turn t + sampled response + template separator and next message

Each text is rendered and encoded once. Each prompt extends the previous prompt and response. A turn therefore records
only its new tokens. Earlier turns are not rendered again, so the history contains exactly the sampled tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from arlarena.client.environments import Session, StepOutcome
from arlarena.rollout.tokens import Tokens


class Conversation:
    """The history of one episode.

    `prompt_ids`: all tokens before the next response. `new_prompt_ids`: the part of `prompt_ids` that no earlier turn
    recorded. `reset`: True at the first turn of the conversation. `messages`: the prompt as messages of a chat API.
    """

    def __init__(self, tokens: Tokens, message: str) -> None:
        self._tokens = tokens
        self._response_ids: Sequence[int] = ()
        self.prompt_ids = self.new_prompt_ids = tokens.prompt(message)
        self.reset = True
        self.messages = [{"role": "user", "content": message}]

    def add_response(self, ids: Sequence[int], text: str) -> None:
        """Append the policy's response. `ids`: the sampled token ids. `text`: the response as text."""
        self._response_ids = ids
        self.messages.append({"role": "assistant", "content": text})

    def add_message(self, message: str) -> None:
        """Append the environment's next message.

        Raises:
            TokenizerError: the chat template does not support several turns.
        """
        self.new_prompt_ids = self._tokens.following(message, self._response_ids)
        self.prompt_ids = [*self.prompt_ids, *self._response_ids, *self.new_prompt_ids]
        self.reset = False
        self.messages.append({"role": "user", "content": message})


class Conversations:
    """The conversations of all sessions of one policy. A conversation is deleted with its `Session` object."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._by_session: WeakKeyDictionary[Session, Conversation] = WeakKeyDictionary()

    def for_turn(self, session: Session, state: StepOutcome, turn: int) -> Conversation:
        """Returns the session's conversation, extended by the message of `state`. Call this method once per turn.

        A new conversation starts at turn 0. If the observation has no `message`, a new conversation with `state.prompt`
        starts at every turn.
        """
        message = state.observation.message
        if message is None or turn == 0:
            self._by_session[session] = Conversation(self._tokens, state.prompt if message is None else message)
        else:
            self._by_session[session].add_message(message)
        return self._by_session[session]
