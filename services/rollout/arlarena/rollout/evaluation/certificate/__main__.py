"""`python -m arlarena.rollout.evaluation.certificate verify RUN | rescore DIR`.

Exit status of `verify`: 0: every check passed or does not apply; 1: a check failed or could not be done.
Exit status of `rescore`: 0: all episodes were judged; 1: some episodes were not judged.
Exit status of both commands: 1: a service failed; 2: the command line or the directory is wrong, the environment server
does not start, or tasks could not be reset (only `verify`); 130: Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from arlarena.client.errors import ServiceError
from arlarena.proto.config import exit_on_config_error, print_error
from arlarena.proto.telemetry import get_logger
from arlarena.proto.text.usage_name import program
from arlarena.proto.text.wording import printable
from arlarena.rollout.arguments import int_at_least
from arlarena.rollout.evaluation.certificate.checks import table
from arlarena.rollout.evaluation.certificate.rescore import RESCORED, Rescored, RescoreRequest, rescore
from arlarena.rollout.evaluation.certificate.verify import CERTIFICATE, PER_FILE, VerifyRequest, verify
from arlarena.rollout.evaluation.errors import EvaluationError
from arlarena.rollout.evaluation.report.tables import NOTHING, FigureTable
from arlarena.rollout.runner import InfraFailure

PROGRAM = "arlarena.rollout.evaluation.certificate"
# Maximum number of tasks with a changed judgement that the terminal lists. rescored.json contains all of them.
LISTED = 10


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program(PROGRAM), description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    checking = "check a training run and write its certificate: tasks, versions, digests, outcomes of groups, replay"
    verifying = commands.add_parser("verify", help=checking, description=checking, prog=program(f"{PROGRAM} verify"))
    verifying.add_argument("run", type=Path, help="directory of a training run, for example runs/demo")
    number = f"number of episodes to replay from each file; 0: all episodes (default: {PER_FILE})"
    verifying.add_argument("--replay", type=int_at_least(0), default=PER_FILE, metavar="N", help=number)
    verifying.add_argument("--seed", type=int, default=0, help="seed of the choice of these episodes (default: 0)")
    verifying.add_argument("--out", type=Path, help=f"file of the certificate (default: RUN/{CERTIFICATE})")
    judging = "judge recorded episodes again with the current environment, without inference"
    rescoring = commands.add_parser("rescore", help=judging, description=judging, prog=program(f"{PROGRAM} rescore"))
    rescoring.add_argument("directory", type=Path, help="directory of a training run or of an evaluation")
    rescoring.add_argument("--out", type=Path, help=f"result file (default: DIRECTORY/{RESCORED})")
    for each in (verifying, rescoring):
        url = "URL of a running environment server (default: start a server with the recorded options)"
        each.add_argument("--environment-url", metavar="URL", help=url)
    return parser


async def _verify(args: argparse.Namespace, console: Console) -> int:
    request = VerifyRequest(args.run, args.environment_url, args.replay, args.seed, args.out)
    certificate = await verify(request, get_logger("verify", "warning"))
    console.print(table(certificate.checks, f"Certificate of {printable(str(args.run))}"))
    console.print("passed" if certificate.passed else "NOT passed", style="green" if certificate.passed else "bold red")
    console.print(printable(str(args.out or args.run / CERTIFICATE)), soft_wrap=True)
    return 0 if certificate.passed else 1


async def _rescore(args: argparse.Namespace, console: Console) -> int:
    request = RescoreRequest(args.directory, args.environment_url, args.out)
    result = await rescore(request, get_logger("rescore", "warning"))
    show_rescored(result, console)
    console.print(printable(str(args.out or args.directory / RESCORED)), soft_wrap=True)
    return 0 if all(each.new is not None for each in result.episodes) else 1


def show_rescored(result: Rescored, console: Console) -> None:
    """Print a table with one row for each file, and the first `LISTED` tasks with a changed judgement."""
    shown = FigureTable(["judged", "success\nbefore", "success\nnow", "changed", "diverged", "unfinished"])
    for each in result.files:
        shares = (
            NOTHING if share is None else f"{100 * share:.1f} %" for share in (each.success_old, each.success_new)
        )
        counts = (f"{count:,}" for count in (each.changed, each.diverged, each.unfinished))
        shown.add(printable(each.source), [f"{each.judged:,} of {each.episodes:,}", *shares, *counts])
    console.print(Text("Judged again", "bold"), shown, sep="\n")
    for task in result.changed[:LISTED]:
        console.print(f"changed: {printable(task)}", soft_wrap=True)
    if (more := len(result.changed) - LISTED) > 0:
        console.print(f"… and {more:,} more")


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns the exit status. Errors that the user can fix are printed as one line on stderr."""
    args = _parser().parse_args(argv)
    command = _verify if args.command == "verify" else _rescore
    try:
        return asyncio.run(command(args, Console(highlight=False)))
    except EvaluationError as error:
        print_error(error)
        return 2
    except (ServiceError, InfraFailure, OSError) as error:
        print_error(error)
        return 1


if __name__ == "__main__":
    sys.exit(exit_on_config_error(main))
