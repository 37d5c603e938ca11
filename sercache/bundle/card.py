"""The model card: the bundle's README in the form that the Hugging Face hub reads."""

from collections.abc import Iterator

from sercache.bundle.description import BundleDescription, BundledFeature, Evaluation
from sercache.recipe import speaker_note
from sercache.training.standardize import MIN_CLIPS

_SCORE_NAMES = {
    "mean_ccc": "mean CCC",
    "macro_f1": "macro-F1",
    "uar": "UAR",
    "weighted_f1": "weighted F1",
    "log_loss": "log-loss (nats)",
    "ece": "ECE",
}
_UNSTATED = "not stated by its repository"


def model_card(description: BundleDescription) -> str:
    """Return the card: front matter for the hub, then what a person should know before using the bundle."""
    return "\n".join(["---", _front_matter(description), "---", "", *_body(description), ""])


def _front_matter(description: BundleDescription) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    evaluation = description.evaluation
    results = None
    if evaluation is not None:
        results = [
            EvalResult(
                task_type="audio-classification",
                task_name="speech emotion recognition",
                dataset_type=description.training_data.corpus,
                dataset_name=f"{description.training_data.corpus} ({evaluation.judged_on})",
                metric_type=name,
                metric_value=round(score.value, 4),
            )
            for name, score in evaluation.scores.items()
            if name in _SCORE_NAMES
        ]
    languages = sorted(
        {language for feature in description.features.values() for language in feature.card.languages}
    )
    data = ModelCardData(
        library_name="sercache",
        pipeline_tag="audio-classification",
        tags=["speech-emotion-recognition", "ensemble", "sercache"],
        language=languages or None,
        base_model=[
            feature.recipe.encoder for feature in description.features.values() if feature.origin == "hub"
        ]
        or None,
        model_name=description.name,
        eval_results=results,
    )
    return str(data.to_yaml()).strip()


def _body(description: BundleDescription) -> Iterator[str]:
    data = description.training_data
    yield f"# {description.name}"
    yield ""
    count = len(description.members)
    attributes = ", ".join(attribute.name for attribute in description.attributes)
    outputs = f"{len(description.classes)} emotions ({', '.join(description.classes)})"
    if not description.classes:
        outputs = attributes
    elif attributes:
        outputs += f" and {attributes}"
    yield (
        f"Predicts {outputs}"
        f" in speech: {count} member{'' if count == 1 else 's'} under the stacker '{description.stacker}', "
        "made with sercache."
    )
    yield from _usage(description)
    yield from _use()
    if description.evaluation is not None:
        yield from _results(description, description.evaluation)
    yield from ["", "## Training data", ""]
    hours = f", {data.hours:g} hours" if data.hours is not None else ""
    yield f"{data.corpus}: {data.utterances:,} utterances of {data.speakers:,} speakers{hours}."
    yield ""
    if description.classes:
        yield "| class | rows with this consensus |"
        yield "|---|---|"
        yield from (f"| {name} | {count:,} |" for name, count in data.rows_by_class.items())
    else:
        yield "| attribute | lowest | highest |"
        yield "|---|---|---|"
        yield from (
            f"| {attribute.name} | {attribute.low:g} | {attribute.high:g} |"
            for attribute in description.attributes
        )
    yield from _encoders(description)
    yield from _members(description)


def _usage(description: BundleDescription) -> Iterator[str]:
    yield from [
        "",
        "## How to use it",
        "",
        "```bash",
        f"sercache predict {description.name} recording.wav"
        if not description.normalized_members
        else f"sercache predict {description.name} recordings-of-ann/ --speaker ann",
        "```",
    ]
    if description.normalized_members:
        yield from [
            "",
            f"It needs at least {MIN_CLIPS} recordings of each speaker, and the speaker of each recording.",
        ]
    yield from ["", "```python", "from pathlib import Path", "import sercache"]
    yield "from sercache.bundle.clips import Recording"
    yield ""
    yield f'bundle = sercache.Bundle.load(Path("{description.name}"))'
    yield 'for clip in bundle.predict([Recording("a", Path("recording.wav"))]):'
    yield "    print(clip.as_dict())"
    yield "```"


def _use() -> Iterator[str]:
    yield from ["", "## Intended use and limits", ""]
    yield (
        "For research and for summaries over many recordings. It predicts how listeners would label "
        "a voice, not what the speaker feels. It was evaluated on speakers of one corpus; other languages, "
        "microphones, ages and occasions will do worse, and by how much is not measured. It is not fit "
        "for decisions about single persons: in the European Union, inferring emotions at the workplace or "
        "in education is prohibited by the AI Act, article 5(1)(f)."
    )


def _results(description: BundleDescription, evaluation: Evaluation) -> Iterator[str]:
    yield from ["", "## How well it does", ""]
    where = "the test split" if evaluation.judged_on == "held-out" else "folds in turn"
    yield (
        f"On {evaluation.rows:,} utterances of {evaluation.speakers:,} speakers that none of its models was "
        f"trained on ({where}); 95 % intervals over speakers."
    )
    if description.models == "refit":
        yield ""
        yield (
            "These are the scores of the fold models' mean. This bundle has one model per member instead, "
            "which learnt from all folds and was not evaluated out of fold."
        )
    yield from ["", "| score | value | interval |", "|---|---|---|"]
    for name, score in evaluation.scores.items():
        shown = _SCORE_NAMES.get(name, name.replace("f1:", "F1 of ").replace("ccc:", "CCC of "))
        has_interval = score.low is not None and score.high is not None
        interval = f"{score.low:.3f} to {score.high:.3f}" if has_interval else ""
        yield f"| {shown} | {score.value:.3f} | {interval} |"
    if note := speaker_note(description.normalized_members):
        yield from ["", note]
    if evaluation.verdict:
        yield ""
        yield from evaluation.verdict


def _encoders(description: BundleDescription) -> Iterator[str]:
    yield from [
        "",
        "## Encoders",
        "",
        "Their licences and the terms of their data apply to this bundle, too.",
        "",
    ]
    yield "| feature set | encoder | revision | where | licence | trained on |"
    yield "|---|---|---|---|---|---|"
    for name, feature in description.features.items():
        revision = str(feature.provenance["revision"])[:12]
        yield (
            f"| {name} | {feature.recipe.encoder} | {revision} | {_where(feature)} | {_licence(feature)} | "
            f"{', '.join(feature.card.datasets) or _nothing(feature)} |"
        )
    if description.transcriber is not None:
        yield ""
        yield f"Words come from {description.transcriber} where none are given."


def _members(description: BundleDescription) -> Iterator[str]:
    yield from ["", "## Members", "", "| member | reads | models |", "|---|---|---|"]
    for member in description.members:
        yield f"| {member.name} | {' + '.join(member.features)} | {len(member.models)} |"
    if description.unread_members:
        yield ""
        yield f"Without weight, and therefore not here: {', '.join(description.unread_members)}."


def _where(feature: BundledFeature) -> str:
    return {
        "embedded": "part of sercache",
        "hub": "the hub",
        "included": "in this bundle",
        "local": "a folder of the user's",
        "random": "random weights: for benchmarks only",
    }[feature.origin]


def _licence(feature: BundledFeature) -> str:
    return feature.card.license or ("Apache-2.0" if feature.origin == "embedded" else _UNSTATED)


def _nothing(feature: BundledFeature) -> str:
    return "nothing" if feature.origin in ("embedded", "random") else _UNSTATED
