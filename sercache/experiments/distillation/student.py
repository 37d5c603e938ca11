"""Check a student and its teacher, and enter the student into the run before it is trained."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from sercache.errors import RecipeError, did_you_mean
from sercache.events import QUIET, Context
from sercache.experiments.distillation.teacher import Teacher, find_teacher
from sercache.options import Options
from sercache.posteriors import Posteriors
from sercache.recipe import MemberRecipe, Recipe
from sercache.run import DerivedMember, Run, save_derived
from sercache.training.data import TrainingData, open_feature_sets, open_run, refuse_unextracted
from sercache.training.ensemble import check_member

SMALL_HEAD = "attentive-statistics"
SMALL_OPTIONS: Options = {"width": 64, "bottleneck": 64}


@dataclass(frozen=True)
class DistillationSettings:
    """Options of a distillation.

    Attributes:
        features: the feature sets that the student reads, of the recipe's.
        head: of the student.
        options: of that head; none given to :data:`SMALL_HEAD` are :data:`SMALL_OPTIONS`.
        training: keys of the recipe's ``training`` that the student sets differently.
        name: of the student; None is ``distilled-`` and its features.
        teacher: the stacker to learn from; None is the recommended one.
        votes_share: weight of the votes in the student's targets; the teacher's is the rest.
        seed: of the student.
        has_control: whether the same head is trained on the votes alone, to compare.
    """

    features: tuple[str, ...]
    head: str = SMALL_HEAD
    options: Options = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    name: str | None = None
    teacher: str | None = None
    votes_share: float = 0.3
    seed: int = 0
    has_control: bool = True


@dataclass(frozen=True)
class Distillation:
    """A student and its teacher.

    Attributes:
        data: the run, with the student in it.
        teacher: the stacker that it learns from.
        student: entered as a derived member.
        control: the same head on the votes alone: a member of the recipe, or a derived one; None is none.
        votes_share: of the votes in the student's targets.
    """

    data: TrainingData
    teacher: Teacher
    student: MemberRecipe
    control: MemberRecipe | None
    votes_share: float

    @property
    def trained(self) -> tuple[MemberRecipe, ...]:
        """The members that are to be trained."""
        has_control = self.control is not None and self.control.name in self.data.derived
        return (self.student, self.control) if has_control and self.control is not None else (self.student,)


def prepare_distillation(
    run: Run,
    settings: DistillationSettings,
    *,
    context: Context = QUIET,
) -> Distillation:
    """Find the teacher, check the student, and enter it into the run; the same call again changes nothing.

    Raises:
        StackingError: there is no such teacher.
        RecipeError: the student does not fit, or its name is taken.
        CacheError, TrainingError: its features are missing.
        Interrupted: ``context.should_stop`` returned True.
    """
    recipe = run.recipe()
    student = _student(recipe, settings)
    if not 0 <= settings.votes_share < 1:
        raise RecipeError(
            f"votes_share is {settings.votes_share:g}; it must be 0 or more, and less than 1: "
            "at 1 there would be nothing to learn from the teacher"
        )
    teacher = find_teacher(run, settings.teacher, context)
    _check_features(run, recipe, student)
    recorded = {"votes_share": settings.votes_share, "lessons": _digest(teacher.targets)}
    save_derived(run, DerivedMember("distilled", teacher.name, student, recorded))
    teacher.targets.save(run.teacher_path(student.name))
    control = _control(run, recipe, student) if settings.has_control else None
    open_run.cache_clear()
    return Distillation(open_run(run.root.resolve()), teacher, student, control, settings.votes_share)


def _student(recipe: Recipe, settings: DistillationSettings) -> MemberRecipe:
    for name in settings.features:
        if name not in recipe.features:
            known = ", ".join(recipe.features)
            hint = did_you_mean(name, recipe.features)
            raise RecipeError(f"the run has no feature set '{name}' (it has: {known}).{hint}")
    is_default = settings.head == SMALL_HEAD and not settings.options
    try:
        student = MemberRecipe(
            name=settings.name or "distilled-" + "-".join(settings.features),
            head=settings.head,
            features=list(settings.features),
            options=dict(SMALL_OPTIONS if is_default else settings.options),
            seed=settings.seed,
            training=dict(settings.training),
        )
        recipe.training_of(student)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise RecipeError(f"the student's {key}: {first['msg']}") from None
    except ValueError as error:
        raise RecipeError(str(error)) from None
    return student


def _check_features(run: Run, recipe: Recipe, student: MemberRecipe) -> None:
    data = open_run(run.root.resolve())
    sets = open_feature_sets(recipe, [student])
    refuse_unextracted({name: sets[name] for name in student.features}, data.corpus)
    check_member(recipe, student, sets, len(data.corpus.classes))


def _control(run: Run, recipe: Recipe, student: MemberRecipe) -> MemberRecipe:
    """Return the recipe's member that differs from the student in name and seed only, or a new one."""

    def made_of(member: MemberRecipe) -> tuple[object, ...]:
        settings = recipe.training_of(member), recipe.targets_of(member)
        return member.head, member.features, member.options, *settings

    for member in recipe.members:
        if made_of(member) == made_of(student) and run.posteriors_path(member.name).is_file():
            return member
    try:
        control = MemberRecipe.model_validate(student.model_dump() | {"name": f"{student.name}-votes"})
    except ValidationError:
        raise RecipeError(f"'{student.name}' is too long a name: its control adds '-votes' to it") from None
    save_derived(run, DerivedMember("control", student.name, control))
    return control


def _digest(targets: Posteriors) -> str:
    """Return the digest of the targets, which must be equal when training resumes."""
    hashed = hashlib.sha256(repr((targets.ids, targets.classes, targets.attributes)).encode())
    hashed.update(targets.class_probabilities.tobytes())
    hashed.update(targets.attribute_values.tobytes())
    return hashed.hexdigest()
