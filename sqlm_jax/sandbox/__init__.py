"""Runs programs that a model wrote, and compares their output."""
