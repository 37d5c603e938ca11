"""Frozen encoders, one file per family, and their registry."""
