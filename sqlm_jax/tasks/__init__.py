"""Tasks: prompts, readers and checkers (floor 2)."""
