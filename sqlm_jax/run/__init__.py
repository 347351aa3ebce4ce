"""Puts a run together, and goes on with a stopped one."""
