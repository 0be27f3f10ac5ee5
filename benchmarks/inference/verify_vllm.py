"""Runs the demo with vLLM as the engine, and compares the log-probs of vLLM and of the trainer.

    make verify PART=vllm

The script starts `arlarena up configs/demo.toml` with `engine = "vllm"` on the CPU, for a few steps and with a short
evaluation. Then it checks the mismatch metrics of the run. These metrics compare log-probs that vLLM and the trainer
computed with the same weights. Each pair must differ by less than `MAX_MISMATCH`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from benchmarks.support.paths import ROOT
from benchmarks.support.results import finish

RUN = ROOT / "runs" / "verify-vllm"
MAX_MISMATCH = 1e-3  # maximum |Δ log-prob| of a token
STEPS = 6


def main() -> int:
    """Run the demo with vLLM, check the mismatch of log-probs and write the result. Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--transport", choices=["shared", "http", "gloo"], default="shared", help="transport of the weights"
    )
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    changes = {
        "inference.engine": "vllm",
        "inference.vllm_device": "cpu",
        "trainer.steps": STEPS,
        "trainer.push_transport": args.transport,
        "evaluation.count": 64,
    }
    flags = [part for key, value in changes.items() for part in ("--set", f"{key}={value}")]
    command = [str(ROOT / ".venv/bin/arlarena"), "up", "configs/demo.toml", "--fresh", "--run-dir", str(RUN), *flags]
    status = subprocess.run(command, cwd=ROOT).returncode
    if status != 0:
        print(f"error: the run ended with exit status {status}", file=sys.stderr)
        return 1
    records = [json.loads(line) for line in (RUN / "metrics.jsonl").read_text().splitlines()]
    compared = [record for record in records if record["mismatch_tokens"] > 0]
    result = {
        "steps": len(records),
        "tokens_compared": sum(record["mismatch_tokens"] for record in compared),
        "mismatch_max": max((record["mismatch_max"] for record in compared), default=None),
        "mismatch_k3": max((record["mismatch_k3"] for record in compared), default=None),
    }
    result["passed"] = len(records) >= STEPS - 1 and bool(compared) and result["mismatch_max"] < MAX_MISMATCH
    return finish(result, args.out)


if __name__ == "__main__":
    sys.exit(main())
