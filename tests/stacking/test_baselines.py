"""What the comparison says of fine-tuned members."""

import dataclasses

import numpy as np
import pytest

from sercache.evaluation.bootstrap import SpeakerBootstrap
from sercache.recipe import MemberRecipe
from sercache.run import DerivedMember
from sercache.stacking.baselines import worth_of_finetuning


def derived(name, of):
    return DerivedMember(
        "finetuned", of, MemberRecipe(name=name, features=["speech"]), {"features": ["speech"]}
    )


@pytest.fixture
def scored(rows):
    """Member 1 always right, member 0 as it was."""
    probabilities = rows.inputs.class_probabilities.copy()
    probabilities[:, 1] = np.eye(probabilities.shape[2])[np.maximum(rows.labels, 0)]
    return dataclasses.replace(
        rows, inputs=dataclasses.replace(rows.inputs, class_probabilities=probabilities)
    )


def sentences(scored, *members):
    bootstrap = SpeakerBootstrap(scored.speakers, 200, 0)
    return worth_of_finetuning(scored, [derived(*pair) for pair in members], bootstrap)


def test_it_is_the_paired_difference_to_the_member_that_it_started_from(scored):
    start, tuned = scored.inputs.members[:2]
    [better] = sentences(scored, (tuned, start))
    assert better.startswith(f"What fine-tuning was worth: {tuned} is better than {start}: macro-F1 +0.")
    [worse] = sentences(scored, (start, tuned))
    assert f"{start} is worse than {tuned}: macro-F1 -0." in worse


def test_several_are_corrected_for_and_absent_ones_left_out(scored):
    start, tuned, other = scored.inputs.members[:3]
    both = sentences(scored, (tuned, start), (other, start), ("absent", start))
    assert len(both) == 2
    assert all("Holm's correction for 2 comparisons" in sentence for sentence in both)
    assert sentences(scored) == []
