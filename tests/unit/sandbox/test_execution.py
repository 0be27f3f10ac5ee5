"""Results of executions: output is truncated at the limit of both streams together."""

import pytest

from arlarena.sandbox.execution import Execution, ResourceUsage
from arlarena.sandbox.limits import ExecutionLimits

LIMITS = ExecutionLimits(output_bytes=8)


@pytest.mark.parametrize(
    ("streams", "shown"),
    [
        ((b"12345", b"abc"), ("12345", "abc")),
        ((b"12345", b"abcdef"), ("12345", "abc")),
        ((b"123456789", b"abc"), ("12345678", "")),
        ((b"", b"abcdefghi"), ("", "abcdefgh")),
    ],
)
def test_both_streams_together_are_truncated_at_the_limit(streams, shown):
    execution = Execution.of("output", streams, LIMITS, "", ResourceUsage(0.1))
    assert (execution.stdout, execution.stderr) == shown
    assert execution.detail == "OutputError: the program wrote more than 8 bytes"
