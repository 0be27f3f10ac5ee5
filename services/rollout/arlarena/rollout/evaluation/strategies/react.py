"""ReAct: in each turn, the model writes a thought and an action. The prompt contains all earlier thoughts and actions.

Yao et al., "ReAct: Synergizing Reasoning and Acting in Language Models", arXiv 2210.03629, section 2. The context in
turn t is o_1, a_1, …, o_t. Each o is an observation, and each a is a thought with an action. The paper's prompts
contain examples of solved tasks for each environment. This strategy uses no examples, because new environments have
none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from arlarena.rollout.evaluation.models.protocol import ModelMessage
from arlarena.rollout.evaluation.strategies.protocol import TurnView
from arlarena.rollout.evaluation.strategies.reply_format import ReplyFormat

INSTRUCTION = """Solve the task with interleaved thoughts, actions and observations. In each turn, write exactly:
Thought: reason about the situation and plan the next action
Action: {action}
Then stop. The next message gives the observation. This form replaces any other form of replies that the task asks for.
"""
ONE_ACTION = "the action alone, without tags"
FREE_ACTION = "the complete reply that the task asks for; it may have several lines"
_STEP = re.compile(
    r"\A\s*+(?:Thought *+\d*+ *+:)?+(?P<thought>.*?)^[ \t]*+Action *+\d*+ *+:(?P<action>.*+)", re.S | re.M
)
_INVENTED = re.compile(r"^[ \t]*+Observation *+\d*+ *+:", re.M)


@dataclass(frozen=True, slots=True)
class ReactPlayer:
    """Asks for a thought and an action in each turn.

    Attributes:
        reply_format: format of replies to the environment. The player converts the action to this format.
    """

    reply_format: ReplyFormat
    name: str = "react"

    async def respond(self, view: TurnView) -> str:
        """See `strategies.protocol.Player`."""
        history: list[ModelMessage] = view.memory.setdefault("react", [])
        messages = [*history, self._observation(view)]
        reply = await view.call(messages)
        # The model may invent the next observation. Discard `Observation:` and the text after it.
        written = reply.text[: found.start()] if (found := _INVENTED.search(reply.text)) else reply.text
        view.memory["react"] = [*messages, ModelMessage("assistant", written)]
        return self._response(written)

    def _observation(self, view: TurnView) -> ModelMessage:
        last = view.messages[-1]
        if view.turn == 0:
            action = ONE_ACTION if self.reply_format.action else FREE_ACTION
            return ModelMessage("user", f"{INSTRUCTION.format(action=action)}\n{last.text}", last.images)
        observation = view.state.observation
        text = observation.text if observation.message is None else observation.message
        if observation.message is None and observation.admissible_actions is not None:
            text += f"\nAdmissible actions: {', '.join(observation.admissible_actions)}"
        return ModelMessage("user", f"Observation: {text}", last.images)

    def _response(self, written: str) -> str:
        step = _STEP.match(written)
        if step is None:
            return written  # the environment's parser decides whether the text contains an action
        thought, action = step["thought"].strip(), step["action"].strip()
        if self.reply_format.action:
            # An action has one line. If the model added the environment's format, remove the format: `write` adds it.
            action = action.partition("\n")[0].strip()
            before, _, after = self.reply_format.action.partition("{action}")
            action = action.removeprefix(before).removesuffix(after)
        return self.reply_format.write(action, thought)
