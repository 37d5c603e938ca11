"""Fine-tuning on a corpus with attributes and no classes."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import yaml

from sercache.corpus import Attribute
from sercache.corpus.manifest import read_corpus, write_corpus
from sercache.posteriors import Posteriors
from sercache.recipe import load_recipe
from sercache.training.ensemble import train_ensemble
from support.simulated_attributes import without_classes


def test_encoders_are_trained_for_attributes_and_judged_by_mean_ccc(trained, tmp_path):
    corpus = read_corpus(trained.parent / "corpus.csv")
    rated = tuple(
        replace(row, attributes=(2.0 + 4.0 * (original.votes[0] > 1.0),))
        for row, original in zip(without_classes(corpus).utterances, corpus.utterances, strict=True)
    )
    alone = replace(corpus, classes=(), attributes=(Attribute("arousal", 1, 7),), utterances=rated)
    write_corpus(alone, tmp_path / "corpus.csv")
    content = yaml.safe_load((trained.parent / "recipe.yaml").read_text())
    content |= {"cache": str(trained.parent / "cache"), "members": content["members"][:1]}
    content["finetuning"]["stage2"]["epochs"] = 0
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
    run = train_ensemble(load_recipe(tmp_path / "recipe.yaml"), device="cpu", workers=1).run
    done = subprocess.run(
        [sys.executable, "-m", "sercache.cli.main", "finetune", str(run.root), "-m", "fusion", "-f", "wavlm",
         "--lora", "2", "--device", "cpu"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "as it starts: mean CCC " in done.stderr
    assert done.stdout.split()[:4] == ["member", "rows", "mean", "CCC"]
    posteriors = Posteriors.load(run.posteriors_path("fusion-finetuned"))
    assert posteriors.classes == ()
    assert np.isfinite(posteriors.attribute_values).all()
