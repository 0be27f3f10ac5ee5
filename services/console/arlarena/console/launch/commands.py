"""Builds the command lines of the processes of a run. Other modules start the processes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from arlarena.console.launch.child import Address, AnyAddress, ProcessSpec
from arlarena.console.runconfig import RunConfig
from arlarena.console.rundir import RunDirectory
from arlarena.console.settings import (
    ADMIN_TOKEN,
    API_KEY,
    BROKER_URL,
    ENVIRONMENT_TOKEN,
    admin_token,
    api_key,
    environment_token,
    inherited,
)
from arlarena.proto.shared_settings import EnvironmentKeys, InferenceKeys, PolicyKeys
from arlarena.proto.versions.hub import local_model

HOST = "127.0.0.1"


def thread_environment(threads: int) -> dict[str, str]:
    """Returns the environment variables that limit each numerical library of a process to `threads` threads."""
    names = (
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "NUMEXPR_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
    )
    return dict.fromkeys(names, str(threads)) | {"TOKENIZERS_PARALLELISM": "false"}


def _with_variable(command: ProcessSpec, name: str, value: str) -> ProcessSpec:
    """Returns `command` with a secret as the environment variable `name`. Command lines must not contain secrets."""
    return ProcessSpec(command.argv, command.log, {**command.env, name: value})


@dataclass(frozen=True, slots=True)
class Commands:
    """Builds the commands of one run.

    The methods `environment_server` and `inference` have the parameters of `Spec.command`.
    """

    config: RunConfig
    run: RunDirectory
    # The policy server accepts new weights only with this token. Other programs on the machine do not know the token.
    admin_token: str = field(default_factory=admin_token)

    def _python(self, log: str, threads: int, *arguments: object, ranks: int = 1) -> ProcessSpec:
        torchrun = (
            ("arlarena.trainer.torchrun", "--standalone", "--nproc-per-node", str(ranks), "-m") if ranks > 1 else ()
        )
        argv = (sys.executable, "-m", *torchrun, *(str(argument) for argument in arguments))
        added = {"ARLARENA_SEED": str(self.config.run.seed), "PYTHONUNBUFFERED": "1"}
        service = str(arguments[0]).removeprefix("arlarena.")
        if service != "inference" and (token := self.config.part("environment", EnvironmentKeys, "token").token):
            added |= {ENVIRONMENT_TOKEN: environment_token() or token.get_secret_value()}
        if service in ("inference", "rollout") and (
            key := self.config.part("inference", InferenceKeys, "api_key").api_key
        ):
            added |= {API_KEY: api_key() or key.get_secret_value()}
        passed = inherited(service, self.config.console.pass_environment)
        variables: Mapping[str, str] = passed | thread_environment(threads) | added
        return ProcessSpec(argv, self.run.log(log), variables)

    @property
    def policy(self) -> str:
        """The directory of the policy before behaviour cloning. It also contains the tokenizer."""
        path = self.config.policy_path
        return str(local_model(path)) if path else str(self.run.policy)

    @property
    def tokenizer(self) -> str:
        """The tokenizer that the workers use: a directory, or a name on the Hub."""
        return self.config.part("policy", PolicyKeys, "tokenizer").tokenizer or self.policy

    @property
    def initial_policy(self) -> str:
        """The policy that training starts from."""
        return str(self.run.cloned) if self.config.clones else self.policy

    def _server(self, log: str, threads: int, table: str, address: Address | None, *arguments: object) -> ProcessSpec:
        host, port = (address.host, address.port) if address else (HOST, self.config.port(table))
        return self._python(log, threads, *arguments, "--config", self.run.config, "--host", host, "--port", port)

    def environment_server(self, address: Address | None, restarts: int) -> ProcessSpec:
        """Returns the command of the environment server."""
        return self._server("environment", 1, "environment", address, "arlarena.env_server", self.config.environment)

    def inference(self, address: Address | None, restarts: int) -> ProcessSpec:
        """Returns the command of the policy server.

        The server loads the newest version of the weights, or the initial policy if there is no version yet.
        """
        arguments = ("arlarena.inference", "--model", self.initial_policy, "--weights-root", self.run.weights)
        command = self._server("inference", self.config.threads("inference"), "inference", address, *arguments)
        return self._with_token(self._on_gpus("inference", command))

    def _with_token(self, command: ProcessSpec) -> ProcessSpec:
        return _with_variable(command, ADMIN_TOKEN, self.admin_token)

    def _on_gpus(self, table: str, command: ProcessSpec) -> ProcessSpec:
        return ProcessSpec(command.argv, command.log, {**command.env, **self.config.console.gpus.environment(table)})

    def tiny(self, environment_address: AnyAddress) -> ProcessSpec:
        """Returns the command that creates the policy of `[policy.tiny]`: a small model with random weights.

        The environment defines the policy's vocabulary.
        """
        return self._python(
            "policy", 1, "arlarena.trainer", "tiny", "--config", self.run.config,
            "--environment-url", environment_address.url, "--out", self.run.policy,
        )  # fmt: skip

    def demonstrate(self, environment_address: AnyAddress, split: str, count: int, out: Path) -> ProcessSpec:
        """Returns the command that records the expert's episodes of `count` tasks of `split` in the file `out`."""
        counts = self.config.demonstrations
        return self._python(
            out.stem, 1, "arlarena.rollout", "demonstrate", "--config", self.run.config,
            "--environment-url", environment_address.url, "--tokenizer", self.tokenizer, "--split", split,
            "--count", count, "--expert-noise", counts.expert_noise,
            *(["--train-on-noise"] if counts.train_on_noise else []),
            "--out", out,
        )  # fmt: skip

    def clone(self) -> ProcessSpec:
        """Returns the command of behaviour cloning."""
        command = self._python(
            "clone", self.config.threads("clone"), "arlarena.trainer", "clone", "--config", self.run.config,
            "--model", self.policy, "--demonstrations", self.run.demonstrations, "--validation", self.run.validation,
            "--run-dir", self.run.path, "--out", self.run.cloned,
        )  # fmt: skip
        return self._on_gpus("clone", command)

    def evaluate(self, label: str, environment_address: AnyAddress, inference_address: AnyAddress) -> ProcessSpec:
        """Returns the command that evaluates the policy server's current weights. `label`: "before" or "after"."""
        return self._python(
            f"evaluate-{label}", 1, "arlarena.rollout", "evaluate", "--config", self.run.config,
            "--environment-url", environment_address.url, "--inference-url", inference_address.url,
            "--tokenizer", self.tokenizer, "--out", self.run.eval_set(label), "--episodes", self.run.episodes(label),
        )  # fmt: skip

    def worker(
        self, log: str, name: str, environment_address: AnyAddress, inference_address: AnyAddress, redis_url: str
    ) -> ProcessSpec:
        """Returns the command of a rollout worker.

        `name`: the worker's name in the broker. Use a new name for each start, because the broker may still assign
        groups to the name of an earlier process.
        """
        command = self._python(
            log, 1, "arlarena.rollout", "worker", "--config", self.run.config,
            "--environment-url", environment_address.url, "--inference-url", inference_address.url,
            "--run-name", self.run.state.id, "--tokenizer", self.tokenizer, "--name", name,
        )  # fmt: skip
        return _with_variable(command, BROKER_URL, redis_url)

    def train(
        self, resume: bool, environment_address: AnyAddress, inference_address: AnyAddress, redis_url: str
    ) -> ProcessSpec:
        """Returns the command of the trainer. `resume`: True if training continues from the newest checkpoint."""
        command = self._python(
            "trainer", self.config.threads("trainer"), "arlarena.trainer", "train", "--config", self.run.config,
            "--model", self.initial_policy, "--run-dir", self.run.path, "--run-name", self.run.state.id,
            "--inference-url", inference_address.url, "--environment-url", environment_address.url,
            ranks=max(1, len(self.config.console.gpus.trainer)),
        )  # fmt: skip
        command = self._on_gpus("trainer", command)
        argv = (*command.argv, *(["--resume"] if resume else []))
        return _with_variable(self._with_token(ProcessSpec(argv, command.log, command.env)), BROKER_URL, redis_url)
