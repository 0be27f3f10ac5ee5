"""Rollout workers, evaluation and demonstrations.

A group is a set of episodes of the same task. A worker leases a task from the run's broker (Redis), plays the group's
episodes, and publishes the complete group for the trainer.
"""
