"""Votes and rewards in plain Python (floor 1)."""
