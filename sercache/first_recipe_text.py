"""A proposed recipe as YAML that explains itself: why each thing is as it is, and what people change."""

import os
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from sercache.corpus.agreement import agreement_of
from sercache.corpus.targets import consensus
from sercache.encoders.registry import ENCODERS
from sercache.first_recipe import (
    USUAL_FOLDS,
    Proposal,
    ProposedFeature,
    ProposedMember,
    is_scripted,
)

_WIDTH = 100
_STAGES = "Stage 1 takes all rows, stage 2 a fresh draw with as many of each class every epoch."
_STAGES_WITHOUT_CLASSES = "Both stages take all rows, the second learns more slowly."

_REAL_ENCODERS = {
    "audio": (
        ("wavlm", "{encoder: microsoft/wavlm-large, layers: last4}"),
        ("whisper", "{encoder: openai/whisper-large-v3}"),
    ),
    "text": (("roberta", "{encoder: FacebookAI/roberta-large, layers: last4}"),),
}
"""What the embedded ones stand for until there is a GPU; the paper's."""


def recipe_text(proposal: Proposal, recipe_path: Path, corpus_path: Path, cache: Path | None) -> str:
    """Return the recipe as commented YAML; its paths are relative to where it will lie.

    Args:
        proposal: what it says.
        recipe_path: where it will lie.
        corpus_path: the manifest.
        cache: the cache's folder; None: ``cache`` beside the recipe.
    """
    folder = recipe_path.parent
    output = f"runs/{recipe_path.stem}"
    lines = [
        *_comment(
            f"A first recipe for {corpus_path.name}, by sercache init. Keys that are not here have the "
            "values of MEDUSA (arXiv 2506.09556); a misspelt key is an error that names the nearest one."
        ),
        f"corpus: {_flow(_relative(corpus_path, folder))}",
        f"cache: {_flow('cache' if cache is None else _relative(cache, folder))}",
        f"output: {_flow(output)}  # another run wants another folder",
        "seed: 0",
        "",
        *_classes(proposal),
        "",
        *_features(proposal),
        "",
        *_folds(proposal),
        "",
        *_targets(proposal),
        "",
        *_training(proposal),
        "",
        *_members(proposal),
        "",
        *_comment(
            "The meta-level: all stackers are compared unless you name some. What people change here: "
            "stackers, extras (what they see beside posteriors), calibration."
        ),
        "# stacking: {stackers: [soft-vote, logistic, neural, lightgbm], extras: [duration]}",
    ]
    return "\n".join(lines) + "\n"


def _classes(proposal: Proposal) -> Iterator[str]:
    corpus = proposal.corpus
    if not corpus.classes:
        names = ", ".join(corpus.attribute_names)
        yield from _comment(
            f"The corpus has no classes: its attributes are learned, {names}. What decides everywhere is the "
            "mean of their concordance correlation coefficients (mean CCC)."
        )
        return
    labels = consensus(corpus).tolist()
    counts = ", ".join(f"{name} {labels.count(index):,}" for index, name in enumerate(corpus.classes))
    yield from _comment(
        f"Classes of the corpus, with the utterances whose consensus they are: {counts}. Votes for a class "
        "that you leave out count as votes for none."
    )
    kept = [name for name in corpus.classes if name not in proposal.empty_classes]
    if proposal.empty_classes:
        yield from _comment(f"Left out, as no training row has it: {', '.join(proposal.empty_classes)}.")
    yield f"{'' if proposal.empty_classes else '# '}classes: {_flow(kept)}"


def _features(proposal: Proposal) -> Iterator[str]:
    if proposal.is_cached:
        yield from _comment(
            "Feature sets: what the cache holds of this corpus. encoder, layers, time_pool and the like have "
            "to stay as they are for it to be found; another setting is another feature set, to be extracted "
            "first."
        )
    else:
        yield from _comment(
            "Feature sets: still to be extracted (sercache extract). time_pool averages frames: less to "
            "store, and faster to train."
        )
    yield "features:"
    for feature in proposal.features:
        yield from _feature(proposal, feature)
    for feature in proposal.left_out:
        yield from _comment(
            f"{feature.untried:,} utterances of the corpus are still to be extracted for this one: "
            "uncomment it, run sercache extract, and let members read it.",
            indent=2,
        )
        yield f"  # {feature.name}: {_flow(_changed(feature))}"
    held = {feature.recipe.encoder for feature in proposal.features}
    if not held - {"logmel", "char-ngrams"}:
        yield from _comment("Embedded encoders need no download and are weak. With a GPU, rather:", indent=2)
        for modality in dict.fromkeys(feature.modality for feature in proposal.features):
            yield from (f"  # {name}: {recipe}" for name, recipe in _REAL_ENCODERS[modality])
    if is_scripted(proposal.corpus):
        texts = len({row.text for row in proposal.corpus.utterances} - {None})
        yield from _comment(
            f"All say the same {texts} sentences, so what is said tells nothing of emotion.", indent=2
        )
    elif not any(row.text is not None for row in proposal.corpus.utterances):
        yield from _comment(
            "The corpus has no texts. sercache transcribe writes them into a column; a text encoder reads it "
            "with text_column.",
            indent=2,
        )


def _feature(proposal: Proposal, feature: ProposedFeature) -> Iterator[str]:
    if feature.held is not None:
        total = len(proposal.corpus)
        held = "all" if feature.held == total else f"{feature.held:,} of {total:,}"
        said = f"{feature.modality}, {held} utterances, {feature.dim} features a frame"
        if feature.held + feature.untried < total:
            said += f"; {total - feature.held - feature.untried:,} could not be extracted"
        if feature.untried:
            said += f"; {feature.untried:,} are still to be extracted"
        if feature.is_foreign:
            said += "; made by another tool"
        elif "/" not in feature.recipe.encoder and feature.recipe.encoder not in ENCODERS:
            said += "; a local checkpoint: to extract more of it, write its folder as encoder"
        yield from _comment(said, indent=2)
    yield f"  {feature.name}: {_flow(_changed(feature))}"


def _folds(proposal: Proposal) -> Iterator[str]:
    why = (
        f"{proposal.speakers:,} speakers in the training rows allow {USUAL_FOLDS}"
        if proposal.speakers >= USUAL_FOLDS
        else f"more than {proposal.folds} cannot be had: the training rows have {proposal.speakers} speakers"
    )
    splits = {row.split or "train" for row in proposal.corpus.utterances}
    judged = (
        "Results are judged on the test split."
        if "test" in splits
        else "There is no test split: results are judged on folds in turn."
    )
    stop = (
        "Training stops by the development split."
        if "development" in splits
        else "There is no development split: each fold keeps some of its speakers to stop by (inner_share)."
    )
    yield from _comment(
        f"Folds keep speakers apart: each row is predicted by a model that never heard its speaker. {why}. "
        f"{judged} {stop}"
    )
    yield f"folds: {{count: {proposal.folds}}}"


def _targets(proposal: Proposal) -> Iterator[str]:
    if not proposal.corpus.classes:
        yield from _comment("Targets are the ratings; a rating that a row lacks does not count.")
        return
    agreement = agreement_of(proposal.corpus)
    if agreement is not None and agreement.pairable:
        yield from _comment(
            f"Targets are the shares of the votes ({agreement.votes.mean:.1f} an utterance, Krippendorff's "
            f"alpha {agreement.alpha:.2f}). Rows where no class leads stay in "
            "({agreement.no_agreement:.0%}); no_agreement: drop takes them out."
        )
    else:
        yield from _comment("One vote an utterance: targets are plain classes.")
    yield "# targets: {no_agreement: keep, other: ignore}"
    names = proposal.corpus.attribute_names
    if names:
        yield from _comment(
            f"Attributes are learned beside the classes: {', '.join(names)}; training.attribute_weight says "
            "how much they count (0.4)."
        )


def _training(proposal: Proposal) -> Iterator[str]:
    sizing = proposal.sizing
    if not sizing.training:
        yield from _comment(
            f"{proposal.clips:,} training rows: as many as the paper's settings are made for, which are the "
            "defaults. What people change: training.stage1.learning_rate, training.batch_size, patience."
        )
        return
    stages = _STAGES if proposal.corpus.classes else _STAGES_WITHOUT_CLASSES
    yield from _comment(
        f"{proposal.clips:,} training rows: fewer than the paper's 84,000, so larger learning rates, and "
        f"smaller heads below. {stages} What people change first: the learning rates (sercache tune "
        "searches), then epochs."
    )
    yield "training:"
    if not proposal.corpus.classes:
        yield "  attribute_loss: ccc  # or mse, the paper's beside classes"
    for key, value in sizing.training.items():
        yield f"  {key}: {_flow(value)}"


def _members(proposal: Proposal) -> Iterator[str]:
    yield from _comment(
        "Members: what the stackers combine. Different features and heads help more than more seeds. Heads: "
        "deepser (the paper's), attentive-statistics, late-fusion, cross-attention, mean-linear."
    )
    yield "members:"
    for member in proposal.members:
        yield f"  # {member.why}"
        yield f"  - {_flow(_member(member, proposal))}"


def _member(member: ProposedMember, proposal: Proposal) -> dict[str, Any]:
    sizing = proposal.sizing
    said: dict[str, Any] = {"name": member.name}
    if member.head == "mean-linear":
        said |= {"head": member.head, "features": list(member.features)}
        # On the sample corpus a linear member learns attributes alone better from squared errors.
        loss = {} if proposal.corpus.classes else {"attribute_loss": "mse"}
        return said | {"training": loss | {"stage1": {"learning_rate": sizing.linear_rate}}}
    is_deepser = member.head == "deepser"
    said |= {} if is_deepser else {"head": member.head}
    said |= {"features": list(member.features), "seed": member.seed}
    options = sizing.options if is_deepser else sizing.statistics_options
    return said | ({"options": dict(options)} if options else {})


def _changed(feature: ProposedFeature) -> dict[str, Any]:
    """What of a feature's recipe is not the default, its encoder first."""
    return feature.recipe.model_dump(exclude_defaults=True)


def _comment(text: str, indent: int = 0) -> list[str]:
    start = f"{' ' * indent}# "
    clean = "".join(letter if letter.isprintable() else " " for letter in text)
    return textwrap.wrap(
        clean,
        _WIDTH,
        initial_indent=start,
        subsequent_indent=start,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _flow(value: Any) -> str:
    """Return a value as YAML in one line."""
    text: str = yaml.dump(
        value, Dumper=_Dumper, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6
    )
    return text.removesuffix("\n...\n").strip()


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix()


class _Dumper(yaml.SafeDumper):
    """Writes numbers as people do, with a point that YAML 1.1 needs: 1.0e-3, not 0.001."""


def _represent_float(dumper: yaml.SafeDumper, value: float) -> yaml.ScalarNode:
    mantissa, _, exponent = f"{value:.6e}".partition("e")
    digits = mantissa.rstrip("0")
    short = f"{digits}{'0' if digits.endswith('.') else ''}e{int(exponent):+d}"
    text = short if value and abs(value) < 0.1 else repr(value)
    node: yaml.ScalarNode = dumper.represent_scalar("tag:yaml.org,2002:float", text)
    return node


_Dumper.add_representer(float, _represent_float)
