"""Distil an ensemble and its stacker into one small head."""
