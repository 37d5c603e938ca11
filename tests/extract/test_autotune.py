"""What is measured before a feature set begins, and that it decides once."""

import time
from dataclasses import replace

import numpy as np
import pytest

from sercache.cache.sources import Source
from sercache.cache.store import Cache
from sercache.corpus import Utterance
from sercache.extract import autotune as autotune_module
from sercache.extract.autotune import autotune, clips_to_time
from sercache.extract.encode import EncoderInput
from sercache.extract.extraction import extract
from sercache.extract.resolve import resolve_feature
from sercache.recipe import FeatureRecipe
from support.tiny_encoder import RATE_HZ, TinyEncoder


class Slow(TinyEncoder):
    """A staged encoder that takes the time it is told to, per clip alone and per batch."""

    parameter_count = 100_000_000
    can_be_padded = True

    def __init__(self, seconds_alone, seconds_batch, error=0.0, precision="float32"):
        super().__init__(options={"precision": precision})
        self.batch_limit = 0.0
        self.seconds = {False: seconds_alone, True: seconds_batch}
        self.error = error

    def batch_cost(self, inputs):
        return float(len(inputs) * max(map(len, inputs)))

    def prepare(self, item):
        return item

    def begin(self, prepared):
        frames = self.encode(prepared)
        return lambda: frames

    def encode(self, inputs):
        time.sleep(self.seconds[self.batch_limit > 0] * (1 if self.batch_limit else len(inputs)))
        return [frames * (1 + self.error) for frames in super().encode(inputs)]


def clip(name, seconds):
    waveform = np.random.default_rng(len(name)).normal(size=round(seconds * RATE_HZ)).astype(np.float32)
    return EncoderInput(Utterance(id=name), waveform, seconds, Source("0" * 32, 1))


CLIPS = [clip("a", 1.0), clip("bb", 2.0), clip("ccc", 1.5)]


def choose(plain, coarse):
    chosen = autotune(lambda precision: coarse, plain, CLIPS, ["float32", "bfloat16"])
    assert chosen is not None
    found, encoder = chosen
    assert encoder is (plain if found.precision == "float32" else coarse)
    assert encoder.batch_limit == found.batch_limit
    return found.precision, found.batch_limit > 0


@pytest.mark.parametrize(
    ("plain", "coarse", "wanted"),
    [
        (Slow(0.03, 0.09), Slow(0.01, 0.03), ("bfloat16", False)),
        (Slow(0.03, 0.09), Slow(0.01, 0.006), ("bfloat16", True)),
        (Slow(0.01, 0.03), Slow(0.03, 0.09), ("float32", False)),
        (Slow(0.03, 0.02), Slow(0.03, 0.09), ("float32", True)),
        (Slow(0.03, 0.09), Slow(0.01, 0.03, error=0.02), ("float32", False)),
    ],
    ids=["bfloat16", "bfloat16 in batches", "slow bfloat16", "batches", "wrong bfloat16"],
)
def test_the_fastest_right_setting_is_chosen(plain, coarse, wanted):
    assert choose(plain, coarse) == wanted


def test_small_networks_and_embedded_encoders_are_not_measured():
    small = Slow(0.0, 0.0)
    small.parameter_count = 1000
    assert autotune(lambda precision: small, small, CLIPS, ["float32", "bfloat16"]) is None
    assert autotune(lambda precision: small, TinyEncoder(), CLIPS, ["float32"]) is None
    assert small.calls == []


def test_clips_are_some_and_short():
    rows = [clip("x", 9.0), *(clip(f"{k}", 5.0) for k in range(9))]
    chosen = clips_to_time(rows)
    assert [row.seconds for row in chosen] == [5.0] * 3


def test_of_texts_some_are_enough():
    rows = [
        EncoderInput(Utterance(id=f"{k}"), "so what", float("nan"), Source("0" * 32, 1)) for k in range(40)
    ]
    assert clips_to_time(rows) == rows[:12]


def test_the_choice_is_kept_and_a_later_extraction_goes_by_it(
    make_corpus, use_encoder, tmp_path, monkeypatch
):
    corpus = make_corpus(6)
    encoders = {"float32": Slow(0.01, 0.001), "bfloat16": Slow(0.05, 0.05, precision="bfloat16")}
    for module in ("resolve", "device_pass"):
        monkeypatch.setattr(
            f"sercache.extract.{module}.load_encoder",
            lambda name, layers, *, precision, **options: encoders[precision],
        )
    monkeypatch.setattr("sercache.extract.extraction.check_encoder", lambda *names, **options: None)
    (report,) = extract(corpus, {"tiny": FeatureRecipe(encoder="tiny")}, tmp_path / "cache").features
    kept = (report.folder / autotune_module.AUTOTUNING_NAME).read_text()
    limit = encoders["float32"].batch_limit
    assert limit > 0
    encoders["float32"] = Slow(0.0, 0.0)
    encoders["bfloat16"] = Slow(9e9, 9e9, precision="bfloat16")
    grown = replace(corpus, utterances=corpus.utterances + make_corpus(2, first=6).utterances)
    (again,) = extract(grown, {"tiny": FeatureRecipe(encoder="tiny")}, tmp_path / "cache").features
    assert again.folder == report.folder
    assert encoders["float32"].batch_limit == limit
    assert (report.folder / autotune_module.AUTOTUNING_NAME).read_text() == kept


def test_a_recipe_can_ask_for_one_precision_and_a_kept_one_decides(make_corpus, tmp_path, monkeypatch):
    corpus = make_corpus(3)
    loaded = []

    def load(name, layers, *, precision, **options):
        loaded.append(precision)
        return Slow(0.0, 0.0, precision=precision)

    for module in ("resolve", "device_pass"):
        monkeypatch.setattr(f"sercache.extract.{module}.load_encoder", load)
    monkeypatch.setattr("sercache.extract.extraction.check_encoder", lambda *names, **options: None)
    coarse = FeatureRecipe(encoder="tiny", precision="bfloat16")
    extract(corpus, {"tiny": coarse}, tmp_path)
    assert set(loaded) == {"bfloat16"}
    loaded.clear()
    assert resolve_feature(Cache(tmp_path), FeatureRecipe(encoder="tiny"), corpus, "cpu").autotuning is None
    assert loaded == ["bfloat16"]
