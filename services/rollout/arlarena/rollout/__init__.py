"""Rollout workers lease a group, play its episodes and publish the complete group. Evaluation uses the same runner."""
