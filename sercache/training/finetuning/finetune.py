"""Fine-tuning a member of a run: its heads and some of its encoders, fold by fold, into one more member."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sercache.devices import computes_in_bfloat16
from sercache.encoders.protocol import Precision
from sercache.errors import Interrupted, RecipeError, TrainingError, did_you_mean
from sercache.events import QUIET, Context, Listener, ignore
from sercache.heads.registry import BASE
from sercache.posteriors import Posteriors
from sercache.recipe import FinetuningRecipe, MemberRecipe
from sercache.run import DerivedMember, Run, save_derived
from sercache.seeds import derive_seed
from sercache.training.data import TrainingData, open_run
from sercache.training.finetuning.fold import FoldFinetuning
from sercache.training.finetuning.live import LiveFeature, open_live_feature, why_not_trainable
from sercache.training.finetuning.processes import Processes
from sercache.training.member import WEIGHTS_NAME
from sercache.training.members import OutOfFoldScore, gather_posteriors, score_out_of_fold


@dataclass(frozen=True)
class TrainedEncoder:
    """What was trained of one encoder.

    Attributes:
        feature: the recipe's name of its feature set.
        encoder: its name.
        layers: how many of its layers.
        parameters: how many numbers were trained.
    """

    feature: str
    encoder: str
    layers: int
    parameters: int


@dataclass(frozen=True)
class FinetuningReport:
    """What became of a member.

    Attributes:
        run: the run.
        derived: the new member.
        settings: with which it was made.
        encoders: what was trained of each.
        cached: feature sets that still come from the cache.
        before: how the member did out of fold.
        after: how the new one does, on the same rows.
    """

    run: Run
    derived: DerivedMember
    settings: FinetuningRecipe
    encoders: tuple[TrainedEncoder, ...]
    cached: tuple[str, ...]
    before: OutOfFoldScore
    after: OutOfFoldScore


def finetune_member(
    run: Run,
    member_name: str,
    processes: Processes,
    *,
    features: Sequence[str] = (),
    name: str | None = None,
    changes: Mapping[str, Any] | None = None,
    context: Context = QUIET,
) -> FinetuningReport:
    """Fine-tune a member on every fold, and write the new member's posteriors into the run.

    Every fold model starts from that fold's head, which was trained from the cache, and from the encoders as
    they are; it learns from, stops on and predicts the same rows. What is finished is not done again.

    Args:
        run: its folder; the member must be trained on every fold.
        member_name: which member of the recipe.
        processes: that work together; all call this with the same arguments.
        features: feature sets whose encoders are trained; empty: all that can be. The others are read from
            the cache.
        name: of the new member; None: ``<member>-finetuned``.
        changes: what differs from the recipe's section ``finetuning``.
        context: receives events, and says when to stop.

    Raises:
        RecipeError: there is no such member, feature set or setting, or the name is taken.
        TrainingError: the member is not trained yet, nothing of it can be fine-tuned, or training fails.
        EncoderError, CacheError, CorpusError: what it needs is missing or has changed.
        Interrupted: ``context.should_stop`` returned True; the same call goes on from there.
    """
    context = context if processes.is_first else replace(context, listener=ignore)
    open_run.cache_clear()
    data = open_run(run.root)
    settings = data.recipe.finetuning_with(dict(changes or {}))
    member = _member(data, member_name)
    if data.recipe.normalizes_speakers(member):
        raise TrainingError(
            f"member '{member.name}' is normalised per speaker (normalize: speaker), whose statistics change "
            "with the encoder: it cannot be fine-tuned; fine-tune a member with normalize: none"
        )
    chosen = _chosen(data, member, features)
    _refuse_closed_form(data, member)
    _refuse_untrained(data, member)
    new_name = name or f"{member.name}-finetuned"
    kept = settings.model_dump(mode="json", exclude={"checkpoint_minutes"})
    new = MemberRecipe.model_validate(member.model_dump() | {"name": _checked_name(new_name)})
    derived = DerivedMember("finetuned", member.name, new, {"features": chosen, **kept})
    live = _open(data, member, chosen, settings, processes, context.listener)
    if processes.is_first:
        save_derived(run, derived)
    processes.wait()
    work = FoldFinetuning(data, member, derived, live, settings, processes, context)
    folds = range(data.recipe.folds.count)
    try:
        for fold in folds:
            work.run(fold)
    except Interrupted:
        done = sum((run.fold_folder(derived.name, fold) / WEIGHTS_NAME).exists() for fold in folds)
        raise Interrupted(
            f"stopped with {done} of {len(folds)} folds finished; "
            "the same command goes on after the last finished step"
        ) from None
    before = score_out_of_fold(data, Posteriors.load(run.posteriors_path(member.name)))
    after = score_out_of_fold(data, gather_posteriors(data, new)) if processes.is_first else before
    encoders = tuple(
        TrainedEncoder(
            feature.name,
            feature.spec.encoder,
            feature.trained.count,
            sum(parameter.numel() for parameter in feature.trained.parameters().values()),
        )
        for feature in live.values()
    )
    cached = tuple(feature for feature in member.features if feature not in chosen)
    return FinetuningReport(run, derived, settings, encoders, cached, before, after)


def _member(data: TrainingData, name: str) -> MemberRecipe:
    members = {member.name: member for member in data.recipe.members}
    if name not in members:
        raise RecipeError(
            f"{data.run.root} has no member '{name}' (there are: {', '.join(members)})."
            f"{did_you_mean(name, members)}"
        )
    return members[name]


def _chosen(data: TrainingData, member: MemberRecipe, features: Sequence[str]) -> list[str]:
    """Return the feature sets whose encoders are to be trained, in the member's order."""
    for feature in features:
        if feature not in member.features:
            raise RecipeError(
                f"member '{member.name}' reads no feature set '{feature}' (it reads: "
                f"{', '.join(member.features)}).{did_you_mean(feature, member.features)}"
            )
    reasons = {
        feature: why_not_trainable(data.recipe.features[feature]) for feature in features or member.features
    }
    for feature, reason in reasons.items():
        if reason and (features or all(reasons.values())):
            raise TrainingError(f"feature set '{feature}' cannot be fine-tuned: {reason}")
    return [feature for feature in member.features if not reasons.get(feature, "not chosen")]


def _refuse_closed_form(data: TrainingData, member: MemberRecipe) -> None:
    """Raise a RecipeError for heads that know the rows on which fine-tuning would stop."""
    others = [
        other.name
        for other in data.recipe.members
        if not data.is_closed_form(other) and other.options.get(BASE, "none") == "none"
    ]
    advice = f"fine-tune another member ({', '.join(others)})" if others else "add a member without a base"
    if data.is_closed_form(member):
        raise RecipeError(
            f"member '{member.name}' ({member.head}) was fitted without epochs, on all rows of its folds: "
            f"nothing is left to stop fine-tuning by; {advice}"
        )
    if member.options.get(BASE, "none") != "none":
        raise RecipeError(
            f"member '{member.name}' starts from a base that was fitted on all rows of its folds: nothing is "
            f"left to stop fine-tuning by; {advice}"
        )


def _refuse_untrained(data: TrainingData, member: MemberRecipe) -> None:
    run = data.run
    wanted = [run.fold_folder(member.name, k) / WEIGHTS_NAME for k in range(data.recipe.folds.count)]
    for path in [*wanted, run.posteriors_path(member.name)]:
        if not path.is_file():
            raise TrainingError(
                f"member '{member.name}' is not trained yet ({path} is missing): "
                "sercache train-ensemble finishes it"
            )


def _checked_name(name: str) -> str:
    """Return a member's name if the recipe's rule for names accepts it."""
    from pydantic import TypeAdapter, ValidationError

    from sercache.recipe import Name

    try:
        checked: str = TypeAdapter(Name).validate_python(name)
    except ValidationError:
        raise RecipeError(
            f"'{name}' is no name of a member: letters, digits, '.', '_' and '-', at most 64"
        ) from None
    return checked


def _open(
    data: TrainingData,
    member: MemberRecipe,
    chosen: Sequence[str],
    settings: FinetuningRecipe,
    processes: Processes,
    listener: Listener,
) -> dict[int, LiveFeature]:
    device = str(processes.device)
    precision: Precision = "bfloat16" if settings.precision == "bfloat16" else "float32"
    if settings.precision == "auto" and computes_in_bfloat16(device):
        precision = "bfloat16"
    return {
        member.features.index(feature): open_live_feature(
            feature,
            data.recipe.features[feature],
            data.feature_sets[feature],
            data.corpus,
            settings,
            device,
            precision,
            derive_seed(data.recipe.seed, "lora", member.name, feature),
            listener,
        )
        for feature in chosen
    }
