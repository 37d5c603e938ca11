"""What was run: corpus, features, recipe, versions, the time of each stage, failures and warnings."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from sercache.cache.ledger import Failure, Ledger
from sercache.cache.store import Cache, FeatureSet
from sercache.cache.usage import read_speeds
from sercache.corpus.summary import CorpusSummary, summarize
from sercache.errors import CacheError, SercacheError
from sercache.recipe import dump_recipe
from sercache.reporting.blocks import (
    Block,
    Cell,
    Folded,
    Pairs,
    Prose,
    Section,
    Source,
    Table,
    count,
    number,
    shown,
)
from sercache.reporting.facts import Facts
from sercache.reporting.training_section import read_histories
from sercache.reporting.wording import duration, size

_DIGITS = 12


def provenance_section(facts: Facts, sets: Mapping[str, FeatureSet]) -> Section:
    """Show what a reader needs to do it again."""
    pairs = [("folder", shown(str(facts.run.root.resolve()), 200))]
    summary = None
    if facts.scored is not None:
        summary = summarize(facts.scored.rows.corpus)
        pairs.append(("scored rows", _corpus_words(summary)))
    if facts.recipe is not None:
        pairs.append(("corpus", shown(str(facts.recipe.corpus), 200)))
        pairs.append(("cache", shown(str(facts.recipe.cache), 200)))
        pairs.append(("folds", f"{facts.recipe.folds.count}, disjoint by speaker"))
        pairs.append(("seed", str(facts.recipe.seed)))
    pairs += [
        (f"{name} digest", str(facts.description[name]))
        for name in ("corpus", "folds")
        if name in facts.description
    ]
    if facts.classes:
        pairs.append(("classes", ", ".join(shown(name, 40) for name in facts.classes)))
    if facts.attributes:
        pairs.append(("attributes", ", ".join(shown(name, 40) for name in facts.attributes)))
    versions = facts.description.get("versions", {})
    if versions:
        pairs.append(("versions", ", ".join(f"{name} {version}" for name, version in versions.items())))
    blocks: list[Block] = [Pairs(tuple(pairs))]
    if sets:
        blocks.append(_features_table(sets))
    blocks.append(_stages_table(facts, sets))
    if summary is not None and facts.classes:
        blocks.append(Folded("Scored rows by class", (_classes_table(facts, summary),)))
    if facts.recipe is not None:
        blocks.append(Folded("Members", (_members_table(facts),)))
        blocks.append(Folded("The resolved recipe", (Source("recipe.yaml", dump_recipe(facts.recipe)),)))
    members = len(facts.metrics["members"])
    return Section(
        "run",
        "Run",
        f"{members} member{'s' if members > 1 else ''}, "
        + (
            f"{len(sets)} feature set{'s' if len(sets) != 1 else ''}, "
            if facts.recipe is not None
            else "made by other systems, "
        )
        + f"{len(facts.stackers)} meta-levels.",
        blocks,
    )


def feature_sets(facts: Facts) -> Mapping[str, FeatureSet]:
    """Return the feature sets of a run that are still in its cache, by the recipe's names."""
    found: dict[str, FeatureSet] = {}
    if facts.recipe is None:
        return found
    for name, features in facts.recipe.features.items():
        try:
            feature_set = Cache(facts.recipe.cache).find(features)
            if len(feature_set):
                found[name] = feature_set
        except SercacheError:
            continue
    return found


def _corpus_words(summary: CorpusSummary) -> str:
    total = summary.total
    parts = [f"{total.utterances:,} utterances", f"{total.speakers:,} speakers"]
    if total.timed:
        parts.append(f"{duration(3600 * total.hours)} of speech")
    if total.votes_per_utterance:
        parts.append(f"{total.votes_per_utterance:.1f} votes each")
    if total.ambiguity is not None:
        parts.append(f"mean entropy of the votes {total.ambiguity:.2f} (0 all agree, 1 they scatter)")
    return ", ".join(parts)


def _classes_table(facts: Facts, summary: CorpusSummary) -> Table:
    classes = {name: rows for name, rows in summary.total.classes.items() if rows or name in facts.classes}
    words = {"X": "X (no agreement)", "O": "O (other)"}
    return Table(
        "Scored rows by their consensus class",
        ("class", "rows", "%"),
        tuple(
            (
                Cell(shown(words.get(name, name), 60)),
                count(rows),
                number(100 * rows / summary.total.utterances, 1),
            )
            for name, rows in classes.items()
        ),
    )


def _features_table(sets: Mapping[str, FeatureSet]) -> Table:
    def row(name: str, feature_set: FeatureSet) -> tuple[Cell, ...]:
        spec = feature_set.spec
        rate = spec.frame_rate_hz / spec.time_pool if spec.frame_rate_hz else None
        return (
            Cell(shown(name, 40)),
            Cell(shown(spec.encoder, 60)),
            Cell(shown(", ".join(spec.layers), 40)),
            count(spec.dim),
            number(rate, 1),
            Cell(spec.dtype or ""),
            count(len(feature_set)),
            Cell(size(feature_set.size_bytes), feature_set.size_bytes, is_number=True),
            Cell(spec.fingerprint[:_DIGITS]),
        )

    return Table(
        "Features",
        (
            "name",
            "encoder",
            "layers",
            "numbers",
            "frames / s",
            "stored as",
            "utterances",
            "size",
            "fingerprint",
        ),
        tuple(row(name, feature_set) for name, feature_set in sets.items()),
    )


def _members_table(facts: Facts) -> Table:
    assert facts.recipe is not None
    return Table(
        "Members",
        ("name", "head", "features", "seed", "options"),
        tuple(
            (
                Cell(member.name),
                Cell(shown(member.head)),
                Cell(", ".join(member.features)),
                count(member.seed),
                Cell(shown(", ".join(f"{name} {value}" for name, value in member.options.items()), 80)),
            )
            for member in facts.recipe.members
        ),
    )


def _stages_table(facts: Facts, sets: Mapping[str, FeatureSet]) -> Table:
    """Return what each stage took, as far as it was noted."""
    rows: list[tuple[Cell, ...]] = []

    def add(stage: str, seconds: float, words: str) -> None:
        known = (
            Cell(duration(seconds), seconds, is_number=True)
            if seconds == seconds
            else Cell("not noted", is_number=True)
        )
        rows.append((Cell(stage), known, Cell(words)))

    for name, feature_set in sets.items():
        speeds = read_speeds(feature_set.folder)
        seconds = sum(speed.encode_seconds for speed in speeds.values()) if speeds else float("nan")
        cost = "; ".join(
            f"{speed.seconds_per_minute:.2g} s for a minute of speech on {device}"
            for device, speed in speeds.items()
        )
        add(f"encode '{shown(name, 40)}'", seconds, cost)
    histories = [fold for member in facts.metrics["members"] for fold in read_histories(facts.run, member)]
    if histories:
        total = sum(fold.seconds for fold in histories)
        add("train the members", total, f"{len(histories)} trainings, {total / len(histories):.1f} s each")
    of_stackers: list[dict[str, Any]] = [facts.metrics["rows"][name] for name in facts.stackers]
    fit = float(np.sum([figures["fit_seconds"] for figures in of_stackers]))
    predict = float(np.sum([figures["predict_seconds"] for figures in of_stackers]))
    add("fit every meta-level once", fit, f"on {facts.metrics['fitting_rows']:,} rows")
    add("predict with every meta-level", predict, f"{facts.metrics['judged_rows']:,} rows")
    return Table("Time, added over processes", ("stage", "time", ""), tuple(rows), is_sortable=False)


_SHOWN = 50


def failures_of(sets: Mapping[str, FeatureSet]) -> dict[str, list[Failure]]:
    """Return which utterances have no frames, by feature set; none where nothing failed."""
    found = {}
    for name, feature_set in sets.items():
        try:
            failures = [
                failure
                for failure in Ledger(feature_set.folder).failures.values()
                if failure.utterance not in feature_set
            ]
        except CacheError:
            continue
        if failures:
            found[name] = failures
    return found


def troubles_section(facts: Facts, failures: Mapping[str, list[Failure]]) -> Section:
    """Show failures and warnings, or say that there are none."""
    blocks: list[Block] = [Prose(warning, is_note=True) for warning in facts.warnings]
    all_failures = [(name, failure) for name, of_set in failures.items() for failure in of_set]
    if all_failures:
        blocks.append(
            Table(
                f"{len(all_failures):,} failures"
                + (f", the first {_SHOWN}" if len(all_failures) > _SHOWN else ""),
                ("utterance", "feature set", "stage", "attempts", "what happened"),
                tuple(
                    (
                        Cell(shown(failure.utterance, 80)),
                        Cell(shown(name, 40)),
                        Cell(failure.stage),
                        count(failure.attempts),
                        Cell(shown(failure.message, 200)),
                    )
                    for name, failure in all_failures[:_SHOWN]
                ),
            )
        )
    lead = "Nothing failed, and nothing was odd."
    if all_failures or facts.warnings:
        lead = f"{len(all_failures):,} utterances lack features; {len(facts.warnings)} warnings."
    return Section("troubles", "Warnings", lead, blocks)
