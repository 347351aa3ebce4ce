"""When two answers are the same answer (floor 1)."""
