import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from sercache.cache.store import Cache
from sercache.cli.main import app
from sercache.corpus import Corpus, Utterance
from sercache.corpus.manifest import write_corpus
from sercache.errors import CacheError
from support.command_line import invoke


@pytest.fixture
def cache(tmp_path):
    rows = []
    for number in range(3):
        noise = np.random.default_rng(number).normal(size=8_000) / 9
        soundfile.write(tmp_path / f"{number}.wav", noise.clip(-1, 1), 16_000)
        rows.append(Utterance(id=f"clip {number}", audio=f"{number}.wav", text="yes", votes=(1.0,)))
    write_corpus(Corpus(("Angry",), (), tuple(rows), tmp_path), tmp_path / "corpus.csv")
    encoders = ("--encoder", "logmel", "--encoder", "char-ngrams")
    invoke("extract", tmp_path / "corpus.csv", "--cache", tmp_path / "cache", *encoders)
    return tmp_path / "cache"


def run(*arguments):
    return CliRunner().invoke(app, ["cache", *map(str, arguments)])


def test_ls_lists_every_feature_set(cache):
    shown = run("ls", cache).output
    for feature_set in Cache(cache).feature_sets():
        assert feature_set.spec.encoder in shown
        assert feature_set.spec.fingerprint[:12] in shown


def test_info_tells_what_the_fingerprint_covers(cache):
    (folder,) = cache.glob("logmel-*")
    shown = run("info", folder).output
    for word in (
        "window_seconds",
        "sample_rate_hz",
        "float16",
        "in 1 shards",
        Cache(cache).feature_sets()[1].spec.fingerprint,
    ):
        assert word in shown
    assert "char-ngrams" not in shown
    assert "char-ngrams" in run("info", cache).output


def test_verify_is_content_with_a_sound_cache(cache, tmp_path):
    assert "every checksum fits: 6 utterances in 2 feature sets" in run("verify", cache).output
    done = run("verify", cache, "--sources", tmp_path / "corpus.csv")
    assert done.exit_code == 0
    assert "every source fits" in done.output


def test_verify_names_what_rotted(cache):
    (path,) = cache.glob("logmel-*/shard-*.h5")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    done = run("verify", cache)
    assert isinstance(done.exception, CacheError)
    assert "1 findings" in str(done.exception)
    assert "its frames are not what was written" in done.output


def test_verify_names_sources_that_changed(cache, tmp_path):
    (tmp_path / "1.wav").write_bytes((tmp_path / "0.wav").read_bytes())
    done = run("verify", cache, "--sources", tmp_path / "corpus.csv")
    assert isinstance(done.exception, CacheError)
    assert "clip 1: its audio has changed" in done.output


@pytest.mark.parametrize("command", ["ls", "info", "verify"])
def test_what_is_no_cache_is_one_clear_line(tmp_path, command):
    done = run(command, tmp_path / "nowhere")
    assert isinstance(done.exception, CacheError)
    assert "neither a cache nor a feature set" in str(done.exception)
