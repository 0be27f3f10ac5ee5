"""Several worker processes of one server, and several pods of one deployment, that share their sessions."""
