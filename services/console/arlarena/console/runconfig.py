"""The configuration of one run: the user's file, with overrides and the thread budget, checked by every service."""

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

from arlarena.console.paths import make_absolute, without_dots
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
# Checking a file takes a process 0.1 to 0.3 s; a slow disk may take longer for the imports.
CHECK_TIMEOUT_S = 60.0
Tables = dict[str, Any]


def parse_override(text: str) -> tuple[list[str], Any]:
    """`trainer.lr=1e-4` as (["trainer", "lr"], 0.0001). What is not a TOML value is taken as text.

    Raises:
        ConfigError: there is no table, key or value in it.
    """
    form = "table.key=value, for example trainer.recipe=grpo"
    key, value = parse_assignment(text, form)
    parts = key.split(".")
    if len(parts) < 2 or not all(parts):
        raise ConfigError(f"--set {assigned(text)}: write it as {form}")
    return parts, value


def masked_override(text: str) -> str:
    """`text` as it may be shown: without the value where that is a secret."""
    try:
        parts, value = parse_override(text)
    except ConfigError:
        return text.partition("=")[0]
    return f"{'.'.join(parts)}={MASK}" if is_secret(parts[-1], value) else text


def override(tables: Tables, text: str) -> None:
    """Apply one override to `tables`.

    Raises:
        ConfigError: it is malformed, or goes through something that is not a table.
    """
    parts, value = parse_override(text)
    if parts[0] not in TABLES:
        raise ConfigError(f"--set {masked_override(text)}: there is no table [{parts[0]}]; known: {', '.join(TABLES)}")
    place = tables
    for part in parts[:-1]:
        place = place.setdefault(part, {})
        if not isinstance(place, dict):
            raise ConfigError(f"--set {masked_override(text)}: {part} is a value and not a table")
    place[parts[-1]] = value


@dataclass(frozen=True, slots=True)
class RunConfig:
    """A file's tables after overrides. `source` is what messages call it."""

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
        """Read `source`; `overrides` win over it, ARLARENA_SEED over them, and `seed` and `directory` over all.
        `plugins` are added to `[trainer] plugins`.

        Raises:
            ConfigError: the file or an override cannot be used.
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
        make_absolute(tables, Path.cwd())
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
        """How many demonstrations to record."""
        return self.part("clone", CloneKeys)

    @property
    def environment(self) -> str:
        """Which environment."""
        return self.part("environment", EnvironmentKeys, "name").name

    @property
    def method(self) -> str:
        """Which recipe."""
        return self.part("trainer", TrainerKeys, "recipe").recipe

    @property
    def policy_path(self) -> str | None:
        """An existing policy to start from; None: a tiny one is made."""
        return self.part("policy", PolicyKeys, "path").path

    @property
    def clones(self) -> bool:
        """Whether there is a table `[clone]`; without one, training starts from the policy as it is."""
        return "clone" in self.tables

    def part(self, table: str, model: type[Model], *keys: str) -> Model:
        """Some keys of a table, see `parse_part`."""
        return parse_part(f"{self.source}: [{table}]", self._table(table), model, *keys)

    def port(self, table: str) -> int:
        """The fixed port that a service's table asks for, or 0."""
        part: EnvironmentKeys | InferenceKeys = (
            self.part(table, EnvironmentKeys, "port")
            if table == "environment"
            else self.part(table, InferenceKeys, "port")
        )
        return part.port if "port" in part.model_fields_set else 0

    def with_thread_budget(self, cores: int) -> RunConfig:
        """`threads` filled in where the user left it out of a service's own table; see `settings.Threads`."""
        budget = self.console.threads.budget(cores)
        if not self.clones:
            del budget["clone"]
        tables = deepcopy(self.tables)
        for table, threads in budget.items():
            tables.setdefault(table, {}).setdefault("threads", threads)
        return RunConfig(self.source, tables)

    def threads(self, table: str) -> int:
        """Threads of the process that `table` configures."""
        return int(self._table(table).get("threads", 1))

    def write(self, path: Path) -> None:
        """Write the tables as TOML, whole files or none; secrets into files of their own (see `secrets_file`), which
        `load` and every service read with it. The run's directory is absolute there.
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
        """Relative paths among the environment's options made absolute. `names`: which options are paths."""
        tables = deepcopy(self.tables)
        make_absolute(tables, Path.cwd(), [f"environment.options.{name}" for name in names])
        return RunConfig(self.source, tables)

    def differences(self, other: RunConfig) -> list[str]:
        """Keys in which two configurations differ and which would make two different experiments of them: no secrets,
        which may be changed.
        """
        mine, theirs = _flat(_public(self.tables)), _flat(_public(other.tables))
        keys = sorted(mine.keys() | theirs.keys())
        return [key for key in keys if not _same(key, mine.get(key), theirs.get(key)) and not _may_differ(key)]


def _flat(tables: Tables, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tables.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def _public(tables: Tables) -> Tables:
    return {table: split_secrets(values)[0] for table, values in tables.items()}


def _same(key: str, one: Any, other: Any) -> bool:
    """Equal values, or an option of the environment that names one path in two ways: relative and absolute."""
    if key.startswith("environment.options.") and isinstance(one, str) and isinstance(other, str):
        return os.path.abspath(one) == os.path.abspath(other)
    return bool(one == other)


def _may_differ(key: str) -> bool:
    table, _, name = key.partition(".")
    return table in ("console", "redis") or key == "run.directory" or name in ("threads", "port", "host")


async def objections(config: RunConfig, *, machine: bool = False) -> tuple[list[str], Info | None]:
    """What the console and the services object to. `machine`: also whether the run can go on here; then with what the
    environment plays, if it can be told.
    """
    modules: dict[str, tuple[str, ...]] = {service: (f"arlarena.{service}.settings",) for service in SERVICES}
    if machine:
        modules["env_server"] = ("arlarena.env_server.describe",)
        modules["trainer"] = ("arlarena.trainer.settings", "--machine")
    try:
        passed = config.console.pass_environment
    except ConfigError:  # our own check says what is wrong
        passed = ()
    with tempfile.TemporaryDirectory(prefix="arlarena-") as folder:
        file = Path(folder) / "config.toml"
        config.write(file)
        # A group, not `gather`: where it is cancelled it waits until all its processes have ended.
        async with asyncio.TaskGroup() as group:
            checks = [
                group.create_task(_check(service, file, inherited(service, passed), *modules[service]))
                for service in SERVICES
            ]
            own = _own_check(file)
    answers = [check.result() for check in checks]
    said = [own, *(answer.objection for answer in answers)]
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
    """What a service objects to, empty if nothing, and what it printed."""

    objection: str = ""
    output: str = ""


async def _check(service: str, file: Path, environment: dict[str, str], module: str, *flags: str) -> _Answer:
    if importlib.util.find_spec(f"arlarena.{service}") is None:
        distribution = f"arlarena-{service.replace('_', '-')}"
        return _Answer(f"arlarena.{service} is not installed: run `make setup`, or `pip install {distribution}`")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, str(file), *flags),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    try:
        output, errors = await asyncio.wait_for(process.communicate(), CHECK_TIMEOUT_S)
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):  # Ctrl-C ended it too
            os.kill(process.pid, signal.SIGKILL)  # not process.kill(), which may take the exit status from asyncio
        await process.wait()
        if isinstance(error, TimeoutError):
            return _Answer(f"{module} did not answer in {CHECK_TIMEOUT_S:g} s")
        raise
    if process.returncode == 0:
        return _Answer(output=output.decode("utf-8", "replace"))
    said = [line for line in errors.decode("utf-8", "replace").strip().splitlines() if line.strip()]
    if process.returncode == 2:
        return _Answer("\n".join(line.removeprefix("error: ") for line in said))
    return _Answer(f"{module} failed: {said[-1] if said else f'exit status {process.returncode}'}")
