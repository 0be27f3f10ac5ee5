"""Creates the player for each environment from MODEL and --strategy."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from arlarena.proto.config import ConfigError
from arlarena.proto.env_api import Info
from arlarena.proto.text.names import nearest
from arlarena.rollout.evaluation.start.environments import OpenedEnvironment
from arlarena.rollout.evaluation.strategies.debate import DebatePlayer
from arlarena.rollout.evaluation.strategies.expert import ExpertPlayer
from arlarena.rollout.evaluation.strategies.person import PersonPlayer
from arlarena.rollout.evaluation.strategies.plain import PlainPlayer
from arlarena.rollout.evaluation.strategies.protocol import Player
from arlarena.rollout.evaluation.strategies.random_player import RandomPlayer
from arlarena.rollout.evaluation.strategies.react import ReactPlayer
from arlarena.rollout.evaluation.strategies.reply_format import ReplyFormat

PERSON = "person"
# Values of MODEL for players that use no model.
SCRIPTED: Mapping[str, Callable[[ReplyFormat], Player]] = {
    "expert": lambda form: ExpertPlayer(),
    "random": lambda form: RandomPlayer(form),
    PERSON: lambda form: PersonPlayer(form),
}
STRATEGIES: Mapping[str, Callable[..., Player]] = {
    "plain": lambda form: PlainPlayer(),
    "react": ReactPlayer,
    "debate": DebatePlayer,
}


def check_player(model: str, one: OpenedEnvironment) -> None:
    """Check that the player `expert` or `random` can play an environment.

    Raises:
        ConfigError: MODEL is `expert`, and the environment has no expert. Or MODEL is `random`, and the schema of an
            OpenEnv environment lists no actions.
    """
    if model == "expert" and "expert" not in one.info.capabilities:
        raise ConfigError(f"MODEL expert: {one.info.name} has no expert; choose a model, or person")
    if model == "random" and one.own_client is None and not one.info.actions:
        raise ConfigError(
            f"MODEL random: the schema of {one.info.name} lists no actions to choose from; choose a model, or person"
        )


def player_of(model: str, strategy: str, options: Mapping[str, Any], info: Info) -> Player:
    """Return the player for an environment.

    Raises:
        ConfigError: the strategy or one of its options is unknown or invalid. Or the player uses no model, and a
            strategy other than `plain` or an option of a strategy is given.
    """
    return _player(model, strategy, options, ReplyFormat.of(info.parser))


def check_strategy(model: str, strategy: str, options: Mapping[str, Any]) -> None:
    """Check a strategy without an environment.

    Raises:
        ConfigError: see `player_of`.
    """
    _player(model, strategy, options, ReplyFormat())


def _player(model: str, strategy: str, options: Mapping[str, Any], form: ReplyFormat) -> Player:
    if model in SCRIPTED:
        if strategy != "plain" or options:
            raise ConfigError(f"--strategy and --strategy-option are for models; the player {model} uses no model")
        return SCRIPTED[model](form)
    if strategy not in STRATEGIES:
        raise ConfigError(f"--strategy {strategy}: unknown; {nearest(strategy, STRATEGIES)}")
    known = set(list(inspect.signature(STRATEGIES[strategy]).parameters)[1:]) - {"name"}  # without the reply format
    if unknown := sorted(options.keys() - known):
        raise ConfigError(
            f"--strategy-option {unknown[0]}: {strategy} has no such option; {nearest(unknown[0], known)}"
        )
    try:
        return STRATEGIES[strategy](form, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"--strategy {strategy}: {error}") from error
