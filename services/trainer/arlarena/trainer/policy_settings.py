"""The settings of the policy: tables `[policy]` and `[policy.tiny]`."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from arlarena.proto.config import Table
from arlarena.proto.shared_settings import PolicyKeys


class TinyPolicy(Table):
    """Shape of the tiny policy (table `[policy.tiny]`)."""

    hidden: PositiveInt = Field(default=128, description="width of the layers")
    layers: PositiveInt = Field(default=4, description="number of layers")
    heads: PositiveInt = Field(default=4, description="number of attention heads")
    kv_heads: PositiveInt = Field(
        default=2, description="number of key and value heads; heads must be a multiple of it"
    )
    head_dim: PositiveInt = Field(default=32, description="width of a head; must be even")
    ffn: PositiveInt = Field(default=512, description="width of the feed-forward layer")
    max_positions: PositiveInt = Field(default=512, description="maximum tokens of prompt and response together")
    words: tuple[str, ...] = Field(
        default=(),
        description="words that become one token each, instead of the environment's vocabulary; the reply tags of the "
        "environment are always tokens",
    )
    init_std: PositiveFloat = Field(default=0.08, description="standard deviation of the initial weights")

    @model_validator(mode="before")
    @classmethod
    def _removed(cls, values: Any) -> Any:
        if isinstance(values, dict) and "room_width" in values:
            raise ValueError(
                "room_width was removed: the environment now lists the texts that become one token each; leave "
                "room_width out"
            )
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads = {self.heads} must be a multiple of kv_heads = {self.kv_heads}")
        if self.head_dim % 2:
            raise ValueError(
                f"head_dim = {self.head_dim} must be even, because rotary embeddings rotate pairs of numbers"
            )
        return self


class PolicySettings(PolicyKeys):
    """Table `[policy]`: `path` selects an existing policy. Without `path`, the run creates a tiny policy."""

    tiny: TinyPolicy = Field(TinyPolicy(), description="shape of the tiny policy")

    @model_validator(mode="after")
    def _one_policy(self) -> Self:
        if self.path is not None and "tiny" in self.model_fields_set:
            raise ValueError(
                "path selects an existing policy, but [policy.tiny] is the shape of a new policy: leave out either "
                "path or [policy.tiny]"
            )
        return self
