"""From the command line to a plan: environments, tasks, and the services that are started for them."""
