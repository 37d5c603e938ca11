"""``sercache extract --dry-run`` and ``--check``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .console import progress_listener
from .rendering import Row, gigabytes, numbers, print_json, print_line, print_table

if TYPE_CHECKING:
    from sercache.corpus import Corpus
    from sercache.extract.estimate import Estimate, FeatureEstimate
    from sercache.recipe import FeatureRecipe


def dry_run(
    corpus: "Corpus",
    features: "Mapping[str, FeatureRecipe]",
    cache: Path,
    devices: Sequence[str],
    retry_failed: bool,
    as_json: bool,
) -> None:
    """Show what an extraction would cost; nothing is written."""
    from sercache.extract.estimate import estimate

    with progress_listener() as listener:
        found = estimate(
            corpus, features, cache, devices=devices, retry_failed=retry_failed, listener=listener
        )
    if as_json:
        print_json(found)
    else:
        _print_estimate(found, cache, len(devices))


def check(
    corpus: "Corpus",
    features: "Mapping[str, FeatureRecipe]",
    cache: Path,
    devices: Sequence[str],
    clips: int,
    as_json: bool,
) -> None:
    """Show the largest error of each comparison.

    Raises:
        EncoderError: an error is larger than it may be.
    """
    from sercache.errors import EncoderError
    from sercache.extract.self_check import check_features

    with progress_listener() as listener:
        findings = check_features(
            corpus, features, cache, device=devices[0] if devices else "auto", clips=clips, listener=listener
        )
    if as_json:
        print_json(findings)
    else:
        rows = [
            Row(
                (
                    finding.feature,
                    finding.what,
                    str(finding.clips),
                    f"{finding.error:.1e}",
                    f"{finding.limit:.0e}",
                    finding.utterance_id,
                ),
                "" if finding.is_fine else "red",
            )
            for finding in findings
        ]
        headings = numbers("clips", "largest error", "may be")
        print_table(["feature set", "compared", *headings, "worst clip"], rows)
    bad = [finding for finding in findings if not finding.is_fine]
    if bad:
        raise EncoderError(
            f"{bad[0].feature}: {bad[0].what}: error {bad[0].error:.1e}, at most {bad[0].limit:.0e} is fine; "
            "set precision: float32 for this feature set, or extract it into a new cache"
        )


def _print_estimate(found: "Estimate", cache: Path, devices: int) -> None:
    rows = [
        (
            feature.name,
            f"{feature.utterances:,}",
            f"{feature.in_cache:,}",
            f"{feature.seconds / 3600:.2f}",
            str(feature.spec.dtype),
            gigabytes(feature.size_bytes),
            "?" if feature.speed is None else f"{feature.speed:.1f}x",
            "?" if feature.takes_seconds is None else _duration(feature.takes_seconds),
        )
        for feature in found.features
    ]
    headings = numbers("to extract", "in cache", "hours", "stored as", "GB", "speed", "takes")
    print_table(["feature set", *headings], rows)
    for feature in found.features:
        _print_details(feature)
    shared = "" if devices == 1 else f" on {devices} devices"
    print_line(
        f"In all: {gigabytes(found.size_bytes)} GB ({gigabytes(found.free_bytes)} GB are free at {cache}), "
        f"about {_duration(found.takes_seconds)}{shared}."
    )
    if found.size_bytes > found.free_bytes:
        print_line("That does not fit on the disk.", style="red")


def _print_details(feature: "FeatureEstimate") -> None:
    if not feature.utterances:
        return
    lines = []
    if feature.alternatives:
        others = ", ".join(f"{name} {gigabytes(size)}" for name, size in feature.alternatives.items())
        lines.append(f"GB with other choices: {others}")
    if feature.padded_bytes:
        lines.append(f"frames are trimmed to each clip: untrimmed {gigabytes(feature.padded_bytes)} GB")
    if feature.longest and feature.spec.modality == "audio":
        longest = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in feature.longest)
        lines.append(f"longest clips: {longest}")
    if feature.unreadable:
        lines.append(f"{feature.unreadable:,} utterances have no known length: they will fail or be empty")
    for line in lines:
        print_line(f"  {feature.name}: {line}", style="dim")


def _duration(seconds: float) -> str:
    """Return a length of time for people: ``3 h 20 min``, ``4 min``, ``12 s``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
