"""Conversations from end to end: a real environment server, a real policy server, and the trainer on what they made."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from support.environments.conversation_support import TURNS, TallyEnvironment, serving
from support.inference.inference_support import ServerProcess, running_server
from support.trainer.tiny_support import SOKOBAN

from arlarena.client.environments import EnvironmentClient
from arlarena.client.policy import PolicyClient
from arlarena.proto.telemetry import get_logger
from arlarena.proto.trajectory import Group, GroupTask, Sampling, Task, read_groups
from arlarena.rollout.demonstrate import demonstration_assignments, write_demonstrations
from arlarena.rollout.episode import Policy
from arlarena.rollout.play_all import play_all
from arlarena.rollout.policies import EnginePolicy, ExpertPolicy
from arlarena.rollout.runner import Runner
from arlarena.rollout.settings import RolloutSettings
from arlarena.rollout.tokens import Tokens
from arlarena.rollout.worker import play_group
from arlarena.trainer.batching.packing import TrainingSample, micro_batches
from arlarena.trainer.batching.scoring import ScoredGroup, score, training_samples
from arlarena.trainer.batching.staleness import StalenessPolicy
from arlarena.trainer.cloning.clone import demonstration_rows, negative_log_likelihood
from arlarena.trainer.learning.learner import Learner
from arlarena.trainer.model.forward import Scorer
from arlarena.trainer.model.policy import load_policy
from arlarena.trainer.model.tiny import create_tiny_policy
from arlarena.trainer.objectives import GroupAdvantages, recipe
from arlarena.trainer.policy_settings import TinyPolicy
from arlarena.trainer.settings import TrainerSettings

pytestmark = pytest.mark.processes

MOST = 24  # tokens of a response: some of the untrained policy's end by themselves, most are cut off
GROUPS, SIZE = 3, 8


@dataclass
class Stack:
    """The services, and the groups that one policy played with them."""

    policy: Path
    tokens: Tokens
    environment: str
    inference: ServerProcess
    groups: list[Group]


async def played(environment: str, inference: str, tokens: Tokens, stop: Sequence[str] = ()) -> list[Group]:
    async with AsyncExitStack() as stack:
        environments = await stack.enter_async_context(EnvironmentClient(environment))
        client = await stack.enter_async_context(PolicyClient(inference))
        runner = Runner(environments, client, RolloutSettings(), get_logger("test"))
        sampling = Sampling(max_tokens=MOST)
        policy: Policy = EnginePolicy(client, tokens, sampling, (await client.model()).max_tokens, stop)
        orders = [GroupTask(f"g{i}", Task("tally", "train", i), SIZE, sampling) for i in range(GROUPS)]
        return list(await asyncio.gather(*(play_group(runner, policy, order, "w") for order in orders)))


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("conversations")
    policy = folder / "policy"
    create_tiny_policy(policy, TinyPolicy(layers=2, hidden=64), seed=0, pieces=SOKOBAN)
    tokens = Tokens.load(policy)
    with serving(TallyEnvironment()) as environment, running_server(folder, f'model = "{policy}"\n') as inference:
        groups = asyncio.run(played(environment, inference.url, tokens))
        yield Stack(policy, tokens, environment, inference, groups)


def scored(groups: list[Group]) -> list[ScoredGroup]:
    digests = {group.newest.digest: 0 for group in groups}
    fresh = StalenessPolicy(0, 0, digests)
    method = recipe("grpo")
    return score(method, groups, fresh, invalid_penalty=0.1, max_response_tokens=MOST, no_action_turns="keep")


def rows(stack: Stack, *, growing: bool) -> list[TrainingSample]:
    return training_samples(scored(stack.groups), stack.groups[0].newest.digest, growing=growing)


def test_an_episode_is_one_row_of_all_its_turns(stack: Stack) -> None:
    episodes = [one for group in stack.groups for one in group.trajectories]
    assert len(episodes) == GROUPS * SIZE
    assert {turn.finish_reason for one in episodes for turn in one.turns} == {"stop", "length"}
    found = rows(stack, growing=True)
    assert len(found) == len(episodes)
    for one, row in zip(episodes, found, strict=True):
        assert one.conversations() == [(0, TURNS)]
        last = one.turns[-1]
        whole = [*row.prompt, *row.response]
        assert whole == [*one.prompts()[-1], *last.tokens()]
        assert row.response[row.mask == 1].tolist() == [token for turn in one.turns for token in turn.tokens()]
        between = stack.tokens._backend.decode(row.response[row.mask == 0].tolist(), skip_special_tokens=False)
        closed = ["" if turn.finish_reason == "stop" else "<|end|>" for turn in one.turns[:-1]]
        results = [turn.observation for turn in one.turns[1:]]
        assert between == "".join(f"{end}<|user|>{say}<|assistant|>" for end, say in zip(closed, results, strict=True))
        assert all(say == f"result {len(turn.response)}" for turn, say in zip(one.turns, results, strict=False))


def test_the_trainers_logprobs_of_that_row_are_the_samplers(stack: Stack) -> None:
    scorer = Scorer(load_policy(stack.policy))
    for batch in micro_batches(rows(stack, growing=True), 10_000):
        with torch.no_grad():
            found = scorer(batch, 1.0, "none")[0]
        assert len(found) > 1000
        assert (found - batch.behaviour).abs().max() < 1e-4


def gradients(stack: Stack, given: list[TrainingSample]) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Of one update, read before the optimiser uses them up. The policy has moved a little since it sampled, so that
    ratios differ from 1.
    """
    model = load_policy(stack.policy)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    run = TrainerSettings(device="cpu", kl_coefficient=0.02, entropy_coefficient=0.003, gradient_clip=1e9)
    learner = Learner(model, load_policy(stack.policy), recipe("grpo"), run)
    seen: dict[str, torch.Tensor] = {}
    learner.optimizer.register_step_pre_hook(
        lambda *_: seen.update({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    )
    return seen, learner.update([given], rate=1e-3)


def test_rows_of_episodes_have_the_gradient_of_rows_of_turns(stack: Stack) -> None:
    episodes, turns = rows(stack, growing=True), rows(stack, growing=False)
    assert (len(episodes), len(turns)) == (GROUPS * SIZE, GROUPS * SIZE * TURNS)
    assert len({round(advantage, 6) for row in episodes for _, advantage in row.turns}) > GROUPS
    one, metrics = gradients(stack, episodes)
    other, others = gradients(stack, turns)
    assert metrics["ratio_max"] > 1.1
    assert metrics["loss"] == pytest.approx(others["loss"], rel=1e-5)
    largest = max(float(grad.abs().max()) for grad in one.values())
    assert largest > 1e-3
    for name, grad in one.items():
        torch.testing.assert_close(other[name], grad, atol=1e-5 * largest, rtol=1e-5)


def test_the_engine_computes_only_what_is_new(stack: Stack) -> None:
    episodes = [one for group in stack.groups for one in group.trajectories]
    asked = sum(len(prompt) for one in episodes for prompt in one.prompts())
    assert stack.inference.metric("prompt_tokens_total") == asked
    # A group's first prompt once; then what came after the last token that was sampled, which has no keys yet.
    fresh = sum(len(group.trajectories[0].prompts()[0]) for group in stack.groups)
    for one in episodes:
        fresh += sum(len(turn.new_prompt()) + 1 for turn in one.turns[1:])
    assert stack.inference.metric("prompt_tokens_computed_total") <= fresh < asked / 5


async def demonstrated(environment: str, tokens: Tokens, out: Path) -> None:
    async with EnvironmentClient(environment) as environments:
        runner = Runner(environments, None, RolloutSettings(), get_logger("test"))
        assignments = demonstration_assignments("tally", "train", range(6), seed=0)
        played = await play_all(runner, assignments, ExpertPolicy(tokens, expert_noise=0.3), concurrency=6)
    write_demonstrations(out, assignments, played, "prompt", min_score=-1.0)


def test_cloning_learns_from_conversations_as_they_were(stack: Stack, tmp_path: Path) -> None:
    """Turn by turn, the loss is that of the whole conversations with nothing but the expert's words learnt."""
    asyncio.run(demonstrated(stack.environment, stack.tokens, tmp_path / "demonstrations"))
    groups = read_groups(tmp_path / "demonstrations")
    episodes = [one for group in groups for one in group.trajectories]
    turns = [pair for one in episodes for pair in zip(one.prompts(), one.turns, strict=True)]
    learnt = [(prompt, turn) for prompt, turn in turns if any(turn.loss_mask)]
    assert len(turns) == 6 * TURNS > len(learnt) > 6
    found = demonstration_rows(groups)
    assert [row.prompt.tolist() for row in found] == [prompt.tolist() for prompt, _ in learnt]
    assert [row.response.tolist() for row in found] == [turn.tokens().tolist() for _, turn in learnt]
    marks = [[[1.0] * len(one.turns) for one in group.trajectories] for group in groups]
    given = [
        ScoredGroup(group, GroupAdvantages(total=each, episode=each), (True,))
        for group, each in zip(groups, marks, strict=True)
    ]
    whole = training_samples(given, "", growing=True)
    assert len(whole) == 6
    scorer = Scorer(load_policy(stack.policy))
    with torch.no_grad():
        expected = negative_log_likelihood(scorer, whole, backward=False)
        assert negative_log_likelihood(scorer, found, backward=False) == pytest.approx(expected, rel=1e-5)


def test_a_response_ends_with_the_text_that_the_environment_stops_at(stack: Stack) -> None:
    stop = "!$%&"
    groups = asyncio.run(played(stack.environment, stack.inference.url, stack.tokens, list(stop)))
    episodes = [one for group in groups for one in group.trajectories]
    turns = [turn for one in episodes for turn in one.turns]
    stopped = [turn for turn in turns if turn.response.endswith(tuple(stop))]
    assert len(stopped) > len(turns) / 4
    assert {turn.finish_reason for turn in stopped} <= {"stop", "length"}
    assert all(not set(turn.response[:-1]) & set(stop) for turn in turns)
    assert all(one.conversations() == [(0, TURNS)] for one in episodes)  # what was cut off is closed, and goes on
