"""Text that users write or read: text files, secrets, names, wording of messages."""
