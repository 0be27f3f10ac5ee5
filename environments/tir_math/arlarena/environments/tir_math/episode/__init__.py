"""One problem being worked on: replies, programs, prompts."""
