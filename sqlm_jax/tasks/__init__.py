"""Tasks: prompts, answer readers and checkers (floor 2)."""
