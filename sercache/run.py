"""The folder that one recipe produces, and where everything lies in it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sercache.errors import RecipeError, not_there
from sercache.files import read_json, write_atomically, write_json
from sercache.posteriors import ALL_FOLDS
from sercache.recipe import Recipe, dump_recipe, load_recipe


@dataclass(frozen=True, slots=True)
class Run:
    """Paths of a run folder (DESIGN section 4)."""

    root: Path

    @property
    def recipe_path(self) -> Path:
        """The resolved recipe."""
        return self.root / "recipe.yaml"

    @property
    def description_path(self) -> Path:
        """Versions, corpus hash, feature fingerprints, seeds."""
        return self.root / "run.json"

    @property
    def folds_path(self) -> Path:
        """The assignment of utterances to folds."""
        return self.root / "folds.json"

    @property
    def comparison_path(self) -> Path:
        """The meta-level's comparison table."""
        return self.root / "comparison.csv"

    @property
    def curves_path(self) -> Path:
        """Scores and costs of 1 to M members."""
        return self.root / "curves.csv"

    @property
    def metrics_path(self) -> Path:
        """Everything that was measured, for machines."""
        return self.root / "metrics.json"

    @property
    def sources_path(self) -> Path:
        """Which predictions of other systems were stacked here."""
        return self.root / "sources.json"

    @property
    def report_path(self) -> Path:
        """The report, one HTML file."""
        return self.root / "report.html"

    def fold_folder(self, member: str, fold: int) -> Path:
        """Where one member x fold, or its refit, keeps its weights, resume state and history."""
        return self.root / "members" / member / fold_name(fold)

    def tensorboard_folder(self, member: str, fold: int) -> Path:
        """Where the event files of one member x fold lie."""
        return self.root / "tensorboard" / member / fold_name(fold)

    def posteriors_path(self, member: str) -> Path:
        """A member's posteriors over all rows."""
        return self.root / "members" / member / "posteriors.parquet"

    def derived_path(self, member: str) -> Path:
        """What describes a member that is not the recipe's (:mod:`sercache.derived`)."""
        return self.root / "members" / member / "member.json"

    def teacher_path(self, member: str) -> Path:
        """What a distilled member learns from besides the votes: its teacher's posteriors."""
        return self.root / "members" / member / "teacher.parquet"

    def distillation_path(self, member: str) -> Path:
        """How a distilled member did beside its teacher."""
        return self.root / "members" / member / "distillation.json"

    def stacker_folder(self, stacker: str) -> Path:
        """Where a fitted stacker lies."""
        return self.root / "stack" / stacker

    def recipe(self) -> Recipe:
        """Return the resolved recipe.

        Raises:
            RecipeError: the folder is not a run.
        """
        if not self.recipe_path.is_file():
            if self.comparison_path.is_file():
                raise RecipeError(
                    f"{self.root} is what sercache stack --predictions wrote, not a run: for its table "
                    f"again, give the same files with --predictions, --labels and -o {self.root}"
                )
            made = "sercache train-ensemble RECIPE makes one"
            if self.root.is_file():
                raise RecipeError(f"{self.root} is not a run but a file; a run is a folder: {made}")
            if not self.root.exists():
                raise RecipeError(f"run {not_there(self.root)} ({made})")
            raise RecipeError(f"{self.root} is not a run: it has no recipe.yaml; {made}")
        return load_recipe(self.recipe_path)

    def start(self, recipe: Recipe, description: dict[str, Any]) -> None:
        """Make the folder for ``recipe``, or check that it is the folder of this very run.

        Raises:
            RecipeError: the folder belongs to another recipe, corpus or feature set; says what differs.
        """
        wanted = {"recipe": _comparable(recipe), **description}
        if self.description_path.exists():
            earlier = read_json(self.description_path)
            earlier["recipe"] = _with_new_keys(earlier.get("recipe"), recipe)
            for key in wanted:
                if key != "versions" and earlier.get(key) != wanted[key]:
                    inner = _difference(earlier.get(key), wanted[key])
                    where = f"{key} ({inner})" if inner else key
                    raise RecipeError(
                        f"{self.root} holds a run with another {where}; "
                        "give this recipe another 'output', or remove that folder"
                    )
        absolute = recipe.model_copy(
            update={key: getattr(recipe, key).resolve() for key in ("corpus", "cache", "output")}
        )
        write_atomically(self.recipe_path, dump_recipe(absolute))
        write_json(self.description_path, wanted)


def fold_name(fold: int) -> str:
    """Return how a fold is called: ``fold-3``, or ``refit`` of a model that learns from all folds."""
    return "refit" if fold == ALL_FOLDS else f"fold-{fold}"


def _comparable(recipe: Recipe) -> dict[str, Any]:
    """What must be equal for a run to be resumed; where things lie and what comes after may change."""
    excluded = {"corpus", "cache", "output", "stacking", "finetuning"}
    return recipe.model_dump(mode="json", exclude=excluded)


def _with_new_keys(earlier: Any, recipe: Recipe) -> Any:
    """Return an earlier run's recipe with the keys that it does not know yet, at their defaults."""
    try:
        places = {"corpus": recipe.corpus, "output": recipe.output}
        return _comparable(Recipe.model_validate({**earlier, **places}))
    except (TypeError, ValueError):  # of a version whose recipes differ more than that
        return earlier


def _difference(earlier: Any, wanted: Any) -> str:
    """Return the first key that differs, as a recipe has it: ``folds.count``, ``members.fusion.seed``."""
    earlier, wanted = _by_name(earlier), _by_name(wanted)
    if not isinstance(earlier, dict) or not isinstance(wanted, dict):
        return ""
    for key in sorted(set(earlier) | set(wanted)):
        if earlier.get(key) != wanted.get(key):
            inner = _difference(earlier.get(key), wanted.get(key))
            return f"{key}.{inner}" if inner else str(key)
    return ""


def _by_name(value: Any) -> Any:
    """Return a list of members as a mapping from their names; anything else as it is."""
    if isinstance(value, list) and value and all(isinstance(one, dict) and "name" in one for one in value):
        return {one["name"]: one for one in value}
    return value
