"""Parses answers and decides which answers are equal or right."""
