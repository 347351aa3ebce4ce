"""Canonical answers and unit tests (floor 1)."""
