"""Assembles the parts of a run, and resumes a stopped run."""
