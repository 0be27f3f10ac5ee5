"""JSON objects of the API: groups, episodes, turns, behaviour."""
