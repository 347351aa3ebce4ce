"""Words to tokens and back (floor 0)."""
