"""Writes policy versions and sends them to the policy servers."""
