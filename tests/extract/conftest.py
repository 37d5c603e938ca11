import pytest

from sercache.corpus import Corpus, Utterance
from support.tiny_encoder import TinyEncoder
from support.tones import write_wav


@pytest.fixture
def tiny():
    return TinyEncoder


@pytest.fixture
def use_encoder(monkeypatch):
    """Let ``extract`` load this encoder, whatever the recipe names."""

    def use(encoder):
        for module in ("resolve", "device_pass", "self_check"):
            monkeypatch.setattr(
                f"sercache.extract.{module}.load_encoder", lambda name, layers, **options: encoder
            )
        monkeypatch.setattr("sercache.extract.extraction.check_encoder", lambda name, layers, **options: None)
        return encoder

    return use


@pytest.fixture
def short_tasks(monkeypatch):
    """Cut the corpus into tasks of three seconds."""
    monkeypatch.setattr("sercache.extract.schedule.TASK_SECONDS", 3.0)


@pytest.fixture
def make_corpus(tmp_path):
    """Write ``count`` recordings of 0.5 to 1 s, with a text each."""

    def make(count, first=0):
        rows = []
        for number in range(first, first + count):
            name = f"clip-{number:03d}"
            write_wav(tmp_path / f"{name}.wav", 0.5 + (number * 37 % 50) / 100, number)
            rows.append(Utterance(id=name, audio=f"{name}.wav", text=f"word {number}"))
        return Corpus((), (), tuple(rows), tmp_path)

    return make
