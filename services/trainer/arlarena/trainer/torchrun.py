"""Runs torchrun, and exits with the status of the trainer. The options are those of torchrun:

    python -m arlarena.trainer.torchrun --nproc-per-node 4 -m arlarena.trainer train ...

torchrun itself always exits with 1 if a rank fails. Kubernetes and `arlarena up` must not restart a trainer after
status 2 (the configuration is wrong) and 4 (an error that would occur again). With status 1, they would restart it.
"""

from __future__ import annotations

import sys

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun


def main(arguments: list[str]) -> int:
    """Start the ranks (trainer processes) of this machine, and wait for their end.

    `arguments`: the command line of torchrun. Returns 0 if all ranks succeeded, else the exit status of the first rank
    that failed. If a signal ended this rank, the result is 1.
    """
    try:
        torchrun(arguments)
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        return max(int(failure.exitcode), 1)  # the exit code is negative after a signal
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
