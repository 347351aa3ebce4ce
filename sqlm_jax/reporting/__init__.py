"""Reads the files of a run and explains them to people."""
