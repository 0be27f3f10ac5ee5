"""The persistent state of a run: checkpoints, the ledger of groups, the task order and the reason why the run ended."""
