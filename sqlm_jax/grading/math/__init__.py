"""Parses and compares answers as mathematics."""
