"""The configuration of one run: the user's file, overrides from the command line, and computed thread counts.

Before the run starts, the settings module of each service checks the configuration.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import tomli_w

from arlarena.console.paths import make_existing_paths_absolute, without_dots
from arlarena.console.settings import (
    BrokerSettings,
    ConsoleSettings,
    inherited,
    seed_from_environment,
    validate,
)
from arlarena.proto.atomic_files import write_text
from arlarena.proto.config import (
    TABLES,
    ConfigError,
    Model,
    assigned,
    parse_assignment,
    parse_part,
    parse_table,
    read_with_secrets,
    secrets_file,
)
from arlarena.proto.env_api import Info
from arlarena.proto.shared_settings import (
    CloneKeys,
    EnvironmentKeys,
    InferenceKeys,
    PolicyKeys,
    RunSettings,
    TrainerKeys,
)
from arlarena.proto.text.redaction import MASK, is_secret, split_secrets

SERVICES = ("env_server", "inference", "rollout", "trainer")
Tables = dict[str, Any]


def parse_override(text: str) -> tuple[list[str], Any]:
    """Parse an override: `trainer.lr=1e-4` gives (["trainer", "lr"], 0.0001).

    A value that is not valid TOML is read as a string.

    Raises:
        ConfigError: the table, key or value is missing.
    """
    form = "table.key=value, for example trainer.recipe=grpo"
    key, value = parse_assignment(text, form)
    parts = key.split(".")
    if len(parts) < 2 or not all(parts):
        raise ConfigError(f"--set {assigned(text)}: write it as {form}")
    return parts, value


def masked_override(text: str) -> str:
    """Returns the override `text` for messages, without a secret value.

    If the override is malformed, returns only the text before "=".
    """
    try:
        parts, value = parse_override(text)
    except ConfigError:
        return text.partition("=")[0]
    return f"{'.'.join(parts)}={MASK}" if is_secret(parts[-1], value) else text


def override(tables: Tables, text: str) -> None:
    """Apply one override to `tables`.

    Raises:
        ConfigError: the override is malformed, its table is unknown, or a part of its key is not a table.
    """
    parts, value = parse_override(text)
    if parts[0] not in TABLES:
        raise ConfigError(f"--set {masked_override(text)}: there is no table [{parts[0]}]; known: {', '.join(TABLES)}")
    place = tables
    for part in parts[:-1]:
        place = place.setdefault(part, {})
        if not isinstance(place, dict):
            raise ConfigError(f"--set {masked_override(text)}: {part} is a value, not a table")
    place[parts[-1]] = value


@dataclass(frozen=True, slots=True)
class RunConfig:
    """The tables of a configuration file. Overrides are already applied. `source`: the file's path, for messages."""

    source: Path
    tables: Tables

    @classmethod
    def load(
        cls,
        source: Path,
        overrides: Sequence[str] = (),
        seed: int | None = None,
        directory: Path | None = None,
        plugins: Sequence[str] = (),
    ) -> RunConfig:
        """Read the configuration file `source` and its files with secrets. Adds `plugins` to `[trainer] plugins`.

        `overrides` replace values of the file. ARLARENA_SEED replaces a seed from the file or from `overrides`. `seed`
        and `directory` replace the values from all other sources.

        Raises:
            ConfigError: the file, an override or ARLARENA_SEED is invalid.
        """
        tables = deepcopy(read_with_secrets(source))
        wrong = []
        for text in overrides:
            try:
                override(tables, text)
            except ConfigError as error:
                wrong.append(str(error))
        if wrong:
            raise ConfigError("\n".join(wrong))
        make_existing_paths_absolute(tables, Path.cwd())
        run = tables.setdefault("run", {})
        run.setdefault("name", source.stem)
        chosen = seed if seed is not None else seed_from_environment()
        run |= {} if chosen is None else {"seed": chosen}
        config = cls(source, tables)
        if plugins:
            own = config.part("trainer", TrainerKeys, "plugins").plugins
            tables.setdefault("trainer", {})["plugins"] = list(dict.fromkeys((*own, *plugins)))
        run["directory"] = str(without_dots(directory if directory is not None else config.run.path))
        return config

    def _table(self, name: str) -> dict[str, Any]:
        return dict(self.tables.get(name, {}))

    @property
    def run(self) -> RunSettings:
        """Table `[run]`."""
        return parse_table(f"{self.source}: [run]", self._table("run"), RunSettings)

    @property
    def console(self) -> ConsoleSettings:
        """Table `[console]`."""
        return parse_table(f"{self.source}: [console]", self._table("console"), ConsoleSettings)

    @property
    def broker(self) -> BrokerSettings:
        """Table `[redis]`."""
        return parse_table(f"{self.source}: [redis]", self._table("redis"), BrokerSettings)

    @property
    def demonstrations(self) -> CloneKeys:
        """The keys of table `[clone]` that the recording of demonstrations uses."""
        return self.part("clone", CloneKeys)

    @property
    def environment(self) -> str:
        """The name of the environment (`[environment] name`)."""
        return self.part("environment", EnvironmentKeys, "name").name

    @property
    def method(self) -> str:
        """The name of the recipe (`[trainer] recipe`)."""
        return self.part("trainer", TrainerKeys, "recipe").recipe

    @property
    def policy_path(self) -> str | None:
        """The initial policy: a path or a name on the Hub. If None, the policy of `[policy.tiny]` is created."""
        return self.part("policy", PolicyKeys, "path").path

    @property
    def clones(self) -> bool:
        """True if there is a table `[clone]`. Without this table, the run has no behaviour cloning."""
        return "clone" in self.tables

    def part(self, table: str, model: type[Model], *keys: str) -> Model:
        """Returns the values of `keys` in `table`. By default, returns the values of all keys of `model`.

        Raises:
            ConfigError: a value is invalid.
        """
        return parse_part(f"{self.source}: [{table}]", self._table(table), model, *keys)

    def port(self, table: str) -> int:
        """Returns the port in `table` ("environment" or "inference"), or 0 if the table has no port."""
        part: EnvironmentKeys | InferenceKeys = (
            self.part(table, EnvironmentKeys, "port")
            if table == "environment"
            else self.part(table, InferenceKeys, "port")
        )
        return part.port if "port" in part.model_fields_set else 0

    def with_thread_budget(self, cores: int) -> RunConfig:
        """Returns a copy in which the tables of trainer, policy server and cloning have the key `threads`.

        A table that already has this key is not changed. `cores`: number of cores that the run may use.
        """
        budget = self.console.threads.budget(cores)
        if not self.clones:
            del budget["clone"]
        tables = deepcopy(self.tables)
        for table, threads in budget.items():
            tables.setdefault(table, {}).setdefault("threads", threads)
        return RunConfig(self.source, tables)

    def threads(self, table: str) -> int:
        """Returns the number of threads of the process that `table` configures. The default is 1."""
        return int(self._table(table).get("threads", 1))

    def write(self, path: Path) -> None:
        """Write the tables as TOML, atomically. The path of the run directory is written as an absolute path.

        Secrets are written to separate files (see `secrets_file`). `load` and every service also read these files.
        """
        run = self._table("run")
        run |= {"directory": str(Path(run["directory"]).absolute())} if run.get("directory") else {}
        public: Tables = {}
        kept: list[str] = []
        for table in {**self.tables, "run": run}:
            public[table], secret = split_secrets(run if table == "run" else self.tables[table])
            file = secrets_file(path, table)
            if secret:
                file.parent.mkdir(mode=0o700, exist_ok=True)
                write_text(file, tomli_w.dumps({table: secret}), private=True)
                kept += [f"# {key}: kept in {file.parent.name}/{file.name}\n" for key in _flat({table: secret})]
            else:
                file.unlink(missing_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        write_text(path, "".join(kept) + tomli_w.dumps(public), private=True)

    def with_absolute_options(self, names: Sequence[str]) -> RunConfig:
        """Returns a copy in which relative paths in the environment's options are absolute, if the paths exist.

        `names`: the options that are paths.
        """
        tables = deepcopy(self.tables)
        make_existing_paths_absolute(tables, Path.cwd(), [f"environment.options.{name}" for name in names])
        return RunConfig(self.source, tables)

    def differences(self, other: RunConfig) -> list[str]:
        """Returns the keys that have another value in `other`.

        Ignores secrets and the keys that a resumed run may change.
        """
        mine, theirs = _flat(_public(self.tables)), _flat(_public(other.tables))
        keys = sorted(mine.keys() | theirs.keys())
        return [key for key in keys if not _same(key, mine.get(key), theirs.get(key)) and not _may_differ(key)]


def _flat(tables: Tables, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tables.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _public(tables: Tables) -> Tables:
    return {table: split_secrets(values)[0] for table, values in tables.items()}


def _same(key: str, one: Any, other: Any) -> bool:
    """True if `one` and `other` are equal values of `key`.

    In environment options, the relative path and the absolute path of a file are equal.
    """
    if key.startswith("environment.options.") and isinstance(one, str) and isinstance(other, str):
        return os.path.abspath(one) == os.path.abspath(other)
    return bool(one == other)


def _may_differ(key: str) -> bool:
    table, _, name = key.partition(".")
    return table in ("console", "redis") or key == "run.directory" or name in ("threads", "port", "host")


async def find_problems(
    config: RunConfig, *, machine: bool = False, services: Sequence[str] = SERVICES
) -> tuple[list[str], Info | None]:
    """Check the configuration with the settings modules of the console and of `services`.

    `machine`: also check this machine. `services` must then contain all services.

    Returns:
        (messages, description). `messages` has one line per problem. `description` describes the environment. It is
        None if `machine` is False or if the environment cannot be loaded.
    """
    modules: dict[str, tuple[str, ...]] = {service: (f"arlarena.{service}.settings",) for service in SERVICES}
    if machine:
        modules["env_server"] = ("arlarena.env_server.describe",)
        modules["trainer"] = ("arlarena.trainer.settings", "--machine")
    try:
        settings = config.console
    except ConfigError:  # `_own_check` reports this error
        settings = ConsoleSettings()
    passed, limit_s = settings.pass_environment, settings.check_timeout_s
    with tempfile.TemporaryDirectory(prefix="arlarena-") as folder:
        file = Path(folder) / "config.toml"
        config.write(file)
        # If this function is cancelled, the TaskGroup waits until all processes have exited. `gather` would not wait.
        async with asyncio.TaskGroup() as group:
            checks = [
                group.create_task(_check(service, file, inherited(service, passed), limit_s, *modules[service]))
                for service in services
            ]
            own = _own_check(file)
    answers = [check.result() for check in checks]
    said = [own, *(answer.problem for answer in answers)]
    lines = [line for each in said for line in each.replace(str(file), str(config.source)).splitlines()]
    described = answers[SERVICES.index("env_server")].output if machine else ""
    info = msgspec.json.decode(described, type=Info) if described else None
    return list(dict.fromkeys(lines)), info


def _own_check(file: Path) -> str:
    try:
        validate(file)
    except ConfigError as error:
        return str(error)
    return ""


@dataclass(frozen=True, slots=True)
class _Answer:
    """The result of a service's check. `problem`: error messages, or "" if there are none. `output`: text on stdout."""

    problem: str = ""
    output: str = ""


async def _check(
    service: str, file: Path, environment: dict[str, str], limit_s: float, module: str, *flags: str
) -> _Answer:
    if importlib.util.find_spec(f"arlarena.{service}") is None:
        distribution = f"arlarena-{service.replace('_', '-')}"
        return _Answer(
            f"arlarena.{service} is not installed: either run `make setup`, or run `pip install {distribution}`"
        )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, str(file), *flags),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    try:
        output, errors = await asyncio.wait_for(process.communicate(), limit_s)
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):  # Ctrl-C may already have ended the process
            os.kill(process.pid, signal.SIGKILL)  # process.kill() could read the exit status before asyncio does
        await process.wait()
        if isinstance(error, TimeoutError):
            return _Answer(f"the check {module} took longer than {limit_s:g} s ([console] check_timeout_s)")
        raise
    if process.returncode == 0:
        return _Answer(output=output.decode("utf-8", "replace"))
    lines = [line for line in errors.decode("utf-8", "replace").strip().splitlines() if line.strip()]
    if process.returncode == 2:
        return _Answer("\n".join(line.removeprefix("error: ") for line in lines))
    return _Answer(f"{module} failed: {lines[-1] if lines else f'exit status {process.returncode}'}")
