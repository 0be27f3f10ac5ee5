"""torchrun, with the exit status of the trainer. The options are those of torchrun:

    python -m arlarena.trainer.torchrun --nproc-per-node 4 -m arlarena.trainer train ...

torchrun itself exits with 1 if a rank fails. So Kubernetes and `arlarena up` would restart a trainer that has ended
with 2 (the configuration is wrong) or 4 (an error that would occur again).
"""

from __future__ import annotations

import sys

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun


def main(arguments: list[str]) -> int:
    """Start the ranks of this machine and wait for their end. Returns the exit status of the first rank that failed.

    It is 1 if a signal has ended this rank. 0: all ranks succeeded.
    """
    try:
        torchrun(arguments)
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        return max(int(failure.exitcode), 1)  # negative after a signal
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
