"""The environment SDK: protocols, text games, prompts, replies, tasks by index, and the contract."""
