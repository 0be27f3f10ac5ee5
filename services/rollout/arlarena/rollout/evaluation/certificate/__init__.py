"""Checks of a finished run: disjoint tasks, versions, lineage, replayed episodes, and judging again."""
