from dataclasses import replace

import numpy as np
import pytest
import soundfile

from sercache.cache.fingerprint import FeatureSpec
from sercache.corpus import Corpus, Utterance
from sercache.errors import EncoderError

RATE_HZ = 16_000


class TinyEncoder:
    """Two columns per 20 ms: mean and peak. Short enough to know every value; its spec can be changed."""

    def __init__(self, *, modality="audio", gain=1.0, refuse=(), **changes):
        self.gain = gain
        self.refuse = refuse
        self.calls = []
        is_audio = modality == "audio"
        spec = FeatureSpec(
            encoder="tiny",
            revision="1",
            modality=modality,
            layers=("last",),
            num_layers=0,
            dim=2,
            frame_rate_hz=50.0 if is_audio else None,
            sample_rate_hz=RATE_HZ if is_audio else None,
            normalization="none",
            library="tests",
        )
        self.spec = replace(spec, **changes)

    def encode(self, inputs):
        self.calls.append(len(inputs))
        return [self._encode(one) for one in inputs]

    def _encode(self, one):
        if isinstance(one, str):
            if one in self.refuse:
                raise EncoderError(f"no token in {one!r}")
            columns = np.array([[len(word), ord(word[0])] for word in one.split()], np.float32)
        else:
            windows = one[: len(one) // 320 * 320].reshape(-1, 320)
            columns = np.stack([windows.mean(axis=1), np.abs(windows).max(axis=1)], axis=1)
        return np.repeat((self.gain * columns)[None], len(self.spec.layers), axis=0).astype(np.float32)


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


def write_wav(path, seconds, seed):
    noise = np.random.default_rng(seed).normal(size=round(seconds * RATE_HZ)) / 8
    soundfile.write(path, noise.clip(-1, 1), RATE_HZ, subtype="PCM_16")


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
