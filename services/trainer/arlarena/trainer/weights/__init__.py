"""New weights for policy servers."""
