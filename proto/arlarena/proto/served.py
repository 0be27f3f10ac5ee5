"""Describes the environment that a server plays, so that a later reader can tell whether results are comparable."""

from __future__ import annotations

import hashlib

import msgspec

from arlarena.proto.env_api import Info


class ServedEnvironment(msgspec.Struct, frozen=True):
    """The name and the versions of a served environment, as runs record them.

    `template`, `parser`: name and version, and a hash of the exact text, because a text can change without its version.
    """

    name: str
    version: str
    template: str
    parser: str

    @classmethod
    def of(cls, info: Info) -> ServedEnvironment:
        """Returns the description of the environment that `/v1/info` describes."""
        parser = f"{info.parser.description}\0{info.parser.action}\0{info.parser.tags}"
        return cls(
            info.name,
            info.version,
            f"{info.template.name} {info.template.version} {_short_hash(info.template.text)}",
            f"{info.parser.version} {_short_hash(parser)}",
        )

    def differences(self, other: ServedEnvironment) -> list[str]:
        """Returns one text for each field that differs, such as `version: 1 here, 2 there`."""
        pairs = ((name, getattr(self, name), getattr(other, name)) for name in self.__struct_fields__)
        return [f"{name}: {mine!r} here, {theirs!r} there" for name, mine, theirs in pairs if mine != theirs]


def _short_hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
