"""Text for users: text files, masking of secrets, suggestions of names, wording of messages."""
