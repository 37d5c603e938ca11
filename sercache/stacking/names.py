"""The built-in stackers by name; the recipe's default list and the order of simplicity follow from here."""

META_LEVELS = {
    "best-single": "sercache.stacking.votes:BestSingle",
    "soft-vote": "sercache.stacking.votes:SoftVote",
    "hard-vote": "sercache.stacking.votes:HardVote",
    "weighted": "sercache.stacking.votes:WeightedVote",
    "greedy": "sercache.stacking.votes:GreedyVote",
    "logistic": "sercache.stacking.logistic:Logistic",
    "neural": "sercache.stacking.neural:Neural",
    "soup": "sercache.stacking.neural:Soup",
    "lightgbm": "sercache.stacking.boosting:LightGBM",
}
"""From the simplest to the most complex; where scores cannot be told apart, the simplest is recommended."""

BASELINES = {
    "majority": "sercache.stacking.baselines:MajorityClass",
    "chance": "sercache.stacking.baselines:Chance",
    "mean-rating": "sercache.stacking.baselines:MeanRating",
}
"""Predictions that ignore the members; every comparison shows those that suit its corpus."""
