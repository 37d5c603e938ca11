"""What went wrong: utterances without features, and warnings."""

from collections.abc import Mapping

from sercache.cache.ledger import Failure, Ledger
from sercache.cache.store import FeatureSet
from sercache.errors import CacheError
from sercache.reporting.blocks import Block, Cell, Prose, Section, Table, count, shown
from sercache.reporting.facts import Facts

_SHOWN = 50


def failures_of(sets: Mapping[str, FeatureSet]) -> dict[str, list[Failure]]:
    """Return which utterances have no frames, by feature set; none where nothing failed."""
    found = {}
    for name, one in sets.items():
        try:
            failures = [
                failure for failure in Ledger(one.folder).failures.values() if failure.utterance not in one
            ]
        except CacheError:
            continue
        if failures:
            found[name] = failures
    return found


def troubles_section(facts: Facts, failures: Mapping[str, list[Failure]]) -> Section:
    """Show failures and warnings, or say that there are none."""
    blocks: list[Block] = [Prose(warning, is_note=True) for warning in facts.warnings]
    every = [(name, failure) for name, own in failures.items() for failure in own]
    if every:
        blocks.append(
            Table(
                f"{len(every):,} failures" + (f", the first {_SHOWN}" if len(every) > _SHOWN else ""),
                ("utterance", "feature set", "stage", "attempts", "what happened"),
                tuple(
                    (
                        Cell(shown(failure.utterance, 80)),
                        Cell(shown(name, 40)),
                        Cell(failure.stage),
                        count(failure.attempts),
                        Cell(shown(failure.message, 200)),
                    )
                    for name, failure in every[:_SHOWN]
                ),
            )
        )
    lead = "Nothing failed, and nothing was odd."
    if every or facts.warnings:
        lead = f"{len(every):,} utterances lack features; {len(facts.warnings)} warnings."
    return Section("troubles", "Warnings", lead, blocks)
