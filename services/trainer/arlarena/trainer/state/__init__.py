"""What a run has to remember: checkpoints, the ledger of groups, tasks, why it ended."""
