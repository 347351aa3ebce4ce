"""Answers that are compared as mathematics."""
