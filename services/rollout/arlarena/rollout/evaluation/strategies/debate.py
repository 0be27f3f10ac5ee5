"""Multi-agent debate: several agents answer, read each other's answers and answer again. Then one answer is chosen.

Du et al., "Improving Factuality and Reasoning in Language Models through Multiagent Debate", arXiv 2305.14325, section
2. The paper chooses the answer by a majority vote. With the option `judge`, the model chooses the answer instead.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from arlarena.rollout.evaluation.models.protocol import ModelMessage, Reply
from arlarena.rollout.evaluation.strategies.protocol import TurnView
from arlarena.rollout.evaluation.strategies.reply_format import ReplyFormat

OTHERS = "These are the solutions of the other agents:\n\n{solutions}\n\n"
# The request in figure 3 of the paper, and a sentence about the form of the reply.
UPDATE = (
    "Using the opinions of the other agents as additional advice, give an updated answer. Use the same form as before."
)
JUDGE = "These are the solutions of several agents:\n\n{solutions}\n\nChoose or correct one. Give the final answer. "
FORM = "Use the form that the task asks for."


@dataclass(frozen=True, slots=True)
class DebatePlayer:
    """In each turn, several agents debate. In the first round, an agent does not see the answers of the other agents.

    Attributes:
        reply_format: format of replies to the environment. The vote compares the actions in the replies.
        agents: number of agents, at least 2.
        rounds: number of rounds, at least 1.
        judge: whether the model chooses the answer in an additional request. If False, the most frequent action wins.
            If several actions are equally frequent, the agent with the lowest number wins.
    """

    reply_format: ReplyFormat
    agents: int = 3
    rounds: int = 2
    judge: bool = False
    name: str = "debate"

    def __post_init__(self) -> None:
        """Check the numbers of agents and rounds.

        Raises:
            ValueError: there are fewer than 2 agents, or there is no round.
        """
        if self.agents < 2 or self.rounds < 1:
            raise ValueError(f"a debate needs at least 2 agents and 1 round, not {self.agents} and {self.rounds}")

    async def respond(self, view: TurnView) -> str:
        """See `strategies.protocol.Player`."""
        talks = [list(view.messages) for _ in range(self.agents)]
        answers = await self._round(view, talks, 1)
        for number in range(2, self.rounds + 1):
            for agent, talk in enumerate(talks):
                others = [answer for other, answer in enumerate(answers) if other != agent]
                talk += [
                    ModelMessage("assistant", answers[agent]),
                    ModelMessage("user", _listed(OTHERS, others) + UPDATE),
                ]
            answers = await self._round(view, talks, number)
        if self.judge:
            *before, last = view.messages
            question = ModelMessage("user", f"{last.text}\n\n{_listed(JUDGE, answers)}{FORM}", last.images)
            return (await view.call([*before, question], purpose="judge")).text
        return self._vote(answers)

    async def _round(self, view: TurnView, talks: Sequence[Sequence[ModelMessage]], number: int) -> list[str]:
        calls = [view.call(talk, purpose=f"debater {agent} round {number}") for agent, talk in enumerate(talks, 1)]
        return [reply.text for reply in await _all_replies(calls)]

    def _vote(self, answers: Sequence[str]) -> str:
        actions = [self.reply_format.action_of(answer) for answer in answers]
        votes = Counter(action for action in actions if action) or Counter(actions)
        return answers[actions.index(votes.most_common(1)[0][0])]


async def _all_replies(calls: Sequence[Coroutine[Any, Any, Reply]]) -> list[Reply]:
    """Wait until all calls have ended. Then return the replies, or raise the first error.

    If a call fails, the replies of the other calls are still received and recorded.
    """
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if isinstance(result, Reply)]


def _listed(text: str, solutions: Sequence[str]) -> str:
    listed = "\n\n".join(f"Agent {number}: {solution}" for number, solution in enumerate(solutions, 1))
    return text.format(solutions="{solutions}").replace("{solutions}", listed)
