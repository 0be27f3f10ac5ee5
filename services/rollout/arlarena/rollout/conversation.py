"""What a policy has heard and said in its episodes, where the environment speaks message by message.

    prompt of turn t + 1 = prompt of turn t + response as it was sampled + the template's glue and the next message

Nothing is rendered or encoded twice, so each turn continues the one before, and records only what is new. A template
that would rewrite earlier turns does not get to: what was sampled stays what it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from arlarena.client.environments import Session, StepOutcome
from arlarena.rollout.tokens import Tokens


class Conversation:
    """One episode up to now.

    `prompt_ids`: all tokens before the next response. `new_prompt_ids`: those of them that no earlier turn recorded.
    `reset`: nothing was recorded, so these are all. `messages`: the prompt as texts in the form of chat APIs.
    """

    def __init__(self, tokens: Tokens, message: str) -> None:
        self._tokens = tokens
        self._said: Sequence[int] = ()
        self.prompt_ids = self.new_prompt_ids = tokens.prompt(message)
        self.reset = True
        self.messages = [{"role": "user", "content": message}]

    def say(self, ids: Sequence[int], text: str) -> None:
        """The policy's response, exactly as it was sampled."""
        self._said = ids
        self.messages.append({"role": "assistant", "content": text})

    def hear(self, message: str) -> None:
        """The environment's answer to what was said.

        Raises:
            TokenizerError: see `Tokens.following`.
        """
        self.new_prompt_ids = self._tokens.following(message, self._said)
        self.prompt_ids = [*self.prompt_ids, *self._said, *self.new_prompt_ids]
        self.reset = False
        self.messages.append({"role": "user", "content": message})


class Conversations:
    """The conversations of all sessions that one policy plays. A session's is forgotten with the session."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._of: WeakKeyDictionary[Session, Conversation] = WeakKeyDictionary()

    def at(self, session: Session, state: StepOutcome, turn: int) -> Conversation:
        """The conversation in which `state` is heard at `turn`; to be asked once a turn.

        It begins at turn 0, and anew at every turn where the environment has no `message`: there each prompt stands for
        itself.
        """
        message = state.observation.message
        if message is None or turn == 0:
            self._of[session] = Conversation(self._tokens, state.prompt if message is None else message)
        else:
            self._of[session].hear(message)
        return self._of[session]
