"""Which files of predictions were stacked in a folder, so that they can be read again."""

from dataclasses import dataclass
from pathlib import Path

from sercache.corpus.manifest import read_corpus
from sercache.errors import StackingError
from sercache.events import Listener, ignore
from sercache.files import read_json, write_json
from sercache.predictions.members import rows_of_predictions
from sercache.run import Run
from sercache.stacking.rows import StackingRows


@dataclass(frozen=True, slots=True)
class Sources:
    """What was stacked.

    Attributes:
        paths: a file per member.
        labels: the manifest with the truth.
        are_out_of_fold: no model saw the speakers whose training rows it predicts.
        seed: of everything random.
    """

    paths: tuple[Path, ...]
    labels: Path
    are_out_of_fold: bool
    seed: int


def rows_of_sources(sources: Sources, *, listener: Listener = ignore) -> StackingRows:
    """Read the files and join them; see :func:`~sercache.predictions.members.rows_of_predictions`.

    Raises:
        StackingError, CorpusError: a file or the manifest is gone or wrong.
    """
    return rows_of_predictions(
        sources.paths,
        read_corpus(sources.labels),
        are_out_of_fold=sources.are_out_of_fold,
        seed=sources.seed,
        listener=listener,
    )


def save_sources(run: Run, sources: Sources) -> None:
    """Note in a folder what is stacked there."""
    write_json(
        run.sources_path,
        {
            "predictions": [str(path.resolve()) for path in sources.paths],
            "labels": str(sources.labels.resolve()),
            "are_out_of_fold": sources.are_out_of_fold,
            "seed": sources.seed,
        },
    )


def load_sources(run: Run) -> Sources:
    """Return what was stacked in a folder.

    Raises:
        StackingError: the folder does not say.
    """
    try:
        found = read_json(run.sources_path)
        return Sources(
            tuple(Path(path) for path in found["predictions"]),
            Path(found["labels"]),
            bool(found["are_out_of_fold"]),
            int(found["seed"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StackingError(
            f"{run.sources_path} does not tell which predictions were stacked ({error}); "
            "sercache stack --predictions writes it"
        ) from error
