"""Policies as pure functions over a Flax Linen decoder."""
