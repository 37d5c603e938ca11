"""The stackers by name."""

from pathlib import Path

from sercache.errors import StackingError
from sercache.registry import Registry
from sercache.stacking.protocol import Stacker
from sercache.stacking.saved import SavedStacker

STACKERS: Registry[type[Stacker]] = Registry(
    "stacker",
    {
        "best-single": "sercache.stacking.votes:BestSingle",
        "hard-vote": "sercache.stacking.votes:HardVote",
        "soft-vote": "sercache.stacking.votes:SoftVote",
        "weighted": "sercache.stacking.votes:WeightedVote",
        "greedy": "sercache.stacking.votes:GreedyVote",
        "logistic": "sercache.stacking.logistic:Logistic",
        "neural": "sercache.stacking.neural:Neural",
        "soup": "sercache.stacking.neural:Soup",
        "lightgbm": "sercache.stacking.boosting:Boosting",
        "majority": "sercache.stacking.baselines:MajorityClass",
        "chance": "sercache.stacking.baselines:Chance",
        "mean-rating": "sercache.stacking.baselines:MeanRating",
    },
    StackingError,
)


def needs_classes(name: str) -> bool:
    """Return whether a stacker is defined for classes only.

    Raises:
        StackingError: there is no such stacker.
    """
    return bool(getattr(STACKERS[name], "needs_classes", False))


def load_stacker(folder: Path) -> Stacker:
    """Read a fitted stacker of whatever kind.

    Raises:
        StackingError: the folder holds none, or a file of it is damaged.
    """
    return STACKERS[SavedStacker.read(folder).kind].load(folder)
