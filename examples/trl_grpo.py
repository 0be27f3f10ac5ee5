"""Trains a model with TRL's GRPO on an environment of this repository.

    .venv/bin/arlarena serve env sokoban --port 8000
    pip install "trl>=1.16" ./proto ./client
    python examples/trl_grpo.py http://127.0.0.1:8000 --model Qwen/Qwen3-0.6B

TRL uses `environment_factory` to create an environment for each concurrent rollout. The model plays with the tool
`act`, and TRL gets the reward from the environment. `--dry-run` makes TRL's calls with fixed actions. This needs no
model and no installation of TRL.
"""

import argparse
from typing import Any

from arlarena.client.trl import environment_factory

INSTRUCTION = "Play the game below with the tool `act`, one action a call, until it is over."


def rows(count: int) -> list[dict[str, Any]]:
    """Return the rows of the data set. Each row has the index of one training task."""
    prompt = [{"role": "user", "content": INSTRUCTION + "\n\n"}]
    return [{"prompt": prompt, "split": "train", "index": index} for index in range(count)]


def train(url: str, model: str, tasks: int, steps: int = 100) -> list[dict[str, Any]]:
    """Train with TRL. Return TRL's log of all steps."""
    import torch
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    settings = GRPOConfig(
        output_dir="runs/trl",
        num_generations=8,
        per_device_train_batch_size=8,
        max_completion_length=2048,
        max_steps=steps,
        logging_steps=1,
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
    )
    trainer = GRPOTrainer(
        model=model,
        args=settings,
        train_dataset=Dataset.from_list(rows(tasks)),
        environment_factory=environment_factory(url),
        reward_funcs=[],
    )
    trainer.train()
    history: list[dict[str, Any]] = trainer.state.log_history
    return history


def dry_run(url: str, tasks: int) -> None:
    """Call the factory and the environments in the same way as TRL, with fixed actions."""
    factory = environment_factory(url)
    group = [factory() for _ in range(4)]
    for row in rows(tasks):
        prompts = {member.reset(**row) for member in group}
        assert len(prompts) == 1, "all members of a group start with the same prompt"
        for member, action in zip(group, ("up", "down", "left", "right"), strict=True):
            member.act(action)
            member.act(action)
        rewards = ", ".join(f"{member.get_reward():+.1f}" for member in group)
        print(f"task {row['index']}: {rewards}")


def main() -> None:
    """Train, or make a dry run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="URL of the environment server")
    parser.add_argument("--model", default="Qwen/Qwen3-0.6B", help="name or folder of the model")
    parser.add_argument("--tasks", type=int, default=1000, help="number of training tasks")
    parser.add_argument("--dry-run", action="store_true", help="make TRL's calls with fixed actions")
    args = parser.parse_args()
    if args.dry_run:
        dry_run(args.url, args.tasks)
    else:
        train(args.url, args.model, args.tasks)


if __name__ == "__main__":
    main()
