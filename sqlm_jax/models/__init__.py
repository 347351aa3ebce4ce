"""Policies: pure functions over a Linen decoder (floor 1)."""
