"""The holder of the trainer's lease: decoding of invalid values."""

import pytest

from arlarena.proto.streams.lease_holder import Holder


def test_a_holder_survives_encoding() -> None:
    holder = Holder.of_this_process("1")
    assert Holder.decode(holder.encode()) == holder


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xff",
        b"5",
        b"{}",
        b'{"incarnation": "1", "host": "h", "machine": "m", "pid": Infinity, "started": 0, "nonce": ""}',
    ],
)
def test_an_invalid_value_becomes_a_holder_on_an_unknown_machine(value: bytes) -> None:
    holder = Holder.decode(value)
    assert holder.machine == "unknown"
    assert not holder.is_here()
