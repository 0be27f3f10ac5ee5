"""Rollouts: lease a group, play its episodes against environment and policy, publish it complete. The same runner
evaluates.
"""
