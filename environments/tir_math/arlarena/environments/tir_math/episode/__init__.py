"""Episodes: replies, programs, prompts."""
