"""A corpus and members with known faults, as tables and as run folders."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sercache.corpus import Attribute, Corpus, Utterance
from sercache.corpus.folds import FoldMap, assign_folds
from sercache.corpus.manifest import write_corpus
from sercache.posteriors import ALL_FOLDS, Posteriors
from sercache.recipe import Recipe, dump_recipe
from sercache.run import Run
from sercache.stacking.joining import join
from sercache.stacking.rows import StackingRows

CLASSES = ("Angry", "Sad", "Happy", "Neutral")
AROUSAL = Attribute("arousal", 1.0, 7.0)


@dataclass
class Simulation:
    """A corpus, its folds, and posteriors of its members."""

    corpus: Corpus
    fold_map: FoldMap
    tables: list[Posteriors]

    def rows(self, **options) -> StackingRows:
        return join(self.tables, self.corpus, **options)

    def run(self, folder: Path, **stacking) -> Run:
        """Lay everything out as train-ensemble would have."""
        run = Run(folder / "run")
        write_corpus(self.corpus, folder / "corpus.csv")
        recipe = Recipe.model_validate(
            {
                "corpus": str(folder / "corpus.csv"),
                "output": str(run.root),
                "features": {"logmel": {"encoder": "logmel"}},
                "members": [{"name": table.member, "features": ["logmel"]} for table in self.tables],
                "stacking": stacking,
            }
        )
        run.root.mkdir(parents=True)
        run.recipe_path.write_text(dump_recipe(recipe))
        self.fold_map.save(run.folds_path)
        for table in self.tables:
            table.save(run.posteriors_path(table.member))
        return run


def simulate(
    seed: int = 0,
    speakers: int = 12,
    rows: int = 25,
    members: int = 3,
    raters: int = 6,
    bias: float = 0.0,
    noise: float = 1.0,
    skill: float = 1.5,
    attributes: bool = True,
    test_speakers: int = 0,
    folds: int = 4,
) -> Simulation:
    """Make members whose logits are ``skill`` x truth + ``bias`` towards one class each + noise."""
    rng = np.random.default_rng(seed)
    count = speakers * rows
    truth = rng.integers(0, len(CLASSES), count)
    agreement = 0.12 + 0.52 * np.eye(len(CLASSES))[truth]
    votes = rng.multinomial(raters, agreement)
    arousal = np.clip(2 + truth + rng.normal(0, 0.5, count), 1, 7)
    utterances = tuple(
        Utterance(
            id=f"u{row:05d}",
            audio=f"u{row:05d}.wav",
            speaker=f"s{row // rows:03d}",
            split="test" if row // rows >= speakers - test_speakers else "train",
            votes=tuple(float(vote) for vote in votes[row]),
            attributes=(float(arousal[row]),) if attributes else (),
        )
        for row in range(count)
    )
    corpus = Corpus(CLASSES, (AROUSAL,) if attributes else (), utterances, Path())
    train = [utterance.id for utterance in utterances if utterance.split == "train"]
    fold_map = assign_folds(corpus.select(train), folds, seed=0)
    tables = []
    for member in range(members):
        logits = skill * np.eye(len(CLASSES))[truth] + noise * rng.normal(size=(count, len(CLASSES)))
        logits[:, member % len(CLASSES)] += bias
        powers = np.exp(logits)
        values = np.clip(arousal + rng.normal(0, 1, count), 1, 7)[:, None]
        tables.append(
            Posteriors(
                member=f"m{member}",
                ids=corpus.ids,
                classes=CLASSES,
                attributes=corpus.attribute_names,
                class_probabilities=powers / powers.sum(axis=1, keepdims=True),
                attribute_values=values if attributes else np.empty((count, 0)),
                folds=np.array([fold_map.folds.get(row, ALL_FOLDS) for row in corpus.ids]),
                origins=np.array(
                    ["out-of-fold" if row in fold_map.folds else "held-out" for row in corpus.ids]
                ),
                fold_map_digest=fold_map.digest,
            )
        )
    return Simulation(corpus, fold_map, tables)
