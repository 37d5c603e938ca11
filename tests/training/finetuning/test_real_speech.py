"""Fine-tuning a tiny encoder of a real class on real recordings (EMO-DB)."""

import dataclasses
import math

import pytest
import torch
import yaml

from sercache.corpus.manifest import write_corpus
from sercache.corpus.readers.emodb import read_emodb
from sercache.errors import Interrupted
from sercache.events import Context
from sercache.extract.extraction import extract
from sercache.recipe import load_recipe
from sercache.run import Run
from sercache.training.checkpoint import load_tensors
from sercache.training.ensemble import train_ensemble
from sercache.training.finetuning.finetune import finetune_member
from sercache.training.finetuning.fold import overlay_name

CLASSES = ("anger", "sadness")


@pytest.fixture
def emodb_run(shared_data, tmp_path, checkpoint):
    corpus = read_emodb(shared_data / "emodb", {})
    rows = [row for row in corpus.utterances if row.votes[0] or row.votes[CORPUS_SADNESS]][::4]
    rows = [dataclasses.replace(row, audio=str(corpus.audio_path(row))) for row in rows]
    small = dataclasses.replace(corpus, utterances=tuple(rows), root=tmp_path).with_classes(CLASSES)
    write_corpus(small, tmp_path / "corpus.csv")
    recipe = {
        "corpus": "corpus.csv",
        "output": "run",
        "features": {"speech": {"encoder": str(checkpoint("wavlm+layer")), "precision": "float32"}},
        "folds": {"count": 2, "inner_share": 0.3},
        "training": {
            "batch_size": 8,
            "stage1": {"epochs": 3, "learning_rate": 0.003},
            "stage2": {"epochs": 0},
            "mixup": {"probability": 0.0},
        },
        "members": [{"name": "linear", "head": "mean-linear", "features": ["speech"]}],
        "finetuning": {
            "batch_size": 16,
            "max_seconds": 1.5,
            "stage1": {"epochs": 5, "encoder_learning_rate": 3e-3, "head_learning_rate": 3e-3},
            "stage2": {"epochs": 0},
            "patience": 9,
            "checkpoint_minutes": 1e-9,
        },
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    loaded = load_recipe(tmp_path / "recipe.yaml")
    extract(small, loaded.features, loaded.cache, devices=("cpu",))
    train_ensemble(loaded, device="cpu", workers=1)
    return Run(loaded.output)


CORPUS_SADNESS = 5


def test_loss_falls_and_a_stopped_run_ends_like_a_whole_one(emodb_run, alone):
    whole = finetune_member(emodb_run, "linear", alone, name="whole")
    for fold in range(2):
        history = (emodb_run.fold_folder("whole", fold) / "history.csv").read_text().splitlines()
        losses = [float(line.split(",")[3]) for line in history[1:]]
        assert math.isnan(losses[0])
        assert losses[-1] < 0.95 * losses[1]
    assert whole.after.rows == whole.before.rows > 30
    assert 0 <= whole.after.macro_f1 <= 1
    calls = iter(range(9))
    with pytest.raises(Interrupted):
        finetune_member(
            emodb_run,
            "linear",
            alone,
            name="pieces",
            context=Context(should_stop=lambda: next(calls, None) is None),
        )
    pieces = finetune_member(emodb_run, "linear", alone, name="pieces")
    assert pieces.before == whole.before
    for fold in range(2):
        for name in ("weights.safetensors", overlay_name("speech")):
            expected, other = (
                load_tensors(emodb_run.fold_folder(member, fold) / name)[0] for member in ("whole", "pieces")
            )
            assert [key for key in expected if not torch.equal(expected[key], other[key])] == []
