"""Ends of text-game episodes, and environments without an expert."""

import asyncio
from unittest import SkipTest

import pytest
from support.environments.conversation_support import serving

from arlarena.client.environments import EnvironmentClient
from arlarena.client.errors import ServiceError
from arlarena.environment.contract import CHECKS, ContractError, NotApplicable
from arlarena.environment.prompts import PromptTemplate, Scene, past_turn
from arlarena.environment.protocols import ExpertUnavailable
from arlarena.environment.text_game import TextEnvironment, TextGame
from arlarena.proto.env_api import ResetSpec, Split

SCORES = {"win": 1.0, "draw": 0.5, "lose": 0.0}
NEED_EXPERT = ("knows_the_strict_format", "has_an_expert_that_solves_it")
REWARDS = {"win": 10.0, "draw": 1.0, "lose": -5.0, "wait": -0.1}


class Ending(TextGame):
    """A game whose actions are its possible ends."""

    def __init__(self, task):
        self.content_key, self.ending, self.score = task.id, "", 0.0

    def text(self):
        return f"ended by {self.ending}" if self.ending else "running"

    def state(self):
        return self.ending

    def actions(self):
        return list(REWARDS)

    @property
    def over(self):
        return bool(self.ending)

    def play(self, action):
        if action in SCORES:
            self.ending, self.score = action, SCORES[action]
        return REWARDS.get(action, -0.2)


class EndingEnvironment(TextEnvironment):
    name, version, description, horizon = "ending", "1", "End the game.", 3
    template = PromptTemplate("full", "1", "{observation}")
    splits = (Split("train", "train", None, False), Split("test", "test", 8, True))
    rewards, actions, expert = REWARDS, tuple(REWARDS), False

    def game(self, task):
        return Ending(task)


def played(*actions):
    environment = EndingEnvironment()
    episode = environment.start(environment.task(ResetSpec(index=0)))
    return [episode.step(action) for action in actions][-1]


@pytest.mark.parametrize(
    ("actions", "reward", "score", "success", "terminated"),
    [
        (["wait", "win"], 10.0, 1.0, True, True),
        (["lose"], -5.0, 0.0, False, True),
        (["wait", "wait", "draw"], 1.0, 0.5, False, True),
        (["wait", "?", "wait"], -0.1, 0.0, False, False),
    ],
    ids=["won", "lost", "drawn", "horizon"],
)
def test_each_end_has_its_validity_marks(actions, reward, score, success, terminated):
    last = played(*actions)
    assert last.done
    assert (last.observation.terminated, last.observation.truncated) == (terminated, not terminated)
    assert (last.reward, last.metadata.score, last.metadata.success) == (reward, score, success)


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_the_contract_holds_without_an_expert(check):
    if check.__name__ in NEED_EXPERT:
        with pytest.raises(NotApplicable, match="no expert"):
            check(EndingEnvironment())
    else:
        check(EndingEnvironment())


def test_the_contract_names_an_expert_that_is_promised_and_missing():
    environment = EndingEnvironment()
    environment.expert = True
    with pytest.raises(ContractError, match="if the environment has no expert, set `expert = False`"):
        CHECKS["has_an_expert_that_solves_it"](environment)


def test_the_contract_refuses_a_lost_game_that_continues_without_actions(monkeypatch):
    monkeypatch.setattr(Ending, "over", property(lambda self: self.solved))
    monkeypatch.setattr(Ending, "actions", lambda self: [] if self.ending else list(REWARDS))
    with pytest.raises(ContractError, match="continues without an admissible action"):
        CHECKS["offers_actions_until_the_end"](EndingEnvironment())


def test_the_contract_accepts_a_game_lost_by_an_unreadable_reply(monkeypatch):
    def play(self, action):
        self.ending = self.ending or "lose"
        return -5.0

    monkeypatch.setattr(Ending, "play", play)
    for name, check in CHECKS.items():
        if name == "has_keys_of_states":
            with pytest.raises(NotApplicable, match="ends the episode"):
                check(EndingEnvironment())
        elif name not in NEED_EXPERT:
            check(EndingEnvironment())


def test_a_server_without_an_expert_reports_it():
    async def ask(url):
        async with EnvironmentClient(url) as environments:
            assert "expert" not in (await environments.info()).capabilities
            (session,) = await environments.open(1)
            await session.reset(split="train", index=0)
            with pytest.raises(ServiceError, match="no expert"):
                await session.expert()
            return (await session.step("lose")).observation.terminated

    with serving(EndingEnvironment()) as url:
        assert asyncio.run(ask(url))


def test_a_game_has_no_expert_by_default():
    environment = EndingEnvironment()
    with pytest.raises(ExpertUnavailable):
        environment.start(environment.task(ResetSpec(index=0))).expert()


def test_actions_are_the_default_vocabulary():
    assert EndingEnvironment().info.vocabulary == list(REWARDS)


class Guessing(Ending):
    """Any text is an action, and only "even" numbers are accepted. The observation repeats the task."""

    task = "Say an even number."

    def actions(self):
        return None

    def accepts(self, action):
        return action.isdigit() and int(action) % 2 == 0

    def text(self):
        return f"{self.task} Said: {self.ending or 'nothing'}"

    def prompt_text(self):
        return f"Said: {self.ending or 'nothing'}"

    def play(self, action):
        if action is not None and self.accepts(action):
            self.ending, self.score = action, 1.0
        return 0.0


class GuessingEnvironment(EndingEnvironment):
    template = PromptTemplate("full", "1", "{task}{history}\n{observation}")

    def game(self, task):
        return Guessing(task)


def test_an_action_that_the_game_does_not_accept_is_marked_and_has_a_valid_format():
    environment = GuessingEnvironment()
    episode = environment.start(environment.task(ResetSpec(index=0)))
    marks = []
    for reply in ("<think>x</think><action>3</action>", "<think>x</think>", "4"):
        seen = episode.step(reply).observation
        marks.append((seen.action_valid, seen.format_valid))
    assert marks == [(False, True), (False, False), (True, False)]
    assert episode.done


def test_every_readable_action_is_accepted_by_default():
    environment = EndingEnvironment()
    episode = environment.start(environment.task(ResetSpec(index=0)))
    assert episode.step("wait").observation.action_valid
    assert not episode.step("unknown").observation.action_valid


def test_prompts_show_the_observation_and_its_history_without_what_the_template_adds():
    environment = GuessingEnvironment()
    episode = environment.start(environment.task(ResetSpec(index=0)))
    seen = episode.step("3").observation
    assert seen.text == "Say an even number. Said: nothing"
    assert seen.prompt.count("Say an even number.") == 1
    assert seen.prompt.count("Said: nothing") == 2


def test_a_template_with_braces_and_percent_signs_is_rendered_as_str_format_does():
    text = "100 % {{sure}} %(task)s {observation}, {remaining}/{horizon} %{task}{history}{actions}"
    scene = Scene("a {room} 50 %s", [past_turn(1, "{x}", "go %d")], 3, 9, "up, {down}", "find {it}")
    history = "\nYour last step:\n[Step 1]\n{x}\nYour action: go %d\n"
    values = {"observation": scene.observation, "remaining": 3, "horizon": 9, "task": scene.task}
    expected = text.format(**values, history=history, actions=scene.actions)
    assert PromptTemplate("full", "1", text).render(scene) == expected


@pytest.mark.parametrize(("text", "prompt"), [("5 %", "5 %"), ("{actions}!", "(1, 2)!"), ("{horizon} %", "9 %")])
def test_a_template_may_have_one_field_or_none(text, prompt):
    assert PromptTemplate("full", "1", text).render(Scene("", (), 3, 9, "(1, 2)")) == prompt


@pytest.mark.parametrize("text", ["{tsak}", "{}", "{remaining:3d}", "{task!r}", "{task.name}", "{task"])
def test_a_template_with_an_unknown_field_is_refused_when_it_is_made(text):
    with pytest.raises(ValueError, match="template 'full'"):
        PromptTemplate("full", "1", text)


def test_the_contract_refuses_a_prompt_that_lacks_a_part_of_the_observation(monkeypatch):
    check = CHECKS["begins_with_an_observation"]
    check(GuessingEnvironment())
    monkeypatch.setattr(GuessingEnvironment, "template", PromptTemplate("full", "1", "{observation}"))
    with pytest.raises(ContractError, match=r"the prompt lacks words of the observation's text, such as 'Say'"):
        check(GuessingEnvironment())


def test_pytest_skips_a_check_that_does_not_apply():
    assert issubclass(NotApplicable, SkipTest)  # pytest skips a test that raises `unittest.SkipTest`
