"""Stateless array math."""
