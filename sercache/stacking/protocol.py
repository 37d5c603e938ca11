"""What every stacker is."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol, Self

from sercache.recipe import StackingRecipe
from sercache.stacking.rows import Floats, StackingInputs, StackingRows


class Prediction(NamedTuple):
    """What a stacker says of N rows.

    Attributes:
        class_probabilities: ``(N, C)``, rows sum to 1; C is 0 of a corpus with attributes alone.
        attribute_values: ``(N, A)``, on the corpus's scale.
    """

    class_probabilities: Floats
    attribute_values: Floats


class Stacker(Protocol):
    """A meta-level: from the members' posteriors to one prediction.

    It is fitted on rows that its members did not train on, and early stopping looks at an inner
    speaker-disjoint slice of those rows only. A fitted stacker matches members, classes and attributes by
    name. One that is defined for classes only says so with a class attribute ``needs_classes = True``, and is
    left out where a corpus has attributes alone.

    Args:
        settings: the recipe's ``stacking``.
        seed: of everything random in ``fit``.

    Attributes:
        shares: how much each member counts for the classes (or for attributes alone), once fitted: shares of
            its Shapley values (:mod:`sercache.stacking.shares`) or its weight. Empty where that is not
            defined.
    """

    shares: Mapping[str, float]

    def __init__(self, settings: StackingRecipe, seed: int) -> None: ...

    def fit(self, rows: StackingRows) -> None:
        """Learn from ``rows``; rows without a target do not count for it."""

    def predict(self, inputs: StackingInputs) -> Prediction:
        """Predict ``inputs``, whose members, classes and attributes may come in any order.

        Raises:
            StackingError: their names are not those of the rows it was fitted on.
        """

    def save(self, folder: Path) -> None:
        """Write the fitted stacker to ``folder``, its description last."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            StackingError: the folder holds no such stacker, or a file of it is damaged.
        """
