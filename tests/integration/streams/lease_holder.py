"""A trainer for the tests, `lease_holder.py URL RUN INCARNATION --ttl S`: takes the lease, executes commands of stdin.

Prints "held" or the error; then, for each line "check" or "release", "ok" or the error.
"""

import argparse
import sys

from arlarena.proto.streams.queue import StreamError
from arlarena.proto.streams.trainer_lease import TrainerLease


def attempt(call, done: str):
    try:
        result = call()
    except StreamError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        return None
    print(done, flush=True)
    return result


parser = argparse.ArgumentParser()
parser.add_argument("url")
parser.add_argument("run")
parser.add_argument("incarnation")
parser.add_argument("--ttl", type=float, required=True)
options = parser.parse_args()
lease = attempt(lambda: TrainerLease.acquire(options.url, options.run, options.incarnation, ttl_s=options.ttl), "held")
for line in sys.stdin:
    attempt({"check": lease.check, "release": lease.release}[line.strip()], "ok")
