"""Checks a training run (tasks, versions, digests, lineage, replay), and judges recorded episodes again."""
