"""What to listen to: the most confident mistakes, and the clips that raters differ on most."""

import base64
import io
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import numpy as np

from sercache.audio import load_audio
from sercache.errors import AudioError
from sercache.evaluation.metrics import Floats
from sercache.reporting.blocks import Bar, Block, Clip, Clips, Folded, Prose, Section, shown
from sercache.reporting.facts import Facts, ScoredRows
from sercache.reporting.subgroups_section import vote_entropy
from sercache.stacking.rows import scaled_ratings, scaled_to_ranges

MOST_CLIPS = 20
_SHOWN_CLIPS = 6
_LONGEST_TEXT = 300
_EMBEDDED_RATE_HZ = 16000
_EMBEDDED_SECONDS = 15.0
_EMBEDDED_BYTES = 2_000_000
"""All of the embedded audio together: the page stays small enough to send."""


@dataclass
class AudioLinks:
    """Where the page finds recordings.

    Args:
        page_folder: where the page lies; links are relative to it.
        embeds: put the sound itself into the page. The page may then no longer be passed on freely: the
            corpus's licence decides.
    """

    page_folder: Path
    embeds: bool = False
    _room: int = field(default=_EMBEDDED_BYTES, init=False)

    def of(self, scored: ScoredRows, row: int) -> str | None:
        """Return where the recording of a row plays from; None where it is not at hand."""
        corpus = scored.rows.corpus
        utterance = corpus.utterances[row]
        if utterance.audio is None:
            return None
        path = corpus.audio_path(utterance)
        if not path.is_file():
            return None
        if self.embeds:
            return self._embedded(path, utterance.start_seconds, utterance.end_seconds)
        start, end = utterance.start_seconds, utterance.end_seconds
        span = "" if start is None and end is None else f"#t={start or 0:g}" + (f",{end:g}" if end else "")
        return _link(path, self.page_folder) + span

    def _embedded(self, path: Path, start: float | None, end: float | None) -> str | None:
        import soundfile

        try:
            wave = load_audio(path, _EMBEDDED_RATE_HZ, start, end)
        except AudioError:
            return None
        stream = io.BytesIO()
        soundfile.write(
            stream,
            np.asarray(wave)[: int(_EMBEDDED_SECONDS * _EMBEDDED_RATE_HZ)],
            _EMBEDDED_RATE_HZ,
            format="OGG",
            subtype="VORBIS",
        )
        content = base64.b64encode(stream.getvalue()).decode()
        if len(content) > self._room:
            return None
        self._room -= len(content)
        return f"data:audio/ogg;base64,{content}"


def _link(path: Path, folder: Path) -> str:
    try:
        relative = os.path.relpath(path.resolve(), folder.resolve())
    except ValueError:  # another drive
        return path.resolve().as_uri()
    # The dot keeps a name with a colon from being read as a scheme.
    return "./" + quote(Path(relative).as_posix())


def clips_section(facts: Facts, links: AudioLinks) -> Section | None:
    """Show mistakes and ambiguous clips; None where rows are not at hand."""
    scored = facts.scored
    if scored is None:
        return None
    if not facts.classes:
        return _attributes_section(facts, scored, links)
    wrong, unclear = confident_mistakes(scored, facts.choice), most_ambiguous(scored)
    blocks: list[Block] = []
    for title, rows in (
        (f"The {len(wrong)} most confident mistakes of {facts.choice}", wrong),
        (f"The {len(unclear)} clips that raters differ on most", unclear),
    ):
        if rows:
            clips = tuple(_clip(facts, scored, row, links.of) for row in rows)
            blocks.append(Clips(title, clips[:_SHOWN_CLIPS]))
            if len(clips) > _SHOWN_CLIPS:
                rest = Clips("", clips[_SHOWN_CLIPS:])
                blocks.append(Folded(f"{len(clips) - _SHOWN_CLIPS} more", (rest,)))
            if not any(clip.audio for clip in clips):
                blocks.append(
                    Prose("The recordings are not at hand: there is nothing to play.", is_note=True)
                )
    if not blocks:
        return None
    count = len(scored.known)
    errors = int((scored.decisions(facts.choice)[scored.known] != scored.rows.labels[scored.known]).sum())
    share = f" ({errors / count:.0%})" if count else ""
    return Section(
        "clips",
        "Clips",
        f"{facts.choice} is wrong on {errors:,} of {count:,} rows{share}. The upper bar of a class is its "
        "share of the votes, the lower one its probability.",
        blocks,
    )


def _attributes_section(facts: Facts, scored: ScoredRows, links: AudioLinks) -> Section | None:
    """Show the clips whose attributes are predicted furthest from the ratings."""
    errors = attribute_errors(scored, facts.choice)
    known = scored.known
    if not len(known):
        return None
    order = known[np.argsort(-errors[known], kind="stable")][:MOST_CLIPS]
    clips = tuple(_attribute_clip(facts, scored, row, links.of) for row in order.tolist())
    blocks: list[Block] = [
        Clips(f"The {len(clips)} clips that {facts.choice} is furthest off on", clips[:_SHOWN_CLIPS])
    ]
    if len(clips) > _SHOWN_CLIPS:
        blocks.append(Folded(f"{len(clips) - _SHOWN_CLIPS} more", (Clips("", clips[_SHOWN_CLIPS:]),)))
    if not any(clip.audio for clip in clips):
        blocks.append(Prose("The recordings are not at hand: there is nothing to play.", is_note=True))
    return Section(
        "clips",
        "Clips",
        f"{facts.choice} is {float(errors[known].mean()):.0%} of the scale off on average. The upper bar of "
        "an attribute is the rating, the lower one the prediction; a full bar is the highest value.",
        blocks,
    )


def attribute_errors(scored: ScoredRows, stacker: str) -> Floats:
    """Return how far a stacker is off, as a share of the scale, averaged over rated attributes: ``(N,)``.

    NaN where nobody rated.
    """
    inputs = scored.rows.inputs
    predicted = scaled_to_ranges(scored.predictions[stacker].attribute_values, inputs)
    apart = np.abs(predicted - scaled_ratings(scored.rows))  # (N, A)
    rated = ~np.isnan(apart)
    errors = np.full(len(apart), np.nan)
    np.divide(np.where(rated, apart, 0.0).sum(axis=1), rated.sum(axis=1), out=errors, where=rated.any(axis=1))
    return errors


def _attribute_clip(
    facts: Facts, scored: ScoredRows, row: int, audio_of: Callable[[ScoredRows, int], str | None]
) -> Clip:
    rows = scored.rows
    utterance, attributes = rows.corpus.utterances[row], rows.inputs.attributes
    rated, predicted = rows.attribute_targets[row], scored.predictions[facts.choice].attribute_values[row]
    shares = scaled_ratings(rows)[row], scaled_to_ranges(predicted, rows.inputs)
    names = [shown(attribute.name, 20) for attribute in attributes]
    sentences = [
        f"raters {'unknown' if np.isnan(truth) else f'{truth:.2f}'}, predicted {value:.2f}"
        for truth, value in zip(rated, predicted, strict=True)
    ]
    found = [f"{name}: {words}" for name, words in zip(names, sentences, strict=True)]
    if rows.speakers[row]:
        found.append(f"speaker {shown(str(rows.speakers[row]), 40)}")
    bars = [
        Bar(name, None if np.isnan(truth) else float(truth), float(value), words)
        for name, truth, value, words in zip(names, *shares, sentences, strict=True)
    ]
    text = shown(utterance.text or "", _LONGEST_TEXT)
    return Clip(shown(utterance.id, 120), tuple(found), text, tuple(bars), True, audio_of(scored, row))


def confident_mistakes(scored: ScoredRows, stacker: str, most: int = MOST_CLIPS) -> list[int]:
    """Return the rows that a stacker decides wrongly, surest first."""
    known = scored.known
    wrong = known[scored.decisions(stacker)[known] != scored.rows.labels[known]]
    confidence = scored.probabilities(stacker)[wrong].max(axis=1)
    return [int(row) for row in wrong[np.argsort(-confidence, kind="stable")][:most]]


def most_ambiguous(scored: ScoredRows, most: int = MOST_CLIPS) -> list[int]:
    """Return the rows whose raters differ most; those where all agree do not count."""
    entropy = np.nan_to_num(vote_entropy(scored.rows.soft_targets))
    order = np.argsort(-entropy, kind="stable")
    return [row for row in order[:most].tolist() if entropy[row] > 1e-9]


def _clip(
    facts: Facts, scored: ScoredRows, row: int, audio_of: Callable[[ScoredRows, int], str | None]
) -> Clip:
    rows = scored.rows
    utterance = rows.corpus.utterances[row]
    label, votes = int(rows.labels[row]), rows.soft_targets[row]
    predicted = scored.probabilities(facts.choice)[row]
    names = [shown(name, 20) for name in facts.classes]
    truth = names[label] if label >= 0 else "no consensus"
    best = int(predicted.argmax())
    found = [f"raters: {truth}", f"{facts.choice}: {names[best]} {predicted[best]:.0%}"]
    if rows.speakers[row]:
        found.append(f"speaker {shown(str(rows.speakers[row]), 40)}")
    shares = [None if np.isnan(vote) else float(vote) for vote in votes]
    bars = [Bar(*bar) for bar in zip(names, shares, predicted.tolist(), strict=True)]
    return Clip(
        shown(utterance.id, 120),
        tuple(found),
        shown(utterance.text or "", _LONGEST_TEXT),
        tuple(bars),
        best != label >= 0,
        audio_of(scored, row),
    )
