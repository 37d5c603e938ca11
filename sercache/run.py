"""The run folder that a recipe produces: its layout, resuming, and members that are derived later."""

import platform
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import ValidationError

from sercache._version import __version__
from sercache.errors import RecipeError, not_there
from sercache.files import read_json, write_atomically, write_json
from sercache.posteriors import ALL_FOLDS
from sercache.recipe import MemberRecipe, Recipe, dump_recipe, load_recipe

Kind = Literal["finetuned", "distilled", "control", "baseline"]

_FORMAT = 1
_RECORDED = ("torch", "numpy", "scikit-learn", "lightgbm", "h5py")


@dataclass(frozen=True, slots=True)
class Run:
    """The paths of a run folder."""

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
        """All results as JSON."""
        return self.root / "metrics.json"

    @property
    def sources_path(self) -> Path:
        """The files of other systems that were stacked."""
        return self.root / "sources.json"

    @property
    def report_path(self) -> Path:
        """The report, one HTML file."""
        return self.root / "report.html"

    def fold_folder(self, member: str, fold: int) -> Path:
        """The folder of a member x fold, or its refit: weights, resume state, history."""
        return self.root / "members" / member / fold_name(fold)

    def tensorboard_folder(self, member: str, fold: int) -> Path:
        """The folder of the event files of a member x fold."""
        return self.root / "tensorboard" / member / fold_name(fold)

    def posteriors_path(self, member: str) -> Path:
        """A member's posteriors over all rows."""
        return self.root / "members" / member / "posteriors.parquet"

    def derived_path(self, member: str) -> Path:
        """The description of a derived member."""
        return self.root / "members" / member / "member.json"

    def teacher_path(self, member: str) -> Path:
        """The teacher's posteriors that a distilled member learns from."""
        return self.root / "members" / member / "teacher.parquet"

    def distillation_path(self, member: str) -> Path:
        """The comparison of a distilled member with its teacher."""
        return self.root / "members" / member / "distillation.json"

    def stacker_folder(self, stacker: str) -> Path:
        """The folder of a fitted stacker."""
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
        """Make the folder for ``recipe``, or check that it belongs to the same run.

        Raises:
            RecipeError: the folder belongs to another recipe, corpus or feature set; states the difference.
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
    """Return the name of a fold: ``fold-3``, or ``refit`` of a model that learns from all folds."""
    return "refit" if fold == ALL_FOLDS else f"fold-{fold}"


def _comparable(recipe: Recipe) -> dict[str, Any]:
    """Return what must be equal for a run to resume; paths and later stages may differ."""
    excluded = {"corpus", "cache", "output", "stacking", "finetuning"}
    return recipe.model_dump(mode="json", exclude=excluded)


def _with_new_keys(earlier: Any, recipe: Recipe) -> Any:
    """Return an earlier run's recipe with defaults for keys that are newer than the run."""
    try:
        paths = {"corpus": recipe.corpus, "output": recipe.output}
        return _comparable(Recipe.model_validate({**earlier, **paths}))
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
    if (
        isinstance(value, list)
        and value
        and all(isinstance(entry, dict) and "name" in entry for entry in value)
    ):
        return {entry["name"]: entry for entry in value}
    return value


def library_versions() -> dict[str, str]:
    """Return the versions that numbers may depend on."""
    return {
        "sercache": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in _RECORDED},
    }


@dataclass(frozen=True)
class DerivedMember:
    """One more member of a run.

    Attributes:
        kind: ``finetuned``: a member whose encoders were trained further; it is stacked with the others.
            ``distilled``: a small head that learnt from a stacker's posteriors; it can replace the ensemble.
            ``control``: the head of a distilled one, trained on the votes alone to compare.
            ``baseline``: a linear model on all feature sets of the recipe's members, to compare; not stacked.
        of: the member, the stacker or the recipe that it comes from.
        member: its head, feature sets and seed, under its own name.
        settings: of its training, as JSON values.
    """

    kind: Kind
    of: str
    member: MemberRecipe
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The member's name, and that of its folder under ``members/``."""
        return self.member.name


def save_derived(run: Run, derived: DerivedMember) -> None:
    """Enter a derived member into a run; the same one may be entered again.

    Raises:
        RecipeError: the recipe has a member of that name, or the run has another derived one.
    """
    if any(member.name == derived.name for member in run.recipe().members):
        raise RecipeError(f"{run.root} already has a member '{derived.name}'; choose another name")
    path = run.derived_path(derived.name)
    if path.exists() and (earlier := _load(run, derived.name)) != derived:
        raise RecipeError(
            f"{run.root} already has a '{derived.name}' ({earlier.kind}, of '{earlier.of}') made with other "
            f"settings; choose another name, or remove {path.parent}"
        )
    write_json(
        path,
        {
            "format": _FORMAT,
            "kind": derived.kind,
            "of": derived.of,
            "member": derived.member.model_dump(mode="json"),
            "settings": derived.settings,
        },
    )


def derived_members(run: Run, kind: Kind | None = None) -> list[DerivedMember]:
    """Return a run's derived members, or those of one kind, by name.

    Raises:
        RecipeError: the description of one is damaged.
    """
    names = sorted(path.parent.name for path in (run.root / "members").glob("*/member.json"))
    found = [_load(run, name) for name in names]
    return [derived for derived in found if kind in (None, derived.kind)]


def _load(run: Run, name: str) -> DerivedMember:
    path = run.derived_path(name)
    try:
        found = read_json(path)
        if found["format"] != _FORMAT:
            raise RecipeError(f"{path}: format {found['format']} is not {_FORMAT}")
        member = MemberRecipe.model_validate(found["member"])
        if found["kind"] not in get_args(Kind) or member.name != name:
            raise ValueError(f"kind '{found['kind']}', name '{member.name}'")
        return DerivedMember(found["kind"], str(found["of"]), member, dict(found["settings"]))
    except (OSError, KeyError, TypeError, ValueError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise RecipeError(f"{path}: not the description of a derived member ({reason})") from error
