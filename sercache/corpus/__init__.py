"""Utterances, votes and their soft targets, splits and folds, and readers for real corpora."""

from sercache.corpus.utterance import (
    NO_AGREEMENT,
    OTHER,
    SPLITS,
    Attribute,
    Corpus,
    Split,
    Utterance,
)

__all__ = ["NO_AGREEMENT", "OTHER", "SPLITS", "Attribute", "Corpus", "Split", "Utterance"]
