"""`python -m arlarena.console`: the same as the `arlarena` command."""

from arlarena.console.cli import main

if __name__ == "__main__":
    main()
