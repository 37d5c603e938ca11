"""The errors that sercache raises.

A message says what is wrong, where (file, line, id, key) and what to do about it, in one line: the command
line prints it as it is and exits with code 2.
"""

import difflib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


class SercacheError(Exception):
    """Base of all errors that a user can correct.

    ``is_reported``: listeners have been told of it already.
    """

    is_reported = False


class CorpusError(SercacheError):
    """A manifest, a label file or a corpus folder is not what it should be."""


class AudioError(SercacheError):
    """A recording cannot be decoded into a usable waveform."""


class SilentAudioError(AudioError):
    """A recording holds no sound at all."""


class EncoderError(SercacheError):
    """An encoder cannot be loaded or gives unusable frames."""


class CacheError(SercacheError):
    """A feature set is missing, damaged, or of another setting than the one asked for."""


class RecipeError(SercacheError):
    """A recipe is not valid YAML, has an unknown key, or names something that does not exist."""


class TrainingError(SercacheError):
    """A member cannot be trained on the rows it was given."""


class StackingError(SercacheError):
    """The members' posteriors do not fit together, or may not be used."""


class ReportError(SercacheError):
    """A report cannot be made of a run, or runs cannot be compared."""


class BundleError(SercacheError):
    """A bundle is damaged or of a format that this version does not read."""


class ServingError(SercacheError):
    """A bundle cannot be served, or a request cannot be answered now."""


class ExportError(SercacheError):
    """A network cannot be written for other programs, or what was written does not agree with it."""


class ProcessDied(SercacheError):
    """A worker process was killed or ran out of memory; the same command tries its task again."""


class Interrupted(SercacheError):
    """The user asked to stop; what is finished is on disk, and the same command goes on from there."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'Happy'?`` for the known word nearest to ``word``, or the empty string.

    >>> did_you_mean("Hapy", ["Angry", "Happy"])
    " Did you mean 'Happy'?"
    """
    nearest = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean '{nearest[0]}'?" if nearest else ""


def not_there(path: Path) -> str:
    """Return ``corpus.cvs does not exist``, with the name that is nearest to it in its folder, if one is.

    For a name without a suffix folders are looked at, else files.
    """
    with suppress(OSError):
        beside = [sibling.name for sibling in path.parent.iterdir() if sibling.is_dir() == (not path.suffix)]
        if near := did_you_mean(path.name, beside):
            return f"{path} does not exist.{near}"
    return f"{path} does not exist"
