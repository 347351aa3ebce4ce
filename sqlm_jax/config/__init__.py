"""Config of a run: its keys, checks and overrides."""
