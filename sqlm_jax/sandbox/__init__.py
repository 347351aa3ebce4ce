"""Runs model-generated programs and compares their output."""
