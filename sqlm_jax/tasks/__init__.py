"""What is asked, and how it is judged (floor 2)."""
