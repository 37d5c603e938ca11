"""Members that were not in the recipe but come of what a run holds: fine-tuned, distilled, the baseline."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from pydantic import ValidationError

from sercache.errors import RecipeError
from sercache.files import read_json, write_json
from sercache.recipe import MemberRecipe
from sercache.run import Run

Kind = Literal["finetuned", "distilled", "control", "baseline"]

_FORMAT = 1


@dataclass(frozen=True)
class DerivedMember:
    """One more member of a run.

    Attributes:
        kind: ``finetuned``: a member whose encoders were trained further; it is stacked with the others.
            ``distilled``: a small head that learnt what a stacker says; it stands in for the ensemble.
            ``control``: the head of a distilled one, trained on the votes alone to compare.
            ``baseline``: a linear model on all that the recipe's members read, to compare; not stacked.
        of: the member, the stacker or the recipe that it comes from.
        member: its head, feature sets and seed, under its own name.
        settings: what it was made with, as JSON knows it.
    """

    kind: Kind
    of: str
    member: MemberRecipe
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its name, which is its folder's under ``members/``."""
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
        RecipeError: what describes one is damaged.
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
