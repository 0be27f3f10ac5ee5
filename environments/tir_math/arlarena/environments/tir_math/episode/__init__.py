"""Episodes: parse replies, run programs, build prompts."""
