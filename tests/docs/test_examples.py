"""The examples under docs/examples do what the pages say, on a small corpus."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import open_cache
import predict_with_bundle
import stack_predictions
import train_head

from sercache.bundle.clips import ClipPrediction, FailedClip
from sercache.bundle.export import export_bundle
from sercache.run import Run
from support.processes import environment
from support.small_corpus import CLASSES, lay_out_corpus, lay_out_recipe, write_feature_set

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"


def test_a_cache_opens_as_numpy_and_torch(finished, capsys):
    open_cache.main(finished / "cache")
    printed = capsys.readouterr().out
    assert "logmel-" in printed
    assert "torch.float16" in printed
    assert "36 utterances" in printed


def test_bfloat16_is_told_apart_from_whole_numbers(tmp_path, capsys):
    write_feature_set(tmp_path / "cache", "bfloat16")
    open_cache.main(tmp_path / "cache")
    printed = capsys.readouterr().out
    assert "uint16" in printed
    assert "torch.bfloat16" in printed


def test_a_head_learns_from_the_cache(finished):
    assert train_head.main(finished / "recipe.yaml", epochs=8) > 1 / len(CLASSES)


def test_predictions_are_stacked(tmp_path, capsys):
    corpus = lay_out_corpus(tmp_path, splits=("development",) * 3 + ("test",) * 3)
    generator = np.random.default_rng(1)
    files = []
    for name in ("a", "b"):
        truth = corpus.votes / corpus.votes.sum(axis=1, keepdims=True)
        probabilities = truth + generator.uniform(0, 0.8, truth.shape)
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        lines = [",".join(["id", *CLASSES])]
        lines += [
            f"{utterance_id},{','.join(map(str, row))}"
            for utterance_id, row in zip(corpus.ids, probabilities.tolist(), strict=True)
        ]
        files.append(tmp_path / f"{name}.csv")
        files[-1].write_text("\n".join(lines) + "\n")
    comparison = stack_predictions.main(tmp_path / "corpus.csv", tmp_path / "stacked", files)
    assert comparison.scored_on == "held-out"
    assert comparison.choice in capsys.readouterr().out


def test_a_bundle_predicts_and_says_what_it_cannot(finished, tmp_path):
    export_bundle(Run(finished / "run"), tmp_path / "bundle", stacker="best-single")
    heard = predict_with_bundle.main(tmp_path / "bundle", finished / "s0-0.wav", "never again")
    assert isinstance(heard, ClipPrediction)
    assert set(heard.probabilities) == set(CLASSES)
    (tmp_path / "bad.wav").write_bytes(b"no sound")
    assert isinstance(predict_with_bundle.main(tmp_path / "bundle", tmp_path / "bad.wav"), FailedClip)


def test_an_encoder_a_head_and_a_stacker_of_another_package_are_found_by_name(tmp_path):
    package = tmp_path / "emotion_extras-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: emotion-extras\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(
        "[sercache.encoders]\nloudness = loudness_encoder:LoudnessEncoder\n"
        "[sercache.heads]\npeaks = peaks_head:Peaks\n"
        "[sercache.stackers]\nmedian-vote = median_vote:MedianVote\n"
    )
    lay_out_corpus(tmp_path)
    recipe = lay_out_recipe(
        tmp_path,
        features={"level": {"encoder": "loudness"}, "words": {"encoder": "char-ngrams"}},
        members=[
            {"name": "peaks", "head": "peaks", "features": ["level", "words"], "options": {"width": 8}},
            {"name": "linear", "head": "mean-linear", "features": ["level"]},
        ],
        stacking={"stackers": ["median-vote", "soft-vote"], "bootstrap_samples": 100, "repeats": 1},
    )
    code = (
        "import sys, pathlib, run_recipe; from sercache.stacking.registry import load_stacker;"
        "run = run_recipe.main(pathlib.Path(sys.argv[1]), workers=1);"
        "print(type(load_stacker(run.stacker_folder('median-vote'))).__name__)"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code, str(recipe)],
        env=environment(tmp_path, EXAMPLES),
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert "peaks: macro-F1" in finished.stdout
    assert "MedianVote" in finished.stdout
    assert any(path.name.startswith("loudness-") for path in (tmp_path / "cache").iterdir())
