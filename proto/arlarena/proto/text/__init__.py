"""Text that users write or read: files, secrets, wording of messages."""
