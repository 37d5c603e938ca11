"""Write a proposed recipe as YAML with comments that explain each choice."""

import os
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from sercache.corpus.agreement import agreement_of
from sercache.corpus.targets import consensus
from sercache.encoders.registry import ENCODERS
from sercache.first_recipe import MANY_ROWS, USUAL_FOLDS, Proposal, ProposedMember
from sercache.first_recipe_features import ProposedFeature, is_scripted

_WIDTH = 100
_STAGES = "Stage 1 takes all rows, stage 2, if it has epochs, a fresh draw with as many of each class."
_STAGES_WITHOUT_CLASSES = "Both stages take all rows, the second learns more slowly."

_REAL_ENCODERS = {
    "audio": (
        ("wavlm", "{encoder: microsoft/wavlm-large, layers: all, time_pool: 4}"),
        ("whisper", "{encoder: openai/whisper-large-v3, layers: all, time_pool: 4}"),
    ),
    "text": (("roberta", "{encoder: FacebookAI/roberta-large, layers: all}"),),
}
"""What the embedded ones stand for until there is a GPU; the paper's."""


def recipe_text(proposal: Proposal, recipe_path: Path, corpus_path: Path, cache: Path | None) -> str:
    """Return the recipe as commented YAML; its paths are relative to its folder.

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


def gigabytes(size_bytes: float) -> str:
    """Return a readable size.

    >>> gigabytes(3.6e6), gigabytes(2.53e9), gigabytes(1.5e12)
    ('0.004 GB', '2.5 GB', '1,500 GB')
    """
    size = size_bytes / 1e9
    return f"{size:.3f} GB" if size < 0.1 else f"{size:.1f} GB" if size < 100 else f"{size:,.0f} GB"


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
    pending = [feature for feature in proposal.features if not feature.is_extracted]
    if len(pending) < len(proposal.features):
        yield from _comment(
            "Feature sets: what the cache holds of this corpus. encoder, layers, time_pool and the like have "
            "to stay as they are for it to be found; another setting is another feature set, to be extracted "
            "first."
        )
    if pending:
        yield from _comment(_of_extraction(proposal, pending))
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
    encoders = {feature.recipe.encoder for feature in proposal.features}
    if not encoders - {"logmel", "char-ngrams"}:
        yield from _comment(
            "Embedded encoders need no download and are weak. Better ones (sercache init --encoder NAME):",
            indent=2,
        )
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


def _of_extraction(proposal: Proposal, pending: Sequence[ProposedFeature]) -> str:
    """Return how much is still to be extracted, and why with these layers."""
    sentences = ["Still to be extracted (sercache extract)."]
    if proposal.size_bytes:
        sentences = [f"Still to be extracted (sercache extract): about {gigabytes(proposal.size_bytes)}."]
    if any(feature.recipe.layers == "all" for feature in pending):
        sentences.append(
            "layers: all keeps every layer: emotion is not in the last one alone, and linear members weigh "
            "all of them. sercache probe tells which pay, sercache cache prune takes the others away."
        )
    if any(feature.recipe.time_pool > 1 for feature in pending):
        sentences.append("time_pool averages neighbouring frames: less to store, and faster to train.")
    return " ".join(sentences)


def _feature(proposal: Proposal, feature: ProposedFeature) -> Iterator[str]:
    if feature.held is not None:
        total = len(proposal.corpus)
        count = "all" if feature.held == total else f"{feature.held:,} of {total:,}"
        comment = f"{feature.modality}, {count} utterances, {feature.dim} features a frame"
        if feature.num_layers > 1:
            comment += f" in each of {feature.num_layers} layers"
        if feature.held + feature.untried < total:
            comment += f"; {total - feature.held - feature.untried:,} could not be extracted"
        if feature.untried:
            comment += f"; {feature.untried:,} are still to be extracted"
        if feature.is_foreign:
            comment += "; made by another tool"
        elif "/" not in feature.recipe.encoder and feature.recipe.encoder not in ENCODERS:
            comment += "; a local checkpoint: to extract more of it, write its folder as encoder"
    else:
        size = f", about {gigabytes(feature.size_bytes)}" if feature.size_bytes else ""
        comment = f"{feature.modality}, to be extracted{size}"
        if feature.with_all_layers_bytes is not None:
            comment += (
                f"; all layers would take {gigabytes(feature.with_all_layers_bytes)}, and "
                f"{gigabytes(proposal.free_bytes)} are free: so the sum of the last four"
            )
    yield from _comment(comment, indent=2)
    yield f"  {feature.name}: {_flow(_changed(feature))}"


def _folds(proposal: Proposal) -> Iterator[str]:
    why = (
        f"{proposal.speakers:,} speakers in the training rows allow {USUAL_FOLDS}"
        if proposal.speakers >= USUAL_FOLDS
        else f"more than {proposal.folds} cannot be had: the training rows have {proposal.speakers} speakers"
    )
    splits = {row.split or "train" for row in proposal.corpus.utterances}
    judged = (
        "Results are scored on the test split."
        if "test" in splits
        else "There is no test split: results are scored on folds in turn."
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
            f"({agreement.no_agreement:.0%}); no_agreement: drop takes them out."
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
        f"smaller heads below. Only neural members read these settings. {stages} What people change first: "
        "the learning rates (sercache tune searches), then epochs."
    )
    yield "training:"
    if not proposal.corpus.classes:
        yield "  attribute_loss: ccc  # or mse, the paper's beside classes"
    for key, value in sizing.training.items():
        yield f"  {key}: {_flow(value)}"


def _members(proposal: Proposal) -> Iterator[str]:
    yield from _comment(
        "Members: what the stackers combine. Different features and heads help more than more seeds. Heads: "
        "ridge, logistic, deepser (the paper's), attentive-statistics, late-fusion, cross-attention, "
        "mean-linear."
    )
    yield "members:"
    previous = ProposedMember("", "deepser", (), None, "")
    for member in proposal.members:
        if member.seed is None and previous.why == "":
            yield from _comment(_of_closed_form(proposal), indent=2)
        if member.seed is not None and previous.seed is None:
            yield from _comment(_of_neural(proposal), indent=2)
        if member.why != previous.why:
            yield f"  # {member.why[:1].upper()}{member.why[1:]}:"
        yield f"  - {_flow(_member(member, proposal))}"
        previous = member


def _of_closed_form(proposal: Proposal) -> str:
    """Return the comment on linear members and their statistics."""
    comment = (
        "Linear, on statistics over time (mean, deviation, ...) of every layer, solved in closed form: "
        "seconds a fold. On small corpora they are hard to beat; all that follows has to earn its place "
        "beside them."
    )
    if proposal.clips > MANY_ROWS:
        comment += f" Mean and deviation are enough for {proposal.clips:,} rows, and stay within memory."
    return comment


def _of_neural(proposal: Proposal) -> str:
    """Return the comment on neural members and their cost."""
    base = ""
    if "base" in proposal.sizing.options:
        base = "It starts from the linear solution (base) and learns what to add. "
    return (
        f"Neural: MEDUSA's head, which also sees how speech goes on in time. {base}That takes minutes to "
        "hours: train-ensemble begins with what takes seconds, and Ctrl-C keeps it."
    )


def _member(member: ProposedMember, proposal: Proposal) -> dict[str, Any]:
    keys: dict[str, Any] = {"name": member.name}
    if member.head != "deepser":
        options = {"options": {"statistics": "mean+deviation"}} if proposal.clips > MANY_ROWS else {}
        return keys | {"head": member.head, "features": list(member.features)} | options
    keys |= {"features": list(member.features), "seed": member.seed}
    return keys | ({"options": dict(proposal.sizing.options)} if proposal.sizing.options else {})


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
    """Writes numbers in readable form, with the point that YAML 1.1 needs: 1.0e-3, not 0.001."""


def _represent_float(dumper: yaml.SafeDumper, value: float) -> yaml.ScalarNode:
    mantissa, _, exponent = f"{value:.6e}".partition("e")
    digits = mantissa.rstrip("0")
    short = f"{digits}{'0' if digits.endswith('.') else ''}e{int(exponent):+d}"
    text = short if value and abs(value) < 0.1 else repr(value)
    node: yaml.ScalarNode = dumper.represent_scalar("tag:yaml.org,2002:float", text)
    return node


_Dumper.add_representer(float, _represent_float)
