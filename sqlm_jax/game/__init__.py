"""Votes and rewards in plain Python."""
