"""What two services share: wire types, the stream client, configuration errors and telemetry.

Nothing here imports another part of ARLArena, and nothing here needs torch.
"""
