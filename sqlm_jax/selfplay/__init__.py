"""One step of self-play (floor 3)."""
