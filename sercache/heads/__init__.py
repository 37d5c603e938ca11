"""Trainable heads and their registry."""
