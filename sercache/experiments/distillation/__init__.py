"""One small head that learns what a whole ensemble and its stacker say."""
