"""Normalizes and parses text, fills prompts and handles stop strings."""
