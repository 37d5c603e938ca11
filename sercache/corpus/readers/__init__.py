"""Readers for real corpora, one file each; :data:`sercache.corpus.readers.registry.READERS` finds them."""
