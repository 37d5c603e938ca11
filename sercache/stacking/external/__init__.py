"""Predictions that any system wrote: read, stacked like members of our own, audited."""
