"""TIR Math: mathematics problems that are solved with Python programs in a sandbox."""
