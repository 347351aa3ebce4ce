"""Self-play: one step of the game and its training."""
