"""The versions of the weights on disk: receiving, finding, verifying and removing version directories."""
