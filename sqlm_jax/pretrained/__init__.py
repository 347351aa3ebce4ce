"""Weights and tokenizers in other people's formats."""
