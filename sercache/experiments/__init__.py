"""Experiments over whole runs: what an ingredient of the method is worth on a corpus."""
