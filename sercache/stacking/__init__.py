"""The meta-level: voting, neural meta-classifier, soup, LightGBM, and their comparison."""
