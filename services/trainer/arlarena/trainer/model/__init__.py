"""The policy: loading, forward pass, log-probs, attention."""
