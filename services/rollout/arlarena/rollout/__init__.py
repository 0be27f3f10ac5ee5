"""Rollout workers, evaluation and demonstrations.

A worker leases the task of a group, plays the episodes of the group and publishes the complete group.
"""
