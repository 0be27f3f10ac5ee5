"""The `arlarena` command."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from importlib.metadata import version as distribution_version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from arlarena.console.cli.run_commands import ExportFormat, export_arguments, list_runs, status, view
from arlarena.console.launch.failures import LaunchError, Stopped
from arlarena.console.rundir import ExistingRunPolicy, RunDirectory
from arlarena.proto.config import ConfigError, print_error
from arlarena.proto.text.redaction import redact, redacted_stderr
from arlarena.proto.text.usage_name import VARIABLE
from arlarena.proto.text.wording import printable

if TYPE_CHECKING:
    from arlarena.console.cli.doctor import Finding

# Each command imports most modules inside its function. This makes `arlarena serve env` and `--help` start fast.

app = typer.Typer(
    name="arlarena",
    help="Train and evaluate language-model agents over many turns.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # in help texts, brackets are text: [run] seed
    context_settings={"help_option_names": ["-h", "--help"]},
)
serve = typer.Typer(help="Run one service in the foreground.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(serve, name="serve")
init_commands = typer.Typer(help="Write a new package from a template.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(init_commands, name="init")

PackageName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the package, a Python identifier.")]
Into = Annotated[Path, typer.Option("--into", metavar="FOLDER", help="Parent folder of the package.")]

EnvironmentUrl = Annotated[
    str | None, typer.Option(help="URL of the environment server; default: ARLARENA_ENVIRONMENT_URL.")
]
InferenceUrl = Annotated[str | None, typer.Option(help="URL of the policy server; default: ARLARENA_INFERENCE_URL.")]
JoinedService = Literal["inference", "trainer", "rollout"]

# Settings of a command that starts a service. The command passes all options, including --help, to the service.
PASS_ON = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
VERDICTS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "problem": ("✗", "bold red")}


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"arlarena {distribution_version('arlarena-console')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Train and evaluate language-model agents over many turns."""


@app.command()
def up(
    config: Annotated[Path, typer.Argument(help="TOML file of the run, for example configs/demo.toml.")],
    seed: Annotated[int | None, typer.Option(min=0, help="Overrides [run] seed and ARLARENA_SEED.")] = None,
    run_dir: Annotated[Path | None, typer.Option(help="The run directory; default: runs/<name>.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the run directory.")] = False,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Start a new run. The old run is renamed: <directory>.previous, .previous-2, …"),
    ] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Set a key, as in trainer.recipe=grpo. May be repeated."),
    ] = None,
    plugins: Annotated[
        list[str] | None,
        typer.Option(
            "--plugin",
            metavar="MODULE",
            help="Module that registers recipes, clips, advantages or filters; added to [trainer] plugins. May be "
            "repeated.",
        ),
    ] = None,
    attach: Annotated[
        bool,
        typer.Option(
            "--attach",
            help="Start no services, but use services that run elsewhere (`arlarena join` starts them). If the run "
            "directory contains a run, continue it.",
        ),
    ] = False,
    page: Annotated[
        bool | None,
        typer.Option("--page/--no-page", help="Show the run in the browser, or not; overrides [console] page."),
    ] = None,
    environment_url: EnvironmentUrl = None,
    inference_url: InferenceUrl = None,
) -> None:
    """Train and evaluate on this machine.

    Starts broker, environment server, policy server, workers and trainer, evaluates the policy before and after
    training, and writes a report. With --attach, the services run elsewhere, for example in containers. Prints the
    address of a page that shows the run.

    Exit status: 0: finished; 1: the run failed; 2: the configuration is wrong; 3: a port cannot be used; 128 + n:
    stopped by signal n.
    """
    start = _existing_run_policy(resume, fresh, attach)
    from arlarena.console.launch import launcher
    from arlarena.console.settings import service_addresses

    addresses = None
    if attach:
        addresses = service_addresses({"environment_url": environment_url, "inference_url": inference_url})
    overrides = (overrides or []) + ([] if page is None else [f"console.page={str(page).lower()}"])
    request = launcher.LaunchRequest(config, tuple(overrides), seed, run_dir, start, tuple(plugins or ()), addresses)
    launcher.up(request, Console(highlight=False))


def _existing_run_policy(resume: bool, fresh: bool, attach: bool) -> ExistingRunPolicy:
    """Returns the action for an existing run. Raises typer.BadParameter if two options exclude each other."""
    if resume and fresh:
        raise typer.BadParameter("--resume and --fresh exclude each other")
    if fresh and attach:
        raise typer.BadParameter(
            "--attach and --fresh exclude each other, because running services use the run directory. To start a new "
            "run, stop the services, remove the run directory, and omit --fresh"
        )
    if attach:
        return ExistingRunPolicy.CONTINUE
    return ExistingRunPolicy.RESUME if resume else ExistingRunPolicy.FRESH if fresh else ExistingRunPolicy.NEW


@app.command()
def join(
    service: Annotated[JoinedService, typer.Argument(help="The service to start.")],
    run: Annotated[Path, typer.Argument(help="Run directory. `arlarena up --attach` creates it.")],
    host: Annotated[str, typer.Option(help="Address that the policy server binds.")] = "0.0.0.0",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the policy server.")] = 8100,
    environment_url: EnvironmentUrl = None,
    inference_url: InferenceUrl = None,
) -> None:
    """Start one service of a run of `arlarena up --attach`.

    Waits until the run reaches the stage that needs the service. Then starts the service in this process, with the
    configuration of the run. Workers and trainer connect to the Redis at ARLARENA_REDIS_URL.
    """
    from arlarena.console.attach.join import Join
    from arlarena.console.settings import service_addresses

    addresses = service_addresses({"environment_url": environment_url, "inference_url": inference_url})
    Join(service, RunDirectory(run), addresses, host, port).start()


@app.command()
def report(run: Annotated[Path, typer.Argument(help="Directory of a run, for example runs/demo.")]) -> None:
    """Write report.html of a run again. This also works for an unfinished run."""
    from arlarena.console.report.html_page import write_report
    from arlarena.console.report.summary import read_json

    directory = RunDirectory(run)
    if directory.read_state() is None:
        raise ConfigError(f"{run} is not a run directory of ARLArena (no run.json)")
    summary = read_json(directory.summary) if directory.summary.exists() else None
    typer.echo(str(write_report(directory, summary)))


@app.command("config")
def show_configuration(
    table: Annotated[str | None, typer.Argument(help="A table, for example trainer; default: all tables.")] = None,
) -> None:
    """Print the settings that a configuration file can contain.

    Shows the default, type, range, unit and description of each setting.
    """
    from arlarena.console.cli.configuration import describe, read_tables

    typer.echo(describe(read_tables(), table))


@init_commands.command("env")
def init_environment(name: PackageName, into: Into = Path()) -> None:
    """Write a new environment.

    The package contains a text game with tasks, prompt, expert and test, and the configuration of a short run.
    """
    _init("environment", name, into)


@init_commands.command("objective")
def init_objective(name: PackageName, into: Into = Path()) -> None:
    """Write a new objective.

    The package contains a clipping function with one hyperparameter, a recipe that uses this function, a test, and the
    configuration of a short run.
    """
    _init("objective", name, into)


def _init(kind: str, name: str, into: Path) -> None:
    from arlarena.console.cli.scaffold import init

    folder = init(kind, name, into)
    typer.echo(f"{folder} contains the new package. Next: cd {shlex.quote(str(folder))} && pip install -e . && pytest")


@app.command()
def doctor(
    attach: Annotated[
        bool, typer.Option("--attach", help="Check only the services that `arlarena up --attach` uses.")
    ] = False,
    compose: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Check only whether this machine can run the compose.yaml in FOLDER."),
    ] = None,
    environment_url: EnvironmentUrl = None,
    inference_url: InferenceUrl = None,
) -> None:
    """Check whether this machine can run ARLArena.

    Checks Python, cores, memory, torch, the services, the broker, ports and disk. With --attach, checks the environment
    server, the policy server and Redis. With --compose, checks the engine, secrets, ports and images. The exit status
    is 1 if a requirement is missing.
    """
    findings: list[Finding] = []
    if compose is not None:
        from arlarena.console.cli.doctor_compose import examine_compose

        findings += examine_compose(compose)
    if attach:
        from arlarena.console.cli.doctor_services import examine_services
        from arlarena.console.settings import service_addresses

        addresses = service_addresses({"environment_url": environment_url, "inference_url": inference_url})
        findings += examine_services(addresses)
    if not attach and compose is None:
        from arlarena.console.cli.doctor import examine

        findings += examine()
    _print_findings(findings)


def _print_findings(findings: list[Finding]) -> None:
    console = Console(highlight=False)
    for finding in findings:
        mark, style = VERDICTS[finding.verdict]
        console.print(
            Text.assemble((f"{mark} ", style), f"{finding.check:<9}", printable(redact(finding.result))), soft_wrap=True
        )
    if any(finding.verdict == "problem" for finding in findings):
        raise typer.Exit(1)


def _exec(command: str, *arguments: str) -> NoReturn:
    """Replace this process with the process of a service. The service then gets all signals and sets the exit status.

    `command`: the `arlarena` subcommand that the service shows in its usage text.
    """
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, "-m", *arguments], os.environ | {VARIABLE: f"arlarena {command}"})


@serve.command("env", context_settings=PASS_ON)
def serve_environment(
    context: typer.Context, name: Annotated[str, typer.Argument(help="Environment, for example sokoban.")]
) -> None:
    """Serve the environment NAME. Passes further options to the server (--config FILE --host H --port P)."""
    _exec("serve env", "arlarena.env_server", name, *context.args)


@serve.command("inference", context_settings=PASS_ON)
def serve_inference(context: typer.Context) -> None:
    """Serve a policy.

    Passes all options to the server (--config FILE --model MODEL --weights-root DIR --host H --port P).
    """
    _exec("serve inference", "arlarena.inference", *context.args)


@serve.command("broker")
def serve_broker_command(
    directory: Annotated[Path, typer.Option("--dir", help="Directory for data and log.")] = Path("runs/broker"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: a free port.")] = 0,
) -> None:
    """Run a Valkey or Redis server on 127.0.0.1 until Ctrl-C."""
    from arlarena.console.cli.foreground import serve_broker

    asyncio.run(serve_broker(directory, port or None))


@app.command(context_settings=PASS_ON)
def replay(context: typer.Context) -> None:
    """Compare methods on recorded groups, without training. `arlarena replay --help` lists the options."""
    _exec("replay", "arlarena.trainer", "replay", *context.args)


@app.command(context_settings=PASS_ON)
def train(context: typer.Context) -> None:
    """Run the trainer alone. `arlarena train --help` lists its options."""
    _exec("train", "arlarena.trainer", "train", *context.args)


@app.command(context_settings=PASS_ON)
def clone(context: typer.Context) -> None:
    """Run behaviour cloning alone. `arlarena clone --help` lists its options."""
    _exec("clone", "arlarena.trainer", "clone", *context.args)


@app.command("eval", context_settings=PASS_ON)
def evaluate(context: typer.Context) -> None:
    """Evaluate any model on environments. `arlarena eval --help` lists the options."""
    _exec("eval", "arlarena.rollout.evaluation", *context.args)


@app.command(context_settings=PASS_ON)
def leaderboard(context: typer.Context) -> None:
    """Merge evaluations into one table. `arlarena leaderboard --help` lists the options."""
    _exec("leaderboard", "arlarena.rollout.evaluation.report", "leaderboard", *context.args)


@app.command(context_settings=PASS_ON)
def compare(context: typer.Context) -> None:
    """Compare two evaluations of the same tasks. `arlarena compare --help` lists the options."""
    _exec("compare", "arlarena.rollout.evaluation.report", "compare", *context.args)


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def export(
    context: typer.Context,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory of a run or of an evaluation.")],
    format: Annotated[
        ExportFormat | None, typer.Option("--format", help="File format; default for a run: csv.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder for the files; default: the folder DIR-export beside DIR."),
    ] = None,
) -> None:
    """Write a run or an evaluation in other formats.

    For a run, writes metrics (one row per step) and episodes (one row per episode). For an evaluation, writes its
    attempts as csv or parquet. Evaluations have further options: --inspect FOLDER, --csv FILE, --parquet FILE,
    --prices FILE. Without an option, writes the summary and the report of the evaluation again.
    """
    arguments = export_arguments(directory, format, out, context.args)
    if arguments is not None:
        _exec("export", "arlarena.rollout.evaluation.report", "export", *arguments)


app.command()(view)
app.command("runs")(list_runs)
app.command()(status)


@app.command(context_settings=PASS_ON)
def verify(context: typer.Context) -> None:
    """Check a training run and write its certificate. `arlarena verify --help` lists the options."""
    _exec("verify", "arlarena.rollout.evaluation.certificate", "verify", *context.args)


@app.command(context_settings=PASS_ON)
def rescore(context: typer.Context) -> None:
    """Judge recorded episodes again, without inference. `arlarena rescore --help` lists the options."""
    _exec("rescore", "arlarena.rollout.evaluation.certificate", "rescore", *context.args)


def main() -> None:
    """Run the `arlarena` command. Errors that the user can fix are printed without a stack trace."""
    with redacted_stderr():
        try:
            app()
        except ConfigError as error:
            _fail(str(error), 2)
        except Stopped as stopped:
            print(printable(redact(str(stopped))), file=sys.stderr)
            sys.exit(stopped.code)
        except LaunchError as error:
            _fail(str(error), error.code)


def _fail(message: str, code: int) -> NoReturn:
    for line in message.splitlines() or ["unknown"]:
        print_error(line)
    sys.exit(code)
