"""Stateless array math (floor 0)."""
