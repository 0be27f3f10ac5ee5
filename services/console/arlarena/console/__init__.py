"""The user interface: the `arlarena` command, the launcher of local runs, and their reports.

The console starts other services as processes and does not import their code. It therefore needs neither torch nor the
dependencies of other services.
"""
