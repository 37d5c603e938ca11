"""The tools on a cache, as users call them."""

import subprocess
import sys

import numpy as np
import pytest
import soundfile

from sercache.cache.store import Cache
from sercache.corpus import Corpus, Utterance
from sercache.corpus.manifest import write_corpus

MAIN = "from sercache.cli.main import main; main()"


def sercache(*arguments, answer=None):
    command = [sys.executable, "-c", MAIN, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, input=answer, timeout=120)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def cache(tmp_path):
    rows = []
    for number in range(4):
        noise = np.random.default_rng(number).normal(size=8_000) / 9
        soundfile.write(tmp_path / f"{number}.wav", noise.clip(-1, 1), 16_000)
        rows.append(Utterance(id=f"clip {number}", audio=f"{number}.wav", text="so what?"))
    write_corpus(Corpus((), (), tuple(rows), tmp_path), tmp_path / "corpus.csv")
    write_corpus(Corpus((), (), tuple(rows[:2]), tmp_path), tmp_path / "half.csv")
    code, _, errors = sercache(
        "extract", tmp_path / "corpus.csv", "--cache", tmp_path / "cache", "--encoder", "logmel",
        "--encoder", "char-ngrams",
    )  # fmt: skip
    assert code == 0, errors
    return tmp_path / "cache"


def test_the_tools_one_after_the_other(cache, tmp_path):
    logmel = next(cache.glob("logmel-*"))
    code, shown, _ = sercache("cache", "du", cache)
    assert code == 0
    assert "in all" in shown
    (path,) = logmel.glob("shard-*.h5")
    intact = path.read_bytes()
    path.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
    code, _, errors = sercache("cache", "verify", cache)
    assert (code, errors.count("\n")) == (2, 1)
    assert "sercache cache repair" in errors
    code, shown, _ = sercache("cache", "repair", cache, tmp_path / "corpus.csv")
    assert code == 0
    assert "1 findings, 1 extracted again" in shown
    assert sercache("cache", "verify", cache)[0] == 0
    code, shown, _ = sercache("cache", "merge", tmp_path / "all", cache)
    assert code == 0
    assert "4 utterances added, 0 were there, 4 now" in shown
    code, shown, _ = sercache("cache", "export", logmel, tmp_path / "npy")
    assert code == 0
    assert "4 utterances in 4 files" in shown
    code, shown, _ = sercache(
        "cache", "import", tmp_path / "npy", tmp_path / "back", "--corpus", tmp_path / "corpus.csv",
        "--encoder", "mine",
    )  # fmt: skip
    assert code == 0
    assert "4 utterances" in shown


def test_prune_says_what_goes_and_asks(cache, tmp_path):
    code, shown, _ = sercache("cache", "prune", cache, "--keep-corpus", tmp_path / "half.csv", "--dry-run")
    assert code == 0
    assert "drops 2 utterances" in shown
    assert [len(feature_set) for feature_set in Cache(cache).feature_sets()] == [4, 4]
    code, *_ = sercache("cache", "prune", cache, "--keep-corpus", tmp_path / "half.csv", answer="n\n")
    assert code == 1
    assert [len(feature_set) for feature_set in Cache(cache).feature_sets()] == [4, 4]
    code, *_ = sercache("cache", "prune", cache, "--keep-corpus", tmp_path / "half.csv", "--yes")
    assert code == 0
    assert [len(feature_set) for feature_set in Cache(cache).feature_sets()] == [2, 2]
    code, shown, _ = sercache("cache", "prune", cache, "--encoder", "logmel", "--yes")
    assert "is removed, frees" in shown
    assert [feature_set.spec.encoder for feature_set in Cache(cache).feature_sets()] == ["char-ngrams"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prune", "CACHE"], "what is to go?"),
        (["prune", "CACHE", "--encoder", "wavlm"], "no feature set is of that encoder"),
        (["prune", "CACHE", "--keep-layers", "9"], "there is no layer 9"),
        (["export", "CACHE", "out"], "holds 2 feature sets, name one of them"),
        (["merge", "all", "nowhere"], "holds no feature sets"),
        (["repair", "CACHE", "nowhere.csv"], "nowhere.csv"),
        (["du", "nowhere"], "neither a cache nor a feature set"),
    ],
)
def test_bad_requests_are_one_line(cache, tmp_path, arguments, message):
    places = {
        "CACHE": cache,
        "nowhere": tmp_path / "nowhere",
        "all": tmp_path / "all",
        "out": tmp_path / "out",
    }
    code, _, errors = sercache("cache", *(places.get(word, word) for word in arguments))
    assert code == 2
    assert message in errors
    assert errors.count("\n") == 1
