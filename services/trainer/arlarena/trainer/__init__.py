"""The trainer: behaviour cloning, the objectives of ARLArena, and the loop that applies them to groups from a
stream.
"""
