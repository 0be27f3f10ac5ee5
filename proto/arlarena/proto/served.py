"""The name and versions of a server's environment. Results are comparable only if these values are equal."""

from __future__ import annotations

import hashlib

import msgspec

from arlarena.proto.env_api import Info


class ServedEnvironment(msgspec.Struct, frozen=True):
    """The name and the versions of an environment on a server. Each run records these values.

    `template`: name, version and hash of the prompt template. `parser`: version and hash of the parser's description. A
    hash detects that a text has changed although its version is the same.
    """

    name: str
    version: str
    template: str
    parser: str

    @classmethod
    def of(cls, info: Info) -> ServedEnvironment:
        """Returns the name and the versions from `info`, the reply of `/v1/info`."""
        parser = f"{info.parser.description}\0{info.parser.action}\0{info.parser.tags}"
        return cls(
            info.name,
            info.version,
            f"{info.template.name} {info.template.version} {_short_hash(info.template.text)}",
            f"{info.parser.version} {_short_hash(parser)}",
        )

    def differences(self, other: ServedEnvironment) -> list[str]:
        """Returns one text for each field with another value in `other`, such as `version: '1' here, '2' there`."""
        pairs = ((name, getattr(self, name), getattr(other, name)) for name in self.__struct_fields__)
        return [f"{name}: {mine!r} here, {theirs!r} there" for name, mine, theirs in pairs if mine != theirs]


def _short_hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
