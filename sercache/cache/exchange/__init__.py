"""Frames of other tools into the cache, and frames of the cache to other tools."""
