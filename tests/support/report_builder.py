"""Stacked runs for reports: simulated members, with texts, recordings, genders and hostile names."""

from dataclasses import replace

import numpy as np
import soundfile

from sercache.corpus.folds import assign_folds
from sercache.reporting.facts import read_facts
from sercache.stacking.comparison import compare
from support.simulated_members import simulate

FAST = {"stackers": ["hard-vote", "logistic"], "repeats": 2, "bootstrap_samples": 200}
HOSTILE = (
    '<script>alert("id")</script>',
    "\"'><img src=x onerror=alert(1)>",
    "&lt;b&gt; {{ 7 * 7 }} {% raw %}",
    "\u202egnp.exe\u202c right to left",
    "x" * 3000,
    "</svg><style>*{display:none}</style>",
    "javascript:alert(1)",
    "line\nbreak\ttab \u0007bell",
)


def with_extras(simulation, folder=None):
    """Every row gets a gender and a text, and a short recording if there is a folder for them."""
    rows = []
    for place, row in enumerate(simulation.corpus.utterances):
        audio = None
        if folder is not None:
            audio = f"audio #1/{place}.wav"
            path = folder / audio
            path.parent.mkdir(parents=True, exist_ok=True)
            if place < 40:
                tone = np.sin(np.arange(3200) / 8) / 4
                soundfile.write(path, tone, 16000)
        rows.append(
            replace(
                row,
                audio=audio,
                text=f"words {place}",
                extras={"gender": "fm"[int(row.speaker[1:]) % 2], "seconds": str(1 + place % 7)},
            )
        )
    corpus = replace(simulation.corpus, utterances=tuple(rows), root=folder or simulation.corpus.root)
    return replace(simulation, corpus=corpus)


def renamed(simulation, names):
    """The first rows get other ids, texts and speakers."""
    new_of = dict(zip(simulation.corpus.ids, names, strict=False))
    rows = tuple(
        replace(row, id=new_of[row.id], text=new_of[row.id]) if row.id in new_of else row
        for row in simulation.corpus.utterances
    )
    return refolded(
        replace(
            simulation,
            corpus=replace(simulation.corpus, utterances=rows),
            tables=[
                replace(
                    table, ids=tuple(new_of.get(utterance_id, utterance_id) for utterance_id in table.ids)
                )
                for table in simulation.tables
            ],
        )
    )


def refolded(simulation):
    """The folds are assigned anew, after ids or speakers have changed."""
    fold_map = assign_folds(simulation.corpus, 4, seed=0)
    tables = [
        replace(table, folds=fold_map.of(table.ids), fold_map_digest=fold_map.digest)
        for table in simulation.tables
    ]
    return replace(simulation, fold_map=fold_map, tables=tables)


def changed_rows(simulation, change):
    """Every row is changed by ``change(place, row)``."""
    rows = tuple(change(place, row) for place, row in enumerate(simulation.corpus.utterances))
    return replace(simulation, corpus=replace(simulation.corpus, utterances=rows))


def stacked(folder, simulation, **stacking):
    """Lay a run out and stack it."""
    run = simulation.run(folder, **(FAST | stacking))
    compare(run)
    return run


def facts_of(folder, simulation=None, **stacking):
    return read_facts(stacked(folder, simulation or with_extras(simulate()), **stacking))
