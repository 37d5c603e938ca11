"""Variants of a member without one ingredient: MEDUSA's ablations, and three more.

The relative changes of macro-F1 are those that the paper reports for MSP-Podcast (arXiv 2506.09556).
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sercache.corpus import Corpus
from sercache.corpus.targets import TargetPolicy, soft_targets
from sercache.recipe import MemberRecipe, Recipe
from sercache.training.standardize import MIN_CLIPS

FUSION_HEAD = "deepser"
LATE_FUSION_HEAD = "late-fusion"
_NO_CLASSES = "the corpus has no classes"


@dataclass(frozen=True, slots=True)
class Variant:
    """A member without one ingredient.

    Attributes:
        name: in members and tables.
        description: in the words of the paper.
        ingredient: what is taken out.
        paper_change: relative change of macro-F1 that the paper reports; None where it reports none.
        apply: returns the member without the ingredient; what else it sets differently from the recipe stays.
        why_idle: given the training rows, returns the reason why the variant changes nothing or cannot train;
            empty where it can be compared.
    """

    name: str
    description: str
    ingredient: str
    paper_change: float | None
    apply: Callable[[Recipe, MemberRecipe], MemberRecipe]
    why_idle: Callable[[Recipe, MemberRecipe, Corpus], str]


def _with_training(member: MemberRecipe, **changes: Any) -> MemberRecipe:
    """Return the member with these keys of ``training`` over its own; a section's other keys stay."""
    training = dict(member.training)
    for key, value in changes.items():
        training[key] = training.get(key, {}) | value if isinstance(value, dict) else value
    return member.model_copy(update={"training": training})


def _with_targets(member: MemberRecipe, **changes: Any) -> MemberRecipe:
    return member.model_copy(update={"targets": member.targets | changes})


def _targets_stay(recipe: Recipe, before: MemberRecipe, after: MemberRecipe, train: Corpus) -> bool:
    first, second = (
        soft_targets(train, TargetPolicy(**recipe.targets_of(member).model_dump()))
        for member in (before, after)
    )
    return np.array_equal(first, second, equal_nan=True)


def _hard_targets(recipe: Recipe, member: MemberRecipe) -> MemberRecipe:
    return _with_targets(member, hard=True)


def _why_hard_targets_are_idle(recipe: Recipe, member: MemberRecipe, train: Corpus) -> str:
    if not train.classes:
        return _NO_CLASSES
    if recipe.targets_of(member).hard:
        return "the targets are hard already"
    is_idle = _targets_stay(recipe, member, _hard_targets(recipe, member), train)
    return "the votes of every training row give the same soft and hard target" if is_idle else ""


def _late_fusion(recipe: Recipe, member: MemberRecipe) -> MemberRecipe:
    return member.model_copy(update={"head": LATE_FUSION_HEAD})


def _why_late_fusion_is_idle(recipe: Recipe, member: MemberRecipe, train: Corpus) -> str:
    if member.head != FUSION_HEAD:
        return f"the head '{member.head}' has no deep fusion"
    return "the member reads one feature set: there is nothing to fuse" if len(member.features) == 1 else ""


def _no_mixup(recipe: Recipe, member: MemberRecipe) -> MemberRecipe:
    return _with_training(member, mixup={"probability": 0.0})


def _why_no_mixup_is_idle(recipe: Recipe, member: MemberRecipe, train: Corpus) -> str:
    return "" if recipe.training_of(member).mixup.probability else "the recipe has no MixUp"


def _no_multitask(recipe: Recipe, member: MemberRecipe) -> MemberRecipe:
    return _with_training(member, attribute_weight=0.0)


def _why_no_multitask_is_idle(recipe: Recipe, member: MemberRecipe, train: Corpus) -> str:
    settings = recipe.training_of(member)
    if not train.attributes:
        return "the corpus has no attributes"
    if np.isnan(train.attribute_values).all():
        return "no training row has a rated attribute"
    if not settings.attribute_weight:
        return "attribute_weight is 0 already"
    if not train.classes:
        return "the corpus has no classes: nothing would be left to learn"
    return "" if settings.class_weight else "class_weight is 0: nothing would be left to learn"


def _no_stage_2(recipe: Recipe, member: MemberRecipe) -> MemberRecipe:
    # Stage 1 gets the epochs, so that the variant may train as long as the full member.
    settings = recipe.training_of(member)
    epochs = settings.stage1.epochs + settings.stage2.epochs
    return _with_training(member, stage1={"epochs": epochs}, stage2={"epochs": 0})


def _why_no_stage_2_is_idle(recipe: Recipe, member: MemberRecipe, train: Corpus) -> str:
    return "" if recipe.training_of(member).stage2.epochs else "the recipe has no stage 2"


def _no_agreement_dropped(recipe: Recipe, member: MemberRecipe) -> MemberRecipe:
    return _with_training(_with_targets(member, no_agreement="drop"), no_agreement_share=0.0)


def _why_no_agreement_dropped_is_idle(recipe: Recipe, member: MemberRecipe, train: Corpus) -> str:
    if not train.classes:
        return _NO_CLASSES
    if recipe.targets_of(member).no_agreement == "drop":
        return "rows without agreement are dropped already"
    is_idle = _targets_stay(recipe, member, _no_agreement_dropped(recipe, member), train)
    return "no training row lacks agreement" if is_idle else ""


def _no_class_weights(recipe: Recipe, member: MemberRecipe) -> MemberRecipe:
    return _with_training(member, balance_exponent=0.0)


def _why_no_class_weights_is_idle(recipe: Recipe, member: MemberRecipe, train: Corpus) -> str:
    if not train.classes:
        return _NO_CLASSES
    settings = recipe.training_of(member)
    if not settings.stage1.epochs:
        return "there is no stage 1, and only stage 1 has class weights"
    return "" if settings.balance_exponent else "balance_exponent is 0 already"


def _other_normalization(recipe: Recipe, member: MemberRecipe) -> MemberRecipe:
    return _with_training(member, normalize="none" if recipe.normalizes_speakers(member) else "speaker")


def _why_other_normalization_is_idle(recipe: Recipe, member: MemberRecipe, train: Corpus) -> str:
    clips = Counter(row.speaker for row in train.utterances if row.speaker is not None)
    is_idle = max(clips.values(), default=0) < MIN_CLIPS
    return f"no speaker is known by {MIN_CLIPS} clips" if is_idle else ""


VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant(
            "hard-targets",
            "without soft targets",
            "soft targets",
            -0.082,
            _hard_targets,
            _why_hard_targets_are_idle,
        ),
        Variant(
            "late-fusion",
            "late instead of deep fusion",
            "deep fusion",
            -0.063,
            _late_fusion,
            _why_late_fusion_is_idle,
        ),
        Variant("no-mixup", "without MixUp", "MixUp", -0.029, _no_mixup, _why_no_mixup_is_idle),
        Variant(
            "no-multitask",
            "without multitask",
            "multitask learning",
            -0.022,
            _no_multitask,
            _why_no_multitask_is_idle,
        ),
        Variant("no-stage-2", "without stage 2", "stage 2", -0.012, _no_stage_2, _why_no_stage_2_is_idle),
        Variant(
            "no-agreement-dropped",
            "without the classes of rows that lack agreement (their attributes stay)",
            "the classes of no-agreement rows",
            None,
            _no_agreement_dropped,
            _why_no_agreement_dropped_is_idle,
        ),
        Variant(
            "no-class-weights",
            "without class weights in stage 1",
            "class weights",
            None,
            _no_class_weights,
            _why_no_class_weights_is_idle,
        ),
        Variant(
            "speaker-normalization",
            "with frames normalised per speaker where the recipe has it off, without where it has it on",
            "the recipe's choice on speaker normalisation",
            None,
            _other_normalization,
            _why_other_normalization_is_idle,
        ),
    )
}
"""By name, in the order of the paper's table; those that the paper does not have are last."""
