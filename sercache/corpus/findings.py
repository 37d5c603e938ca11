"""Findings on a corpus before a training: sentences, each with what to do about it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sercache.corpus.agreement import Agreement
from sercache.corpus.leaks import Boundary, Leak
from sercache.corpus.summary import UNLABELLED, CorpusSummary, Distribution

Gravity = Literal["leak", "warning", "note"]

_TENTATIVE_ALPHA = 0.667
"""Below it, Krippendorff would draw no conclusion from single labels, not even a tentative one."""

_FEW_ROWS = 20
_FEW_SPEAKERS = 5
_LONG_SECONDS = 30.0
"""Longest window of the encoders by default; longer clips are encoded in overlapping windows."""

_LARGE_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Finding:
    """A sentence: ``leak`` makes results untrue, ``warning`` may, ``note`` is good to know."""

    gravity: Gravity
    message: str


def findings_of(
    summary: CorpusSummary,
    seconds: Distribution | None,
    boundary: Boundary,
    leaks: Sequence[Leak],
    labels: Sequence[Finding],
) -> tuple[Finding, ...]:
    """Return all findings, the gravest first; ``labels`` are those on the labels."""
    found = [
        *_of_leaks(leaks, boundary),
        *_of_speakers(summary),
        *labels,
        *_of_lengths(summary, seconds),
    ]
    order: tuple[Gravity, ...] = ("leak", "warning", "note")
    return tuple(sorted(found, key=lambda finding: order.index(finding.gravity)))


def class_findings(
    summary: CorpusSummary,
    agreement: Agreement | None,
    speakers_by_class: Mapping[str, int],
    classes: Sequence[str],
) -> list[Finding]:
    """Return the findings on classes and votes."""
    return [*_of_classes(summary, speakers_by_class, classes), *_of_votes(summary, agreement)]


def attribute_findings(values: Mapping[str, Distribution | None], utterances: int) -> list[Finding]:
    """Return the findings on the attributes of a corpus without classes.

    Args:
        values: distribution of the ratings of every attribute; None where nobody rated it.
        utterances: number of the corpus's utterances.
    """
    found = []
    unrated = [name for name, spread in values.items() if spread is None]
    if unrated:
        found.append(Finding("warning", f"nobody rated {_listed(unrated)}: it cannot be learned"))
    for name, spread in values.items():
        if spread is None:
            continue
        if spread.quantiles["least"] == spread.quantiles["most"]:
            found.append(Finding("warning", f"all ratings of '{name}' are equal: there is nothing to learn"))
        elif spread.count < _FEW_ROWS:
            found.append(
                Finding(
                    "warning", f"fewer than {_FEW_ROWS} utterances rate '{name}': its CCC will be unreliable"
                )
            )
        elif spread.count < utterances:
            missing = utterances - spread.count
            found.append(Finding("note", f"{_plural(missing, 'utterance')} without a rating of '{name}'"))
    return found


def _of_leaks(leaks: Sequence[Leak], boundary: Boundary) -> Iterator[Finding]:
    nouns = {
        "speaker": "speaker",
        "audio": "recording",
        "span": "overlapping stretch",
        "sentence": "sentence",
    }
    for leak in leaks:
        if leak.kind == "text":
            continue  # short texts recur by chance; sentences say what matters
        what = f"{_plural(leak.shared, nouns[leak.kind])}, such as '{leak.examples[0]}'"
        if boundary == "speakers":
            shared = f"several speakers share {what} ({_plural(leak.rows[0], 'utterance')})"
        else:
            rows = " and ".join(f"{count:,}" for count in leak.rows)
            shared = f"{' and '.join(leak.between)} share {what} ({rows} utterances)"
        if leak.kind == "sentence":
            gravity: Gravity = "note" if boundary == "speakers" else "warning"
            yield Finding(gravity, f"{shared}: a text encoder may memorize them")
        elif boundary == "speakers":
            yield Finding("leak", f"{shared}: folds cannot keep them apart; keep one of each")
        else:
            yield Finding("leak", f"{shared}: scores would be too good; move each into one split")


def _of_speakers(summary: CorpusSummary) -> Iterator[Finding]:
    known = {name: count for name, count in summary.speakers.items() if name is not None}
    anonymous = summary.speakers.get(None, 0)
    if not known:
        yield Finding("warning", "no speaker is named: folds cannot be kept apart by speaker")
        return
    if anonymous:
        yield Finding("warning", f"{_plural(anonymous, 'utterance')} without a speaker count as one speaker")
    if len(known) < _FEW_SPEAKERS:
        yield Finding(
            "warning", f"{_plural(len(known), 'speaker')}: as many folds at most, and wide intervals"
        )
    name, rows = max(known.items(), key=lambda pair: pair[1])
    if len(known) >= _FEW_SPEAKERS and rows > _LARGE_SHARE * summary.total.utterances:
        share = rows / summary.total.utterances
        yield Finding(
            "note", f"speaker '{name}' has {share:.0%} of all utterances: folds will be of unequal size"
        )


def _of_classes(
    summary: CorpusSummary, speakers_by_class: Mapping[str, int], classes: Sequence[str]
) -> Iterator[Finding]:
    counts = {name: summary.total.classes[name] for name in classes}
    empty = [name for name, count in counts.items() if not count]
    if empty:
        yield Finding(
            "warning", f"no utterance has {_listed(empty)} as its consensus: name the others under 'classes'"
        )
    rare = [name for name, count in counts.items() if 0 < count < _FEW_ROWS]
    if rare:
        yield Finding(
            "warning", f"fewer than {_FEW_ROWS} utterances of {_listed(rare)}: F1 will be unreliable"
        )
    narrow = [
        name
        for name, speakers in speakers_by_class.items()
        if name not in rare and 0 < speakers < _FEW_SPEAKERS < len(summary.speakers)
    ]
    if narrow:
        yield Finding(
            "warning", f"fewer than {_FEW_SPEAKERS} speakers of {_listed(narrow)}: folds may lack them"
        )
    filled = {name: count for name, count in counts.items() if count}
    if len(filled) > 1:
        most, least = max(filled, key=filled.__getitem__), min(filled, key=filled.__getitem__)
        ratio = filled[most] / filled[least]
        if ratio >= 10:
            yield Finding(
                "note",
                f"'{most}' is {ratio:.0f} times as frequent as '{least}': look at macro-F1, not accuracy",
            )
    for split, part in summary.splits.items():
        missing = [name for name in filled if not part.classes[name]]
        if len(summary.splits) > 1 and missing:
            yield Finding("warning", f"split '{split}' has no {_listed(missing)}")


def _of_votes(summary: CorpusSummary, agreement: Agreement | None) -> Iterator[Finding]:
    unlabelled = summary.total.classes[UNLABELLED]
    if agreement is None:
        yield Finding("warning", "nobody voted: there is nothing to learn classes from")
        return
    if unlabelled:
        yield Finding("note", f"{_plural(unlabelled, 'utterance')} without votes: not used for classes")
    if not agreement.pairable:
        yield Finding("note", "one vote an utterance at most: how far raters agree is not known")
    elif agreement.alpha < _TENTATIVE_ALPHA:
        yield Finding(
            "note",
            f"alpha {agreement.alpha:.3f} is below {_TENTATIVE_ALPHA}: single labels are not to be relied "
            "on; learn from the votes (the default), and read log-loss and JSD beside macro-F1",
        )
    if agreement.fractional:
        yield Finding(
            "note", f"{_plural(agreement.fractional, 'utterance')} with parts of votes are not in alpha"
        )


def _of_lengths(summary: CorpusSummary, seconds: Distribution | None) -> Iterator[Finding]:
    untimed = summary.total.with_audio - summary.total.timed
    if untimed > 0:
        yield Finding(
            "warning",
            f"the duration of {_plural(untimed, 'recording')} is not known: sercache corpus check says why",
        )
    if seconds is not None and seconds.quantiles["most"] > _LONG_SECONDS:
        longest = seconds.quantiles["most"]
        yield Finding(
            "note",
            f"the longest utterance has {longest:.0f} s: over {_LONG_SECONDS:.0f} s are encoded in windows",
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 'es' if noun.endswith('ch') else 's'}"
