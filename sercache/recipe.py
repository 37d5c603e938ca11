"""The typed recipe: the YAML file that describes a run.

Every key has a default that is MEDUSA's where the paper states one (arXiv 2506.09556, sections 3 and 4).
A misspelt key is an error that names the key with its path and the nearest known one.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from sercache.errors import RecipeError, not_there
from sercache.validation import explain

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]

Schedule = Literal["constant", "cosine"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Section = TypeVar("Section", bound=_Strict)


class FeatureRecipe(_Strict):
    """One feature set: which encoder, which of its layers, and how frames are pooled and stored."""

    encoder: str
    layers: str = "last"
    time_pool: int = Field(1, ge=1)
    dtype: Literal["auto", "float16", "bfloat16", "float32"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """How a transformers encoder computes. auto: bfloat16 where it is faster and within 1 % of float32."""
    text_column: str | None = None
    """For a text encoder: the manifest's column to read, such as the one that sercache transcribe writes.
    None: the column text."""
    window_seconds: float = Field(30.0, gt=0)
    overlap_seconds: float = Field(2.0, ge=0)
    trust_remote_code: bool = False
    fingerprint: str | None = None
    """First digits of one cached feature set, where several would match."""


class FoldsRecipe(_Strict):
    """Speaker-disjoint, class-stratified folds of the training split."""

    count: int = Field(5, ge=2)
    inner_share: float = Field(0.15, gt=0, lt=0.5)
    """Share of the training speakers kept for early stopping where the corpus has no development split."""


class TargetsRecipe(_Strict):
    """How votes become soft targets; see :class:`sercache.corpus.targets.TargetPolicy`."""

    secondary_weight: float = Field(1.0, ge=0)
    no_agreement: Literal["keep", "drop"] = "keep"
    other: Literal["ignore", "spread", "drop"] = "ignore"
    hard: bool = False
    """Train on the consensus class instead of the votes (for comparison)."""


class Stage1Recipe(_Strict):
    """The first stage: all rows, class weights."""

    epochs: int = Field(4, ge=0)
    learning_rate: float = Field(1e-5, gt=0)


class Stage2Recipe(_Strict):
    """The second stage: a fresh class-balanced draw every epoch."""

    epochs: int = Field(50, ge=0)
    learning_rate: float = Field(1e-6, gt=0)


class MixupRecipe(_Strict):
    """Manifold MixUp (Verma et al. 2019)."""

    probability: float = Field(0.5, ge=0, le=1)
    alpha: float = Field(0.2, gt=0)


class TrainingRecipe(_Strict):
    """How a member is trained."""

    batch_size: int = Field(32, ge=1)
    accumulate: int = Field(2, ge=1)
    weight_decay: float = Field(0.01, ge=0)
    gradient_clip: float | None = Field(1.0, gt=0)
    stage1: Stage1Recipe = Stage1Recipe()
    stage2: Stage2Recipe = Stage2Recipe()
    schedule: Schedule = "constant"
    """Of each stage's learning rate. cosine: it falls to 0 by the last of the stage's epochs, which patience
    may not let it reach."""
    warmup_epochs: float = Field(0.0, ge=0)
    """Epochs at the start of each stage over which the learning rate rises linearly; at most all of them."""
    patience: int = Field(8, ge=1)
    class_loss: str = "cross_entropy"
    class_loss_options: dict[str, float] = {}
    """Of the class loss: ``gamma`` of focal, ``epsilon`` of label_smoothing."""
    attribute_loss: str = "mse"
    class_weight: float = Field(1.5, ge=0)
    attribute_weight: float = Field(0.4, ge=0)
    class_weighting: str = "inverse_frequency"
    class_weighting_options: dict[str, float] = {}
    """Of the class weighting: ``beta`` of effective_number."""
    balance_exponent: float = Field(0.5, ge=0)
    """Power of the class weights in stage 1; 0 is none."""
    no_agreement_share: float = Field(1.0, ge=0)
    """X and O rows in stage 2's draw, in units of one class's rows."""
    annotator_dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the raters left out of the soft targets, others in every epoch."""
    modality_dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the clips' feature sets that are masked in training; at least one of each clip stays."""
    mixup: MixupRecipe = MixupRecipe()
    standardize: bool = True
    normalize: Literal["none", "speaker"] = "none"
    """speaker: frames are standardised with all clips of the speaker, in every split; labels are not
    used. Predicting then takes several clips of each speaker."""
    max_frames: int | None = Field(None, ge=1)
    """Longest stretch of frames a batch may hold per clip in training; a random crop beyond. None: all."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of products. auto: bfloat16 on a GPU that has it, float32 on a CPU."""

    @model_validator(mode="before")
    @classmethod
    def _expand_preset(cls, content: Any) -> Any:
        """Replace a preset by its values; keys that are written beside it have precedence."""
        has_preset = isinstance(content, dict) and "preset" in content
        return expand_preset(content) if has_preset else content

    @model_validator(mode="after")
    def _trains_at_all(self) -> "TrainingRecipe":
        if self.stage1.epochs + self.stage2.epochs == 0:
            raise ValueError("stage1.epochs and stage2.epochs are both 0")
        return self

    @model_validator(mode="after")
    def _warms_up_within_a_stage(self) -> "TrainingRecipe":
        for name, stage in (("stage1", self.stage1), ("stage2", self.stage2)):
            if 0 < stage.epochs < self.warmup_epochs:
                raise ValueError(
                    f"warmup_epochs ({self.warmup_epochs:g}) is more than {name}.epochs ({stage.epochs})"
                )
        return self


PRESETS: dict[str, dict[str, Any]] = {"medusa": TrainingRecipe().model_dump()}
"""Settings of training by name: ``medusa`` has those of the paper, which are the defaults."""


def expand_preset(content: dict[str, Any]) -> dict[str, Any]:
    """Return keys of ``training`` with a preset replaced by its values; keys beside it have precedence.

    >>> expand_preset({"preset": "medusa", "patience": 3})["patience"]
    3

    Raises:
        ValueError: no such preset.
    """
    if "preset" not in content:
        return content
    name = content["preset"]
    if name not in PRESETS:
        raise ValueError(f"unknown preset '{name}' (known: {', '.join(PRESETS)})")
    return _merged(PRESETS[name], {key: value for key, value in content.items() if key != "preset"})


class MemberRecipe(_Strict):
    """One member: a head over feature sets, with its own seed."""

    name: Name
    head: str = "deepser"
    features: list[Name] = Field(..., min_length=1)
    options: dict[str, int | float | str | bool] = {}
    seed: int = 0
    training: dict[str, Any] = {}
    """Keys of ``training`` that this member sets differently; ``preset: medusa`` sets all to the paper's."""
    targets: dict[str, Any] = {}
    """Keys of ``targets`` that this member sets differently."""


class NeuralRecipe(_Strict):
    """The neural meta-classifier and its soup."""

    hidden: int = Field(0, ge=0)
    """Width of a hidden layer; 0 is the paper's linear meta-classifier."""
    runs: int = Field(6, ge=1)
    epochs: int = Field(200, ge=1)
    patience: int = Field(20, ge=1)
    batch_size: int | None = Field(None, ge=1)
    """None: 64, or more where an epoch would have over 256 steps."""
    inputs: Literal["probabilities", "log"] = "probabilities"
    """The input from the members' classes: probabilities, as in the paper, or their logarithms."""
    learning_rate: float | None = Field(None, gt=0)
    """None: 0.01, or 0.003 for logarithms, which vary more."""
    weight_decay: float = Field(0.01, ge=0)


class LightGBMRecipe(_Strict):
    """The LightGBM stacker; defaults for some hundred to some ten thousand rows."""

    learning_rate: float = Field(0.05, gt=0)
    rounds: int = Field(400, ge=1)
    patience: int = Field(30, ge=1)
    num_leaves: int = Field(7, ge=2)
    min_rows_per_leaf: int = Field(20, ge=1)
    max_bin: int = Field(63, ge=2)
    threads: int | None = Field(None, ge=1)
    """None: all cores where there is enough to do. The trees are the same whatever it is."""
    soft_targets: Literal["duplicate", "objective"] = "objective"
    """A row once per class with votes, weighted; or the gradient of the cross-entropy against the votes."""


def _all_meta_levels() -> list[str]:
    from sercache.stacking.names import META_LEVELS

    return list(META_LEVELS)


class StackingRecipe(_Strict):
    """The meta-level and its comparison."""

    stackers: list[str] = Field(default_factory=_all_meta_levels)
    extras: list[str] = []
    """Further inputs of learning stackers: duration, column:<name>, pooled:<feature set>."""
    neural: NeuralRecipe = NeuralRecipe()
    lightgbm: LightGBMRecipe = LightGBMRecipe()
    balance_exponent: float = Field(0.5, ge=0)
    inner_share: float = Field(0.15, gt=0, lt=0.5)
    """Share of a stacker's fitting rows, of other speakers, that early stopping is evaluated on."""
    calibration: str = "temperature"
    """The calibrator of the recommended stacker."""
    coverage: float = Field(0.9, gt=0, lt=1)
    """Probability with which conformal sets contain the true class."""
    thresholds: bool = False
    """Whether decision thresholds are tuned for macro-F1."""
    repeats: int = Field(3, ge=1)
    """Without a test split: over how many assignments of speakers to folds stackers are evaluated."""
    bootstrap_samples: int = Field(2000, ge=100)


class FinetuningStageRecipe(_Strict):
    """One stage of fine-tuning; None: what suits the stage, and more of it for LoRA."""

    epochs: int = Field(3, ge=0)
    encoder_learning_rate: float | None = Field(None, gt=0)
    """Of the topmost trained layer. None: 2e-5 in stage 1, 5e-6 in stage 2; ten times as much for LoRA."""
    head_learning_rate: float | None = Field(None, gt=0)
    """None: 1e-4 in stage 1, 2e-5 in stage 2."""


class FinetuningRecipe(_Strict):
    """How encoders are trained further, together with a head that was trained from the cache.

    Objective, class balance, MixUp, weight decay and gradient clipping are the member's own.
    """

    layers: int | None = Field(None, ge=1)
    """How many of an encoder's top layers are trained. None: 4, or with LoRA all."""
    lora: int = Field(0, ge=0)
    """Rank of low-rank updates (LoRA) of the layers' linear maps; 0: the layers' own weights are trained."""
    lora_alpha: float | None = Field(None, gt=0)
    """Updates are scaled by lora_alpha / lora. None: twice the rank."""
    stage1: FinetuningStageRecipe = FinetuningStageRecipe()
    stage2: FinetuningStageRecipe = FinetuningStageRecipe()
    patience: int = Field(2, ge=1)
    layer_decay: float = Field(0.9, gt=0, le=1)
    """Each layer learns at so much of the rate of the one above it."""
    warmup_share: float = Field(0.1, ge=0, lt=1)
    """Of each stage's steps: learning rates rise over them from 0."""
    batch_size: int = Field(32, ge=1)
    """Rows of one step of the optimiser, over all processes."""
    micro_batch_seconds: float = Field(60.0, gt=0)
    """Most audio that goes through the encoders at once, padding included; a longer clip is a batch alone."""
    max_seconds: float = Field(12.0, gt=0)
    """In training a longer clip is cut to a random stretch, anew every epoch; evaluation uses all of it."""
    gradient_checkpointing: bool = False
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of products (autocast); weights stay in float32. auto: bfloat16 on a GPU that has it."""
    checkpoint_minutes: float = Field(10.0, gt=0)
    """How often the state to resume from is written within an epoch."""

    @model_validator(mode="after")
    def _trains_at_all(self) -> "FinetuningRecipe":
        if self.stage1.epochs + self.stage2.epochs == 0:
            raise ValueError("stage1.epochs and stage2.epochs are both 0")
        return self

    def learning_rates(self, stage: int) -> tuple[float, float]:
        """Return the rates of the topmost trained layer and of the head in stage 1 or 2."""
        stage_recipe = self.stage1 if stage == 1 else self.stage2
        encoder, head = (2e-5, 1e-4) if stage == 1 else (5e-6, 2e-5)
        if self.lora:
            encoder *= 10
        return stage_recipe.encoder_learning_rate or encoder, stage_recipe.head_learning_rate or head


class Recipe(_Strict):
    """A whole run. Paths are relative to the folder of the recipe file."""

    corpus: Path
    cache: Path = Path("cache")
    output: Path
    seed: int = 0
    classes: list[str] | None = None
    """Classes to learn, in this order; votes for any other class count as other votes. None: all."""
    features: dict[Name, FeatureRecipe] = Field(..., min_length=1)
    folds: FoldsRecipe = FoldsRecipe()
    targets: TargetsRecipe = TargetsRecipe()
    training: TrainingRecipe = TrainingRecipe()
    members: list[MemberRecipe] = Field(..., min_length=1)
    stacking: StackingRecipe = StackingRecipe()
    finetuning: FinetuningRecipe = FinetuningRecipe()

    @field_validator("members")
    @classmethod
    def _names_once(cls, members: list[MemberRecipe]) -> list[MemberRecipe]:
        names = [member.name for member in members]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"member name '{twice[0]}' occurs twice")
        return members

    @model_validator(mode="after")
    def _members_fit(self) -> "Recipe":
        for member in self.members:
            for feature in member.features:
                if feature not in self.features:
                    known = ", ".join(self.features)
                    raise ValueError(
                        f"member '{member.name}' reads feature set '{feature}', "
                        f"which is not under features (there are: {known})"
                    )
            self.training_of(member)
            self.targets_of(member)
        return self

    def training_of(self, member: MemberRecipe) -> TrainingRecipe:
        """Return the training settings of ``member``: the recipe's, overridden by the member's."""
        where = f"member '{member.name}', training"
        try:
            overrides = expand_preset(member.training)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        return _with_overrides(self.training, overrides, where)

    def targets_of(self, member: MemberRecipe) -> TargetsRecipe:
        """Return the target settings of ``member``: the recipe's, overridden by the member's."""
        return _with_overrides(self.targets, member.targets, f"member '{member.name}', targets")

    def normalizes_speakers(self, member: MemberRecipe) -> bool:
        """Return whether ``member`` reads frames that are standardised per speaker."""
        return self.training_of(member).normalize == "speaker"

    def finetuning_with(self, overrides: dict[str, Any]) -> FinetuningRecipe:
        """Return the settings of fine-tuning, overridden by others.

        Raises:
            RecipeError: a key or a value is not one; the message names it.
        """
        try:
            return _with_overrides(self.finetuning, overrides, "finetuning")
        except ValueError as error:
            raise RecipeError(str(error)) from None


def _with_overrides(shared: Section, overrides: dict[str, Any], where: str) -> Section:
    try:
        return type(shared).model_validate(_merged(shared.model_dump(), overrides))
    except ValidationError as error:
        raise ValueError(f"{where}: {explain(error, type(shared))}") from None


def speaker_note(members: Sequence[str]) -> str:
    """Return the note on members that are normalised per speaker; empty without any."""
    if not members:
        return ""
    if len(members) == 1:
        return (
            f"Member {members[0]} is normalised per speaker: it has used other, unlabelled clips of the "
            "speakers it is judged on."
        )
    return (
        f"Members {', '.join(members)} are normalised per speaker: they have used other, unlabelled clips of "
        "the speakers they are scored on."
    )


def load_recipe(path: Path) -> Recipe:
    """Read a recipe file; paths in it become relative to the file's folder.

    Raises:
        RecipeError: the file is missing, not YAML, or not a valid recipe; the problems are named.
    """
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"{not_there(path)} (sercache init CORPUS writes a recipe)") from None
    except OSError as error:
        raise RecipeError(f"{path}: cannot read the recipe ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not valid YAML ({yaml_problem(error)})") from error
    if not isinstance(loaded, dict):
        raise RecipeError(
            f"{path} is not a recipe, a mapping of keys to values: sercache init CORPUS writes one"
        )
    loaded.setdefault("output", f"runs/{path.stem}")
    try:
        recipe = Recipe.model_validate(loaded)
    except ValidationError as error:
        raise RecipeError(f"{path}: {explain(error, Recipe)}") from None
    folder = path.parent
    placed = {key: folder / getattr(recipe, key) for key in ("corpus", "cache", "output")}
    return recipe.model_copy(update=placed)


def yaml_problem(error: Exception) -> str:
    """Return where a YAML text cannot be read and why, in one line: ``line 3, column 1: ...``."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return " ".join(str(error).split())
    return f"line {mark.line + 1}, column {mark.column + 1}: {getattr(error, 'problem', None)}"


def dump_recipe(recipe: Recipe) -> str:
    """Return the resolved recipe as YAML, every default written out."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        both_mappings = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both_mappings else value
    return merged
