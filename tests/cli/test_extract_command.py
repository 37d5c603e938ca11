import subprocess
import sys

import numpy as np
import pytest
import soundfile

from sercache.cache.store import Cache
from sercache.corpus import Corpus, Utterance
from sercache.corpus.manifest import write_corpus
from sercache.errors import CacheError, CorpusError, EncoderError, RecipeError, SercacheError
from sercache.recipe import FeatureRecipe
from support.command_line import invoke

LOGMEL = ("extract", "--encoder", "logmel")
RECIPE = """
corpus: corpus.csv
output: run
features:
  sound: {encoder: logmel, time_pool: 2}
  words: {encoder: char-ngrams}
members:
  - {name: m, features: [sound, words]}
"""


@pytest.fixture
def manifest(tmp_path):
    rows = []
    for number in range(4):
        noise = np.random.default_rng(number).normal(size=8_000) / 9
        soundfile.write(tmp_path / f"{number}.wav", noise.clip(-1, 1), 16_000)
        rows.append(Utterance(id=f"clip {number}", audio=f"{number}.wav", text="so what?", votes=(1.0, 0.0)))
    path = tmp_path / "corpus.csv"
    write_corpus(Corpus(("Angry", "Happy"), (), tuple(rows), tmp_path), path)
    return path


def test_a_recipe_extracts_its_feature_sets_and_says_what_is_next(manifest):
    recipe = manifest.with_name("recipe.yaml")
    recipe.write_text(RECIPE)
    shown = invoke("extract", recipe).stdout
    assert "sound" in shown
    assert f"Next: sercache train-ensemble {recipe}" in shown.replace("\n", "")
    cache = Cache(manifest.parent / "cache")
    assert len(cache.find(FeatureRecipe(encoder="logmel", time_pool=2))) == 4
    assert len(cache.find(FeatureRecipe(encoder="char-ngrams"))) == 4


def test_a_corpus_extracts_the_encoders_it_is_given(manifest, tmp_path):
    encoders = ("--encoder", "logmel", "--encoder", "char-ngrams:last")
    shown = invoke("extract", manifest, "--cache", tmp_path / "c", *encoders, "--dtype", "float32").stdout
    assert [feature_set.spec.encoder for feature_set in Cache(tmp_path / "c").feature_sets()] == [
        "char-ngrams",
        "logmel",
    ]
    assert {feature_set.spec.dtype for feature_set in Cache(tmp_path / "c").feature_sets()} == {"float32"}
    assert f"Next: sercache init {manifest} --cache {tmp_path / 'c'}" in shown


def test_failures_are_in_the_summary(manifest, tmp_path):
    (tmp_path / "2.wav").write_text("these are notes")
    shown = " ".join(invoke(*LOGMEL, manifest, "--cache", tmp_path / "c").stdout.split())
    assert "1 utterances have no features" in shown
    assert "failures.csv" in shown


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ([], RecipeError, "a corpus needs --cache FOLDER and --encoder NAME"),
        (["--encoder", "logmel"], RecipeError, "a corpus needs --cache"),
        (["--cache", "c", "--encoder", "logmle"], EncoderError, "Did you mean 'logmel'"),
        (["--cache", "c", "--encoder", "logmel:12"], EncoderError, "there is no layer 12"),
        (
            ["--cache", "c", "--encoder", "logmel", "--dtype", "int8"],
            RecipeError,
            "--dtype: must be auto, float16, ",
        ),
        (["--cache", "c", "--encoder", "logmel", "--check-clips", "8"], SercacheError, "goes with --check"),
    ],
)
def test_wrong_options_are_one_clear_line(manifest, tmp_path, monkeypatch, options, error, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message) as caught:
        invoke("extract", manifest, *options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options", [("--time-pool", 3), ("--time-pool", 1), ("--dtype", "auto"), ("--encoder", "logmel")]
)
def test_options_of_an_encoder_do_not_go_with_a_recipe(manifest, options):
    recipe = manifest.with_name("recipe.yaml")
    recipe.write_text(RECIPE)
    with pytest.raises(RecipeError, match=f"{options[0]} goes with a corpus"):
        invoke("extract", recipe, *options)


def test_an_absent_corpus_is_one_clear_line(tmp_path):
    with pytest.raises(CorpusError, match=r"nowhere\.csv"):
        invoke(*LOGMEL, tmp_path / "nowhere.csv", "--cache", tmp_path / "c")


def test_too_many_failures_stop(manifest, tmp_path):
    (tmp_path / "2.wav").unlink()
    with pytest.raises(SercacheError, match="1 of 4 utterances failed, at most 0 may"):
        invoke(*LOGMEL, manifest, "--cache", tmp_path / "c", "--max-failures", 0)


def test_changed_audio_needs_consent(manifest, tmp_path):
    invoke(*LOGMEL, manifest, "--cache", tmp_path / "c")
    (tmp_path / "1.wav").write_bytes((tmp_path / "0.wav").read_bytes() + b"\0\0")
    with pytest.raises(CacheError, match="first 'clip 1'"):
        invoke(*LOGMEL, manifest, "--cache", tmp_path / "c")
    invoke(*LOGMEL, manifest, "--cache", tmp_path / "c", "--replace-changed")


def test_embedded_encoders_need_neither_torch_nor_transformers(manifest, tmp_path):
    code = (
        "import sys; from sercache.cli.main import app;"
        "app(['extract', sys.argv[1], '--cache', sys.argv[2], '--encoder', 'logmel', '--encoder', "
        "'char-ngrams'], standalone_mode=False);"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, str(manifest), str(tmp_path / "c")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_a_dry_run_shows_the_cost_and_writes_nothing(manifest, tmp_path):
    shown = invoke(*LOGMEL, manifest, "--cache", tmp_path / "c", "--dry-run").stdout
    assert "to extract" in shown
    assert "GB with other choices: float32" in shown
    assert "are free at" in shown
    assert not (tmp_path / "c").exists()


def test_a_check_shows_the_largest_errors(manifest, tmp_path):
    shown = invoke(*LOGMEL, manifest, "--cache", tmp_path / "c", "--check", "--check-clips", 3).stdout
    assert "float32: in a batch, alone" in shown
    assert not (tmp_path / "c").exists()
