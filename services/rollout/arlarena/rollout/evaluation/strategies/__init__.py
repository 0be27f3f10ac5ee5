"""Strategies and players. A strategy turns a model's replies into an action. The other players use no model."""
