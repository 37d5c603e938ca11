"""From a corpus to feature sets: plan, decode, encode, write."""
