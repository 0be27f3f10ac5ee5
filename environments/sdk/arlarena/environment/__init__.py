"""What an environment is made of: protocols, text games, prompts, replies, tasks by number."""
