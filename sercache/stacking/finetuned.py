"""What fine-tuning was worth: each fine-tuned member against the member that it started from."""

import math
from collections.abc import Sequence
from dataclasses import replace

from sercache.derived import DerivedMember
from sercache.evaluation.bootstrap import SpeakerBootstrap, SumMetric, holm
from sercache.stacking.rows import StackingRows
from sercache.stacking.verdict import oppose


def worth_of_finetuning(
    judged: StackingRows, finetuned: Sequence[DerivedMember], bootstrap: SpeakerBootstrap
) -> list[str]:
    """Return a sentence for each fine-tuned member among those judged: is it better than where it started?

    Args:
        judged: the rows; none was learned from by the model that predicted it.
        finetuned: the run's fine-tuned members.
        bootstrap: over the speakers of ``judged``.
    """
    members = judged.inputs.members
    pairs = [(one.name, one.of) for one in finetuned if {one.name, one.of} <= set(members)]
    differences = [
        bootstrap.difference(_metric(judged, name), _metric(judged, start)) for name, start in pairs
    ]
    p_values = [one.p_value for one in differences]
    if pairs and not any(map(math.isnan, p_values)):  # unknown from one speaker
        p_values = holm(p_values).tolist()
    return [
        "What fine-tuning was worth: "
        + oppose(*pair, replace(difference, p_value=p_value), len(pairs), judged.truth.primary)
        for pair, difference, p_value in zip(pairs, differences, p_values, strict=True)
    ]


def _metric(judged: StackingRows, member: str) -> SumMetric:
    inputs = judged.inputs
    index = inputs.members.index(member)
    return judged.truth.metric(inputs.class_probabilities[:, index], inputs.attribute_values[:, index])
