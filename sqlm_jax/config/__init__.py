"""The config of a run: keys, checks and overrides."""
