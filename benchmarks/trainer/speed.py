"""Compares the speed of our SAMPO update with the speed of TRL's GRPO update, for the same model and rows (samples).

    make setup EXTRA=trl && python -m benchmarks.trainer.speed --out benchmarks/results/trainer.json

An update is one optimiser step with three passes over the rows:

1. log-probs of the policy without gradient (for the ratio of complete trajectories in our learner, for π_old in TRL)
2. log-probs of the reference policy
3. forward and backward pass of the loss

TRL 1.16 is called as in its training loop: `_get_per_token_logps_and_entropies` on the padded generation batch, and
`_compute_loss` on each micro-batch. Our learner and TRL's trainer alternate in one process. There are four cases:

* `equal`: all responses have the maximum length.
* `uniform`: the lengths are uniformly distributed up to the maximum.
* `long_tail`: most responses are short, and a few have the maximum length.
* `shared`: `equal`, with the same prompt for all rows of a group. In the other three cases, all prompts differ.

`raw` is the model alone on the rows of `equal`: the same passes without padding and without an objective. The speed of
`raw` is an upper bound.

The benchmark also measures the peak memory of an update, including torch, in a separate process. The update has a
vocabulary of 50,000 tokens and the trainer's default micro-batches (16,384 tokens). With `chunked` (the default of the
trainer), the learner computes the logits in chunks. With `dense`, it computes all logits of a micro-batch at once.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.support.paths import ROOT

TRL = ROOT / ".venv-trl" / "bin" / "python"
PARTS = (".", "proto", "client", "services/trainer")
MODULE = "benchmarks.trainer.speed"
WANTED = {"equal": 1.0, "uniform": 1.5, "long_tail": 2.0}
RAW_WANTED, MEMORY_WANTED = 0.9, 0.5
# Number of rows, rows per group, tokens per prompt, maximum tokens per response, rows per micro-batch.
ROWS, GROUP, PROMPT, RESPONSE, AT_ONCE = 64, 8, 96, 160, 8
VOCABULARY = 4096


def in_trl_environment() -> None:
    """Replace this process by one with TRL's Python environment and our sources. It executes this module again.

    In the new process, this function does nothing.

    Raises:
        SystemExit: TRL is not installed.
    """
    if os.environ.get("ARLARENA_BENCHMARK") == "trainer":
        return
    if not TRL.exists():
        raise SystemExit("error: TRL is not installed: run `make setup EXTRA=trl`")
    path = os.pathsep.join(str(ROOT / part) for part in PARTS)
    quiet = {"TRL_EXPERIMENTAL_SILENCE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore"}
    environment = {**os.environ, **quiet, "ARLARENA_BENCHMARK": "trainer", "PYTHONPATH": path}
    os.execve(TRL, [str(TRL), "-m", MODULE, *sys.argv[1:]], environment)


if __name__ == "__main__":
    in_trl_environment()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM  # noqa: E402


def model_of(vocabulary: int, hidden: int = 256, layers: int = 4) -> Qwen3ForCausalLM:
    """Build a Qwen3 model with a few million random parameters. `vocabulary`: number of tokens."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=3 * hidden, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, head_dim=hidden // 4,
        max_position_embeddings=4096, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return Qwen3ForCausalLM(config)


def lengths(shape: str) -> list[int]:
    """Return the response lengths of all rows, in tokens. `shape`: "equal", "uniform", "long_tail" or "shared".

    The first response always has the maximum length `RESPONSE`.
    """
    rng = np.random.default_rng(7)
    if shape in ("equal", "shared"):
        return [RESPONSE] * ROWS
    drawn = rng.uniform(8, RESPONSE, ROWS) if shape == "uniform" else 12 * (1 + rng.pareto(1.1, ROWS))
    return [RESPONSE, *(int(n) for n in np.clip(drawn, 8, RESPONSE)[1:])]


def rows_of(shape: str) -> list[Any]:
    """Return random training samples. Each sample is an episode with one turn. `shape`: see `lengths`."""
    from arlarena.trainer.batching.packing import TrainingSample

    rng, rows, prompt = np.random.default_rng(1), [], np.zeros(0, dtype=np.int32)
    for number, size in enumerate(lengths(shape)):
        if shape != "shared" or number % GROUP == 0:
            prompt = rng.integers(2, VOCABULARY, PROMPT).astype(np.int32)
        response = rng.integers(2, VOCABULARY, size).astype(np.int32)
        behaviour = np.full(size, -8.0, dtype=np.float32)
        turns = ((size, float(rng.normal())),)
        rows.append(TrainingSample(prompt, response, behaviour, np.ones(size, dtype=np.uint8), turns, number))
    return rows


class Ours:
    """Our learner with SAMPO, constructed as in a training run."""

    def __init__(self, model: Qwen3ForCausalLM) -> None:
        from arlarena.trainer.learning.learner import Learner
        from arlarena.trainer.model.attention import prepare
        from arlarena.trainer.objectives import recipe
        from arlarena.trainer.settings import TrainerSettings

        settings = TrainerSettings(
            lr=1e-6, kl_coefficient=0.01, tokens_per_microbatch=AT_ONCE * (PROMPT + RESPONSE), device="cpu"
        )
        self.learner = Learner(prepare(model.eval()), None, recipe("sampo"), settings)

    def update(self, rows: list[Any]) -> None:
        """Take one optimiser step on these training samples."""
        self.learner.update([rows], 1e-6)


class Theirs:
    """TRL's GRPO trainer. TRL requires a dataset, but this benchmark does not use the dataset."""

    def __init__(self, model: Qwen3ForCausalLM, folder: Path) -> None:
        import copy

        from datasets import Dataset
        from tokenizers import Tokenizer, models, pre_tokenizers
        from trl import GRPOConfig, GRPOTrainer

        core = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1, "x": 2}, unk_token="x"))
        core.pre_tokenizer = pre_tokenizers.Whitespace()
        words = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>")
        settings = GRPOConfig(
            output_dir=str(folder), use_cpu=True, bf16=False, report_to="none", beta=0.0, num_generations=GROUP,
            per_device_train_batch_size=AT_ONCE, gradient_accumulation_steps=ROWS // AT_ONCE,
            max_completion_length=RESPONSE, gradient_checkpointing=False, importance_sampling_level="sequence",
        )  # fmt: skip
        self.trainer = GRPOTrainer(
            model=model, reward_funcs=lambda completions, **_: [0.0] * len(completions), args=settings,
            train_dataset=Dataset.from_dict({"prompt": ["x"] * ROWS}), processing_class=words,
        )  # fmt: skip
        self.reference = copy.deepcopy(self.trainer.model).requires_grad_(False)
        self.trainer.beta = (
            0.01  # set after construction; with `beta` in the settings, TRL would load a reference model by name
        )
        self.trainer.current_gradient_accumulation_steps = ROWS // AT_ONCE
        self.optimizer = torch.optim.AdamW(self.trainer.model.parameters(), lr=1e-6)

    def padded(self, rows: list[Any]) -> dict[str, Tensor]:
        """Return these training samples as TRL's generation batch: name → tensor.

        Shapes: prompts [rows, longest prompt], padded on the left. Responses [rows, longest response], padded on the
        right. Advantages [rows].
        """
        prompt_length, response_length = max(len(row.prompt) for row in rows), max(len(row.response) for row in rows)
        names = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
        columns: dict[str, list[Any]] = {name: [] for name in names}
        for row in rows:
            before, after = prompt_length - len(row.prompt), response_length - len(row.response)
            columns["prompt_ids"].append([0] * before + row.prompt.tolist())
            columns["prompt_mask"].append([0] * before + [1] * len(row.prompt))
            columns["completion_ids"].append(row.response.tolist() + [0] * after)
            columns["completion_mask"].append([1] * len(row.response) + [0] * after)
        batch = {name: torch.tensor(values) for name, values in columns.items()}
        batch["advantages"] = torch.tensor([row.turns[0][1] for row in rows])
        return batch

    def update(self, rows: list[Any]) -> None:
        """Take one optimiser step on these training samples, as in TRL's training loop."""
        trainer, batch = self.trainer, self.padded(rows)
        trainer.model.train()
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
        keep = batch["completion_ids"].shape[1]
        with torch.no_grad():
            for name, model in (("old_per_token_logps", trainer.model), ("ref_per_token_logps", self.reference)):
                batch[name] = trainer._get_per_token_logps_and_entropies(model, ids, mask, keep, batch_size=AT_ONCE)[0]
        total = batch["completion_mask"].sum()
        for start in range(0, len(rows), AT_ONCE):
            part = {name: values[start : start + AT_ONCE] for name, values in batch.items()}
            trainer._compute_loss(trainer.model, part | {"num_items_in_batch": total}).backward()
        torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


class Raw:
    """The model alone, with the passes of an update on rows of equal length. The loss is the sum of all log-probs."""

    def __init__(self, model: Qwen3ForCausalLM) -> None:
        self.model = model.eval()

    def update(self, rows: list[Any]) -> None:
        """Do two forward passes without gradient, then a forward and backward pass. Take no optimiser step."""
        ids = torch.tensor(np.stack([np.concatenate([row.prompt, row.response]) for row in rows]).astype(np.int64))
        for part in ids.split(AT_ONCE):
            with torch.no_grad():
                self.log_probs(part)
                self.log_probs(part)
            self.log_probs(part).sum().backward()
        self.model.zero_grad()

    def log_probs(self, ids: Tensor) -> Tensor:
        """Return the log-probs of the response tokens, [B, T, 1]. `ids`: prompts and responses, [B, PROMPT + T]."""
        hidden = self.model.model(input_ids=ids, use_cache=False).last_hidden_state[:, PROMPT - 1 : -1]
        log_p = torch.log_softmax(self.model.lm_head(hidden), -1)
        return log_p.gather(-1, ids[:, PROMPT:, None])


def timed(work: Callable[[], None]) -> float:
    """Call `work` once. Return the duration in seconds."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def speeds(rounds: int, folder: Path) -> dict[str, dict[str, list[float]]]:
    """Measure updates. Return case (such as `equal`) → side (`ours`, `trl`, `raw`) → seconds of each update."""
    ours, theirs, raw = Ours(model_of(VOCABULARY)), Theirs(model_of(VOCABULARY), folder), Raw(model_of(VOCABULARY))
    results: dict[str, dict[str, list[float]]] = {}
    for shape in ("equal", "uniform", "long_tail", "shared"):
        rows = rows_of(shape)
        sides: dict[str, Any] = {"ours": ours, "trl": theirs} | ({"raw": raw} if shape == "equal" else {})
        for side in sides.values():
            side.update(rows)  # warm-up
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(rounds):
            for name, side in sides.items():
                seconds[name].append(timed(functools.partial(side.update, rows)))
        results[shape] = seconds
        print(shape, {name: f"{statistics.median(values):.2f} s" for name, values in seconds.items()}, flush=True)
    return results


def memory(side: str) -> float:
    """Take one update with a vocabulary of 50,000 tokens. Return the peak memory of this process in MB (2^20 bytes).

    `side`: "chunked" or "dense".
    """
    from arlarena.trainer.learning.learner import Learner
    from arlarena.trainer.model.attention import prepare
    from arlarena.trainer.objectives import recipe
    from arlarena.trainer.settings import TrainerSettings

    chunk = sys.maxsize if side == "dense" else None
    settings = TrainerSettings(kl_coefficient=0.01, device="cpu", logits_chunk_tokens=chunk)
    learner = Learner(prepare(model_of(50_000, hidden=64, layers=1).eval()), None, recipe("sampo"), settings)
    learner.update([rows_of("equal")], 1e-6)
    # ru_maxrss is not used, because a child process inherits the value of its parent.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def memories() -> dict[str, float]:
    """Return the peak memory of an update with `dense` and with `chunked`, in MB. Each has a separate process."""
    peaks = {}
    for side in ("dense", "chunked"):
        done = subprocess.run(
            [sys.executable, "-m", MODULE, "--memory", side], capture_output=True, text=True, check=True
        )
        peaks[side] = float(done.stdout)
    return peaks


def main() -> int:
    """Measure speed and memory, compare them and write the result. Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path)
    parser.add_argument("--memory", choices=("dense", "chunked"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory:
        torch.set_num_threads(1)
        print(memory(args.memory))
        return 0
    import tempfile

    import transformers
    import trl

    with tempfile.TemporaryDirectory() as folder:
        seconds = speeds(args.rounds, Path(folder))
    medians = {
        shape: {side: statistics.median(values) for side, values in each.items()} for shape, each in seconds.items()
    }
    ratios = {shape: round(each["trl"] / each["ours"], 2) for shape, each in medians.items()}
    raw = round(medians["equal"]["raw"] / medians["equal"]["ours"], 2)
    peak = memories()
    result = {
        "schema": 1,
        "machine": {"cores": os.cpu_count(), "threads": args.threads, "torch": torch.__version__},
        "peer": {"trl": trl.__version__, "transformers": transformers.__version__},
        "rows": {"count": ROWS, "prompt": PROMPT, "longest_response": RESPONSE, "at_once": AT_ONCE},
        "seconds": {shape: {k: round(v, 3) for k, v in each.items()} for shape, each in medians.items()},
        "times_trl": ratios,
        "share_of_raw": raw,
        "memory_mb": {name: round(value, 1) for name, value in peak.items()},
    }
    result["passed"] = (
        all(ratios[shape] >= wanted for shape, wanted in WANTED.items())
        and raw >= RAW_WANTED
        and peak["chunked"] <= MEMORY_WANTED * peak["dense"]
    )
    for shape, ratio in ratios.items():
        wanted = f" (required: at least {WANTED[shape]:g})" if shape in WANTED else ""
        print(f"{shape}: {ratio:.2f} times the speed of TRL{wanted}")
    print(f"{raw:.2f} times the speed of the bare model (required: at least {RAW_WANTED:g})")
    print(f"peak memory: {peak['chunked']:.0f} MB; with the logits of a micro-batch at once: {peak['dense']:.0f} MB")
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
