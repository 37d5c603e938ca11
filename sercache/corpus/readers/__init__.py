"""Readers for real corpora, one file each."""
