"""The last stage: encoders trained further, together with a head that was trained from the cache."""
