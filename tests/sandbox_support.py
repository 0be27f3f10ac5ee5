"""What tests of the sandbox share."""

import time


def wait_until(holds: object, seconds: float = 20.0) -> None:
    assert callable(holds)
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.005)
