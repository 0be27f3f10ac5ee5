"""The user interface: the `arlarena` command, the launcher of local runs, and the reports about runs.

The console starts the other services as processes and does not import their code. For this reason, the console
needs neither torch nor the dependencies of the other services.
"""
