"""Text and token ids: the tokenizer and the bytes of tokens."""
