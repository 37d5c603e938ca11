"""Design an ablation: one recipe with all variants and seeds of a member."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sercache.errors import RecipeError, did_you_mean
from sercache.experiments.variants import FUSION_HEAD, VARIANTS
from sercache.recipe import MemberRecipe, Recipe
from sercache.training.data import read_run_corpus, split_ids

FULL = "full"
"""The member as the recipe has it; every variant is compared with it."""


@dataclass(frozen=True, slots=True)
class AblationDesign:
    """The members that an ablation trains.

    Attributes:
        recipe: its members are :func:`member_name` of every variant and seed; all share one map of folds.
        member: the name of the ablated member.
        seeds: how many there are of each variant.
        trained: the variants that are trained beside ``full``, in order.
        skipped: the reason for each chosen variant that is not trained.
    """

    recipe: Recipe
    member: str
    seeds: int
    trained: tuple[str, ...]
    skipped: Mapping[str, str]

    @property
    def chosen(self) -> tuple[str, ...]:
        """All chosen variants, in the order of the table."""
        return tuple(name for name in VARIANTS if name in self.trained or name in self.skipped)

    def members_of(self, variant: str) -> list[str]:
        """Return the names of a variant's members, one per seed."""
        return [member_name(variant, seed) for seed in range(self.seeds)]


def member_name(variant: str, seed: int) -> str:
    """Return the name of the member of a variant and seed.

    >>> member_name("no-mixup", 2)
    'no-mixup-seed2'
    """
    return f"{variant}-seed{seed}"


def design_ablation(
    recipe: Recipe,
    *,
    member: str | None = None,
    seeds: int = 3,
    variants: Sequence[str] | None = None,
    output: Path | None = None,
) -> AblationDesign:
    """Return one recipe with all variants and seeds of a member.

    A variant that would change nothing on this recipe and corpus is skipped.

    Args:
        recipe: that has the member.
        member: its name; the first DeepSER where it is None.
        seeds: how many trainings of each variant: the member's own seed, and the next ones.
        variants: names in :data:`~sercache.experiments.variants.VARIANTS`; all where it is None.
        output: the run's folder; None is the recipe's with ``-ablation`` behind its name.

    Raises:
        RecipeError: no such member or variant, or no variant would change anything.
        CorpusError: the manifest is missing or wrong.
    """
    if seeds < 1:
        raise RecipeError(
            f"seeds is {seeds}; an ablation needs 1 at least, and 2 to see how much they differ"
        )
    ablated = _member_to_ablate(recipe, member)
    chosen = _known_variants(variants)
    corpus = read_run_corpus(recipe)
    train = corpus.select(split_ids(corpus, "train"))
    reasons = {name: VARIANTS[name].why_idle(recipe, ablated, train) for name in chosen}
    skipped = {name: reason for name, reason in reasons.items() if reason}
    trained = tuple(name for name in chosen if name not in skipped)
    if not trained:
        listed = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        raise RecipeError(f"no variant would change anything about member '{ablated.name}' ({listed})")
    changed = {FULL: ablated} | {name: VARIANTS[name].apply(recipe, ablated) for name in trained}
    members = [
        changed_member.model_copy(update={"name": member_name(variant, seed), "seed": ablated.seed + seed})
        for variant, changed_member in changed.items()
        for seed in range(seeds)
    ]
    if output is None:
        output = recipe.output.with_name(f"{recipe.output.name}-ablation")
    return AblationDesign(
        recipe.model_copy(update={"members": members, "output": output}),
        ablated.name,
        seeds,
        trained,
        skipped,
    )


def _member_to_ablate(recipe: Recipe, name: str | None) -> MemberRecipe:
    members = {member.name: member for member in recipe.members}
    if name is not None and name not in members:
        raise RecipeError(
            f"the recipe has no member '{name}' (members: {', '.join(members)}).{did_you_mean(name, members)}"
        )
    if name is not None:
        return members[name]
    for member in recipe.members:
        if member.head == FUSION_HEAD:
            return member
    raise RecipeError(
        f"the recipe has no member with the head '{FUSION_HEAD}' to ablate (members: {', '.join(members)}); "
        "name another one with --member"
    )


def _known_variants(names: Sequence[str] | None) -> list[str]:
    for name in names or ():
        if name not in VARIANTS:
            known = ", ".join(VARIANTS)
            raise RecipeError(f"unknown variant '{name}' (known: {known}).{did_you_mean(name, VARIANTS)}")
    return [name for name in VARIANTS if names is None or name in names]
