"""Tokenizers, prompts and parsing (floor 0)."""
