"""Reads exported files with Inspect and Hugging Face Datasets. Runs in .venv-inspect, and prints JSON.

    .venv-inspect/bin/python tests/support/evaluation/export_readers.py FILE.eval FILE.parquet

With `write` as the first argument, writes the Parquet file of an evaluation with this repository's packages:

    .venv-inspect/bin/python tests/support/evaluation/export_readers.py write EVALUATION FILE.parquet
"""

import json
import sys
from pathlib import Path


def write(evaluation, target):
    from arlarena.rollout.evaluation.directory import read_evaluation
    from arlarena.rollout.evaluation.report.exports import write_parquet
    from arlarena.rollout.evaluation.report.prices import read_prices

    results = read_evaluation(Path(evaluation))
    write_parquet(results, Path(target), read_prices().price(results.plan.model))


def read_inspect(path):
    from inspect_ai.log import read_eval_log, read_eval_log_sample, read_eval_log_sample_summaries

    log = read_eval_log(path)
    header = read_eval_log(path, header_only=True)
    first = log.samples[0]
    again = read_eval_log_sample(path, id=first.id, epoch=first.epoch)
    return {
        "status": header.status,
        "task": header.eval.task,
        "model": header.eval.model,
        "epochs": header.eval.config.epochs,
        "metrics": {name: metric.value for name, metric in header.results.scores[0].metrics.items()},
        "values": [one.scores["success"].value if one.scores else None for one in log.samples],
        "errors": [one.error.message for one in log.samples if one.error],
        "summaries": len(read_eval_log_sample_summaries(path)),
        "cost": sum(usage.total_cost for one in log.samples for usage in one.model_usage.values()),
        "input": sum(u.input_tokens + u.input_tokens_cache_read for s in log.samples for u in s.model_usage.values()),
        "texts": [message.text for message in again.messages],
        "images": [part.image[:22] for part in again.messages[0].content if part.type == "image"]
        if isinstance(again.messages[0].content, list)
        else [],
    }


def read_parquet(path, cache):
    from datasets import load_dataset

    data = load_dataset("parquet", data_files=path, split="train", cache_dir=cache)
    return {
        "rows": len(data),
        "columns": data.column_names,
        "messages": data[0]["messages"],
        "success": data["success"][:],
        "dollars": data["dollars"][:],
    }


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(*sys.argv[2:])
    else:
        log, table = sys.argv[1:]
        cache = str(Path(table).with_suffix(".cache"))
        print(json.dumps({"inspect": read_inspect(log), "parquet": read_parquet(table, cache)}))
