"""Reads answers and decides which are equal or right."""
