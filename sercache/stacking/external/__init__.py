"""Predictions of other systems: read, stacked like the members of a run, audited."""
