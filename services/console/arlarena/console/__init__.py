"""The user interface: the `arlarena` command, the launcher of local runs, and their reports.

Other services are started as processes and never imported, so this part needs neither torch nor their dependencies.
"""
