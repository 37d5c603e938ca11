"""Caches in object stores."""
