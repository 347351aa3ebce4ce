"""Tasks: prompts, answer parsers and checkers."""
