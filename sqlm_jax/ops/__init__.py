"""Array maths without state (floor 0)."""
