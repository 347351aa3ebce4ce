"""Model files in other people's formats (floor 1)."""
