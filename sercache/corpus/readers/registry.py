"""The corpora that ``sercache corpus import`` knows. A new one is a new file and a line here."""

from collections.abc import Callable
from pathlib import Path

from sercache.corpus.readers.sources import ReaderOptions
from sercache.corpus.utterance import Corpus
from sercache.errors import CorpusError
from sercache.registry import Registry

Reader = Callable[[Path, ReaderOptions], Corpus]
"""Takes the folder as its publisher distributes it, and the user's options."""

READERS: Registry[Reader] = Registry(
    "corpus reader",
    {
        "cremad": "sercache.corpus.readers.cremad:read_cremad",
        "csv": "sercache.corpus.readers.plain:read_plain",
        "emobox": "sercache.corpus.readers.emobox:read_emobox",
        "emodb": "sercache.corpus.readers.emodb:read_emodb",
        "emotionlines": "sercache.corpus.readers.emotionlines:read_emotionlines",
        "msp-podcast": "sercache.corpus.readers.msp_podcast:read_msp_podcast",
        "ravdess": "sercache.corpus.readers.ravdess:read_ravdess",
    },
    CorpusError,
)
