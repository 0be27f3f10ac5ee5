"""The user interface: the `arlarena` command, the launcher of local runs, the report of a run, and the run page.

The console starts the other services as processes and does not import their code. Therefore the console runs
without torch and without the other dependencies of the services.
"""
